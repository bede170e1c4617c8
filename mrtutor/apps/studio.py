"""The studio: draw edges and a tumour by hand, and watch four synthetic MR pictures follow; not for diagnosis.

`Studio()` in the last line of a cell shows it, and Voilà serves the same object as a page. The page is `studio.js`: one
module, nothing from outside. It sends the edge map while the hand moves. A thread draws it in a few steps, and when the
hand rests again with all steps. The newest request wins: one that waits is dropped, and a long one stops.

A message is a dict with "kind", and buffers: see `Studio._heard` for what comes, `Studio._say` for what goes.
"""

import html
import io
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets
from PIL import Image

from mrtutor.data.cohort import Cohort
from mrtutor.data.export import NOTICE, save_nifti_slice, save_png
from mrtutor.data.structure import SIZE, Ellipse, canny, compose_structure, validate_structure, without_tumour
from mrtutor.vocabulary import IDH, PARTS, Findings, Modality, modalities_in, spellings

if TYPE_CHECKING:
    from mrtutor.pipeline.pipeline import MRPipeline

MOST_MB = 64  # of an upload, all files together; the page sends it in pieces
KEPT = 24  # drawings that can still be downloaded
_NAMES = sorted((name for m in Modality for name in spellings(m)), key=len, reverse=True)
_NAME = "|".join(re.sub(r"\\[ -]", "[ -]", re.escape(name)) for name in _NAMES)  # a hyphen is a space
_MODALITY = re.compile(rf"(?<![\w+-])(?i:{_NAME})(?![\w+-])")


def four_sentences(text: str) -> dict[Modality, str]:
    """One sentence per modality: the modality word of `text` replaced by each of the four (ValueError: not one)."""
    if len(modalities_in(text)) != 1:
        found = " and ".join(sorted(modalities_in(text))) or "none"
        raise ValueError(f"Expected one modality word in the sentence ({', '.join(Modality)}), found {found}.")
    return {modality: _MODALITY.sub(modality, " ".join(text.split())) for modality in Modality}


def error(text: str) -> str:
    """A message in place of a page, as HTML."""
    style = "border-left:4px solid #d9822b;background:#fbeedd;padding:6px 10px;line-height:1.3"
    return f'<div role="alert" style="{style}"><b>Not possible.</b> {html.escape(text)}</div>'


@dataclass(frozen=True, eq=False)
class Request:
    """What the page asks for: `number` names it, `settings` are one or two pairs (sentence, seed)."""

    number: int
    edges: np.ndarray  # (256, 256) uint8 of 0 and 255
    settings: Sequence[tuple[str, int]]
    steps: int  # of the refined drawing
    guidance: float  # of the refined drawing
    rest: bool = True  # the hand rests: the drawing is kept
    refine: bool = True
    source: str = ""  # where the edges are from, in words


@dataclass(frozen=True, eq=False)
class Drawing:
    """What was drawn: `images` (n settings, 4 modalities, 256, 256) float32 in [0, 1]."""

    request: Request
    images: np.ndarray
    steps: int
    seconds: float


class Newest:
    """A thread that does the newest task; one that waits is dropped, and one that runs may ask whether it is `old`."""

    def __init__(self) -> None:
        self._change, self._waiting, self._busy = threading.Condition(), None, False
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def old(self) -> bool:
        """Whether a newer task waits for the one that runs."""
        return self._waiting is not None

    def ask(self, task: Callable[[], object]) -> None:
        """Do this next."""
        with self._change:
            self._waiting = task
            self._change.notify_all()

    def wait(self) -> None:
        """Return when nothing runs or waits."""
        with self._change:
            self._change.wait_for(lambda: self._waiting is None and not self._busy)

    def _run(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                self._change.wait_for(lambda: self._waiting is not None)
                task, self._waiting, self._busy = self._waiting, None, True
            task()


class _StopDrawingError(Exception):
    """A newer request waits."""


class Studio(anywidget.AnyWidget):
    """The page over two pipelines: one draws under the hand, the other refines when the hand rests.

    Args:
        weights: what refines: a pipeline, or what `load_pretrained` takes; a name is loaded while the page opens.
        cohort: its exams are the anatomies to draw on; default the examples.
        live: what draws under the hand, as a student of few steps, with its own settings; default `weights` itself.
        live_steps: its steps under the hand, without guidance, where there is no `live`.
    """

    _esm = Path(__file__).with_name("studio.js")
    _css = Path(__file__).with_name("studio.css")
    menus = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        weights: "MRPipeline | str | Path" = "laptop",
        cohort: Cohort | None = None,
        live: "MRPipeline | str | Path | None" = None,
        live_steps: int = 3,
    ) -> None:
        self.cohort = Cohort.examples() if cohort is None else cohort
        parts = {name: [said[0] for said in words.values()] for name, words in PARTS.items()}
        exams = self.cohort.table.drop_duplicates("subject_id")
        anatomies = [f"{exam.subject_id} ({exam.source})" for exam in exams.itertuples()]
        menus = {"anatomies": anatomies, "words": {"idh": list(IDH), **parts}, "modalities": list(Modality)}
        super().__init__(menus={**menus, "notice": NOTICE, "megabytes": MOST_MB})
        self._rows = [self.cohort.row_of(name) for name in exams["subject_id"]]
        self._asked, self._live_steps = (weights, live), live_steps
        self._pipes: tuple[MRPipeline, MRPipeline] | None = None
        self._case: tuple[Any, Any] | None = None  # subject and volume of a real case
        self._upload: TemporaryDirectory | None = None
        self._drawings: dict[int, Drawing] = {}
        self._simulated = False
        self.worker = Newest()
        self.on_msg(self._heard)
        self.worker.ask(self._load)

    def __repr__(self) -> str:
        return "The studio, a panel for a running kernel."

    def draw(self, request: Request) -> None:
        """Draw in the thread: in a few steps, and when asked to refine, in all steps as far as nothing newer comes."""
        self.worker.ask(lambda: self._draw(request))

    def _heard(self, _widget: object, message: dict[str, Any], buffers: list) -> None:
        """Answer a message of the page; a mistake of the reader's is said there, not thrown."""
        answers = {
            "ready": self._opened,
            "anatomy": lambda: self._show_row(self._rows[message["place"]]),
            "words": lambda: self._say("sentence", text=self._sentence(message["words"])),
            "draw": lambda: self.draw(self._request(message, buffers[0])),
            "cancel": lambda: self.worker.ask(lambda: None),
            "zip": lambda: self._say("zip", [_pack(self._drawings[message["number"]])]),
            "file": lambda: self._take_file(message, bytes(buffers[0])),
            "path": lambda: self._open_case(Path(message["path"]).expanduser()),
            "plane": lambda: self._show_plane(message["plane"]),
        }
        try:
            answers[message["kind"]]()
        except (ValueError, OSError, Image.DecompressionBombError) as problem:
            self._say("error", text=str(problem), number=message.get("number"))

    def _say(self, kind: str, buffers: Sequence[bytes] = (), **content: Any) -> None:
        self.send({"kind": kind, **content}, list(buffers))

    def _opened(self) -> None:
        self._show_row(self._rows[0])
        self.worker.ask(self._load)

    def _load(self) -> None:
        """Open the weights, once, and say what they can."""
        from mrtutor.pipeline.pipeline import MRPipeline
        from mrtutor.pipeline.weights import load_pretrained

        try:
            if self._pipes is None:
                weights, live = (w if isinstance(w, MRPipeline | None) else load_pretrained(w) for w in self._asked)
                for pipe in filter(None, (weights, live)):
                    pipe.set_progress_bar_config(disable=True)
                self._pipes = weights, live or weights
        except (ValueError, OSError) as problem:
            self._say("error", text=str(problem), number=None)
            return
        sampler = self._pipes[0].sampler
        self._say("loaded", steps=sampler.steps, guidance=sampler.guidance_scale, findings=self._findings)

    @property
    def _findings(self) -> bool:
        return self._pipes is not None and self._pipes[0].config.findings

    def _sentence(self, words: dict[str, int]) -> str:
        """The sentence of the menus: name -> place in the menu, from 0; what is not said is not there."""
        said = {name: list(PARTS[name])[place] for name, place in words.items() if name in PARTS}
        findings = Findings(simulated=self._simulated, **said)
        return self._pipes[0].sentence(Modality.T1GD, list(IDH)[words["idh"]] if "idh" in words else None, findings)

    def _request(self, message: dict[str, Any], edges: Any) -> Request:
        """ValueError: an ellipse outside the brain, no edges, or too many."""
        edges = _bits(np.frombuffer(edges, np.uint8).reshape(SIZE, SIZE))
        if message["ellipse"]:
            edges = compose_structure(edges, np.zeros_like(edges), Ellipse(**message["ellipse"]))
        validate_structure(edges)
        settings = [(sentence, int(seed)) for sentence, seed in message["settings"]]
        fields = {name: message[name] for name in ("number", "steps", "guidance", "rest", "refine", "source")}
        return Request(edges=edges, settings=settings, **fields)

    def _draw(self, request: Request) -> None:
        """In the thread: the few steps always to their end, the many until something newer waits."""
        try:
            if self._pipes is None:
                self._load()
            self._show(self._drawn(request, few=True))
            if request.refine and not self.worker.old:
                self._show(self._drawn(request, few=False))
        except _StopDrawingError:
            self._say("stopped", number=request.number)
        except (ValueError, OSError, RuntimeError) as problem:  # RuntimeError: out of memory on a GPU
            self._say("error", text=str(problem), number=request.number)

    def _drawn(self, request: Request, few: bool) -> Drawing:
        import torch

        refiner, live = self._pipes
        pipe, options = refiner, {"num_inference_steps": request.steps, "guidance_scale": request.guidance}
        if few:
            pipe = live
            options = {} if live is not refiner else {"num_inference_steps": self._live_steps, "guidance_scale": 1.0}
        steps, start = options.get("num_inference_steps", pipe.sampler.steps), perf_counter()

        def stepped(_pipe: object, step: int, _time: object, state: dict) -> dict:
            if self.worker.old and not few:
                raise _StopDrawingError
            left = (perf_counter() - start) / (step + 1) * (steps - step - 1)
            self._say("progress", number=request.number, done=(step + 1) / steps, left=left)
            return state

        settings = [(four_sentences(text).values(), seed) for text, seed in request.settings]
        images = pipe(
            [sentence for sentences, _ in settings for sentence in sentences],
            request.edges if pipe.method.takes_structure else None,
            generator=[torch.Generator().manual_seed(seed) for sentences, seed in settings for _ in sentences],
            callback_on_step_end=stepped,
            output_type="np",
            **options,
        ).images
        images = images.reshape(len(settings), len(Modality), SIZE, SIZE)
        return Drawing(request, images, steps, perf_counter() - start)

    def _show(self, drawing: Drawing) -> None:
        number = drawing.request.number
        if drawing.request.rest:
            self._drawings[number] = drawing
            for old in sorted(self._drawings)[:-KEPT]:
                del self._drawings[old]
        greys = np.round(drawing.images * 255).astype(np.uint8).tobytes()
        self._say("drawn", [greys], number=number, steps=drawing.steps, seconds=drawing.seconds)

    def _show_row(self, row: int) -> None:
        """An exam of the cohort as anatomy."""
        self._case, idh = None, self.cohort.idh(row)
        self._simulated = self.cohort.findings(row).simulated
        name = self.cohort.table["subject_id"].iat[row]
        self._show_anatomy(self.cohort.images[row], self.cohort.masks[row], name, idh=idh and list(IDH).index(idh))

    def _show_anatomy(self, images: np.ndarray, mask: np.ndarray, name: str, **about: Any) -> None:
        """T1Gd, or the next sequence there is, of (4, 256, 256) uint8; its edges; and these without its tumour."""
        order = [2, 0, 1, 3]
        picture = np.asarray(images[next((channel for channel in order if images[channel].any()), 2)])
        edges = canny(picture)
        emptied = without_tumour(edges, mask) if edges.any() else edges
        self._say("anatomy", [np.stack([picture, edges, emptied]).tobytes()], name=name, **about)

    def _take_file(self, message: dict[str, Any], piece: bytes) -> None:
        """A piece of an upload; after the last one the files are opened."""
        if message["first"]:
            self._upload = TemporaryDirectory(ignore_cleanup_errors=True)
        folder = Path(self._upload.name)
        path = folder / Path(message["name"]).name
        if sum(file.stat().st_size for file in folder.iterdir()) + len(piece) > MOST_MB * 2**20:
            raise ValueError(f"Expected {MOST_MB} MB at most, got more: give the path of the folder instead.")
        with open(path, "ab") as file:
            file.write(piece)
        if not message["last"]:
            return
        if path.name.lower().endswith((".nii", ".nii.gz")):
            self._open_case(folder)
        else:
            edges = _bits(validate_structure(path)[0, 0].numpy())
            self._case = None
            self._say("anatomy", [np.stack([edges * 0, edges, edges]).tobytes()], name=path.name)

    def _open_case(self, folder: Path) -> None:
        """A real case, from its folder (ValueError: none, or several, or one that cannot be read)."""
        from mrtutor.data.prepare import to_volume
        from mrtutor.data.sources import find_cases

        cases = find_cases([folder], segmentation=False)
        if len(cases) != 1:
            raise ValueError(f"Expected one case in {folder}, found {len(cases)}: name the folder of one of them.")
        subject = cases[0].load()
        self._case, self._simulated = (subject, to_volume(subject)), False
        areas = np.count_nonzero(self._case[1].tumour, axis=(0, 1)), np.count_nonzero(self._case[1].brain, axis=(0, 1))
        self._show_plane(int(np.argmax(areas[0] if areas[0].any() else areas[1])), opened=True)

    def _show_plane(self, plane: int, opened: bool = False) -> None:
        from mrtutor.data.prepare import cut_planes

        subject, volume = self._case
        planes = np.flatnonzero(volume.brain.any(axis=(0, 1)))
        cut = cut_planes(volume, [plane], subject)
        range_of = {"first": int(planes[0]), "last": int(planes[-1]), "plane": plane, "opened": opened}
        self._show_anatomy(cut.images[0], cut.masks[0], f"{subject['subject_id']}, plane {plane}", planes=range_of)


def _bits(edges: np.ndarray) -> np.ndarray:
    return np.where(edges > 0, 255, 0).astype(np.uint8)


def _pack(drawing: Drawing) -> bytes:
    """A zip of PNG and NIfTI of all pictures, each marked as synthetic, and the edge map."""
    request, packed = drawing.request, io.BytesIO()
    with TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        save_png(request.edges, files / "edge_map.png")
        for place, ((text, seed), images) in enumerate(zip(request.settings, drawing.images, strict=True)):
            start = f"{'AB'[place]}_" if len(request.settings) > 1 else ""
            for (modality, sentence), image in zip(four_sentences(text).items(), images, strict=True):
                about = {"Prompt": sentence, "Seed": str(seed), "Steps": str(drawing.steps), "Edge map": request.source}
                save_png(image, files / f"{start}{modality}_synthetic.png", **about)
                save_nifti_slice(image, files / f"{start}{modality}_synthetic.nii.gz")
        packed.write(Path(shutil.make_archive(f"{folder}/all", "zip", files)).read_bytes())
    return packed.getvalue()
