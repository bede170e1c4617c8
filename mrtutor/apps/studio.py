"""The studio: a panel of core ipywidgets that asks for a sequence, shows it, and offers it as a download.

`Studio(pipe)` in the last line of a cell shows the panel; the same object is the page that Voilà serves. Every picture
is synthetic and not for diagnosis. Texts from outside are escaped, and nothing is loaded from outside.
"""

import base64
import html
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import ipywidgets as w
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mrtutor.data.cohort import Cohort
from mrtutor.data.export import NOTICE, save_nifti_slice, save_png
from mrtutor.data.structure import SIZE, Ellipse, compose_structure, validate_structure
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Findings, Modality, modalities_in, spellings

EXAMPLE, ELLIPSE, UPLOAD = "example", "own ellipse", "upload"  # where the edge map comes from
FORMATS = ("PNG", "BMP", "TIFF", "GIF")  # those that keep pixels as they are
LIMITS = {  # of the ellipse: least, most, step
    "x": (40, 215, 1),
    "y": (30, 225, 1),
    "width": (8, 120, 1),
    "height": (8, 120, 1),
    "angle": (-90, 90, 5),
    "core": (0, 0.9, 0.1),
}
_NAMES = sorted((name for m in Modality for name in spellings(m)), key=len, reverse=True)
_NAME = "|".join(re.sub(r"\\[ -]", "[ -]", re.escape(name)) for name in _NAMES)  # a hyphen is a space
_MODALITY = re.compile(rf"(?<![\w+-])(?i:{_NAME})(?![\w+-])")


def four_sentences(text: str) -> dict[Modality, str]:
    """One sentence per modality: the modality word of `text` replaced by each of the four (ValueError: not one)."""
    if len(modalities_in(text)) != 1:
        found = " and ".join(sorted(modalities_in(text))) or "none"
        raise ValueError(f"Expected one modality word in the sentence ({', '.join(Modality)}), found {found}.")
    return {modality: _MODALITY.sub(modality, " ".join(text.split())) for modality in Modality}


def read_upload(content: bytes | memoryview) -> Tensor:
    """Edge map (1, 1, 256, 256) of the bytes of a picture file (ValueError: no picture, or as `validate_structure`)."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.size != (SIZE, SIZE):  # known before the pixels are unpacked
                got = f"{picture.width} x {picture.height}"
                raise ValueError(f"Expected a picture of {SIZE} x {SIZE} pixels, got {got}: resize it.")
            picture.load()
            return validate_structure(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        kinds = ", ".join(FORMATS)
        raise ValueError(f"Cannot read the upload: expected a whole {kinds} file, white lines on black.") from error


def picture(image: np.ndarray, caption: str, alt: str = "") -> str:
    """An image (H, W) or (H, W, 3) in [0, 1] as an HTML figure."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(np.asarray(image) * 255).astype(np.uint8)).save(buffer, format="PNG")
    source, alt = base64.b64encode(buffer.getvalue()).decode(), html.escape(alt or caption)
    shown = f'<img src="data:image/png;base64,{source}" alt="{alt}" width="{SIZE}" height="{SIZE}">'
    words = f'<figcaption style="max-width:{SIZE}px;line-height:1.2">{html.escape(caption)}</figcaption>'
    return f'<figure style="margin:4px">{shown}{words}</figure>'


def error(text: str) -> str:
    """A message in the panel that a screen reader announces."""
    style = "border-left:4px solid #d9822b;background:#fbeedd;padding:6px 10px;line-height:1.3"
    return f'<div role="alert" style="{style}"><b>Not possible.</b> {html.escape(text)}</div>'


class Studio(w.Box):
    """Panel over a pipeline, which draws the pictures.

    The menus write a sentence, which may be changed before drawing. The widgets: idh, sentence, example, source,
    ellipse (name -> field of `Ellipse`), upload, seed, steps, guidance, draw_button, progress, edges, pictures
    (modality -> HTML), error, status, download. The exams of `cohort`, default the examples, give the edge maps.
    """

    def __init__(self, pipe: MRPipeline, cohort: Cohort | None = None) -> None:
        self.pipe, self.cohort = pipe, Cohort.examples() if cohort is None else cohort
        self.images: dict[Modality, np.ndarray] = {}  # what was drawn last
        pipe.set_progress_bar_config(disable=True)
        names = self.cohort.table["subject_id"].unique()
        self.idh = w.ToggleButtons(options=[(f"IDH {idh}", idh) for idh in IDH], value=IDH.WILD, description="type")
        self.example = w.Dropdown(options=[(name, self.cohort.row_of(name)) for name in names], description="example")
        self.sentence = w.Textarea(description="sentence", rows=4)
        self.source = w.ToggleButtons(options=[EXAMPLE, ELLIPSE, UPLOAD], description="edge map")
        self.source.style.button_width = "94px"
        self.ellipse = {}
        for name, (low, high, step) in LIMITS.items():
            options = {"value": getattr(Ellipse(), name), "min": low, "max": high, "step": step}
            self.ellipse[name] = w.BoundedFloatText(description=name, **options)
        accept = ",".join(f".{kind.lower()}" for kind in FORMATS)
        self.upload = w.FileUpload(accept=accept, description="Upload an edge map", layout={"width": "auto"})
        self.seed = w.BoundedIntText(value=0, min=0, max=2**31 - 1, description="seed")
        self.steps = w.BoundedIntText(value=pipe.sampler.steps, min=1, max=100, description="steps")
        scale = pipe.sampler.guidance_scale
        self.guidance = w.BoundedFloatText(value=scale, min=0, max=8, step=0.5, description="guidance")
        self.draw_button = w.Button(description="Draw", button_style="primary")
        self.progress = w.IntProgress(value=0, min=0, description="drawing")
        self.edges, self.error, self.status, self.download = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.pictures = {modality: w.HTML() for modality in Modality}
        self._fields = w.VBox(list(self.ellipse.values()))
        asked = [self.example, self.idh, self.sentence, self.source, self._fields, self.upload]
        asked += [self.seed, self.steps, self.guidance, self.draw_button, self.progress, self.error]
        asked += [self.status, self.download]
        wrap = {"flex_flow": "row wrap", "align_items": "flex-start"}
        pictures = w.Box(list(self.pictures.values()), layout={**wrap, "max_width": "560px"})
        super().__init__([w.VBox(asked, layout={"width": "340px"}), pictures, self.edges], layout=wrap)
        for part in (self.idh, self.example):
            part.observe(self._write_sentence, "value")
        for part in (self.source, self.example, self.upload, *self.ellipse.values()):
            part.observe(lambda _: self._told(self.show_edges), "value")
        self.draw_button.on_click(lambda _: self._told(self.draw))
        self._write_sentence()
        self._told(self.show_edges)

    def __repr__(self) -> str:
        return "The studio, a panel for a running kernel."

    def structure(self) -> Tensor:
        """The edge map that is asked for, (1, 1, 256, 256) float32 of 0 and 1.

        ValueError: nothing uploaded yet, a wrong upload, or an ellipse outside the brain.
        """
        if self.source.value == UPLOAD:
            if not self.upload.value:
                raise ValueError(f"No edge map uploaded yet: choose a picture of {SIZE} x {SIZE} pixels.")
            return read_upload(self.upload.value[0]["content"])
        row = self.example.value
        there = [m for m, known in zip(Modality, self.cohort.available[row], strict=True) if known]
        edges = self.cohort.structure(row, Modality.T1GD if Modality.T1GD in there else there[0])
        if self.source.value == ELLIPSE:
            ellipse = Ellipse(**{name: field.value for name, field in self.ellipse.items()})
            edges = compose_structure(edges, self.cohort.masks[row], ellipse)
        return validate_structure(edges)

    def show_edges(self) -> None:
        """Show the widgets of the chosen source, and the edge map (ValueError: as `structure`)."""
        self._fields.layout.display = None if self.source.value == ELLIPSE else "none"
        self.upload.layout.display = None if self.source.value == UPLOAD else "none"
        self.edges.value = ""
        if self.source.value != UPLOAD or self.upload.value:
            edges = self.structure()[0, 0].numpy()
            self.edges.value = picture(edges, "the edge map: white lines that the model sees")

    def draw(self) -> dict[Modality, np.ndarray]:
        """Draw the four modalities that the panel asks for, (256, 256) in [0, 1], all from the same noise.

        ValueError: as `structure` and `four_sentences`; a sentence too long for the text encoder.
        """
        structure, sentences = self.structure(), four_sentences(self.sentence.value)
        seed, steps, scale = self.seed.value, self.steps.value, self.guidance.value
        self.progress.value, self.progress.max = 0, steps

        def count(_pipe: MRPipeline, step: int, _t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
            self.progress.value = step + 1
            return state

        images = self.pipe(
            list(sentences.values()),
            structure if self.pipe.method.takes_structure else None,
            generator=[torch.Generator().manual_seed(seed) for _ in sentences],
            num_inference_steps=steps,
            guidance_scale=scale,
            callback_on_step_end=count,
            output_type="np",
        ).images
        self.images = dict(zip(sentences, images, strict=True))
        for modality, image in self.images.items():
            alt = f"{sentences[modality]} ({NOTICE})"
            self.pictures[modality].value = picture(image, f"{modality}, synthetic", alt)
        asked = {"Seed": str(seed), "Steps": str(steps), "Guidance scale": f"{scale:g}", "Edge map": self._edge_words()}
        drawn = html.escape(", ".join(f"{name.lower()} {value}" for name, value in asked.items()))
        self.status.value = f'<div role="status">Drawn: {drawn}. {NOTICE}.</div>'
        self.download.value = _link(self.images, sentences, asked)
        return self.images

    def _write_sentence(self, _: object = None) -> None:
        findings = Findings(simulated=self.cohort.findings(self.example.value).simulated)
        self.sentence.value = self.pipe.sentence(Modality.T1GD, self.idh.value, findings)

    def _edge_words(self) -> str:
        if self.source.value == UPLOAD:
            return "uploaded"
        fields = ", ".join(f"{name} {field.value:g}" for name, field in self.ellipse.items())
        return f"{self.example.label}, {fields}" if self.source.value == ELLIPSE else self.example.label

    def _told(self, task: Callable[[], object]) -> None:
        """Run a task of the panel; a mistake of the reader's is said in the panel, not thrown."""
        self.draw_button.disabled, self.error.value = True, ""
        try:
            task()
        except (ValueError, OSError, RuntimeError) as problem:  # RuntimeError: out of memory on a GPU
            self.error.value = error(str(problem))
        finally:
            self.draw_button.disabled = False


def _link(images: dict[Modality, np.ndarray], sentences: dict[Modality, str], asked: dict[str, str]) -> str:
    """A link to a zip of PNG and NIfTI of the pictures, each marked as synthetic; it is in the page itself."""
    with TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        for modality, image in images.items():
            stem = f"{files}/{modality}_synthetic"
            save_png(image, f"{stem}.png", Prompt=sentences[modality], **asked)
            save_nifti_slice(image, f"{stem}.nii.gz")
        packed = Path(shutil.make_archive(f"{folder}/all", "zip", files)).read_bytes()
    source = f"data:application/zip;base64,{base64.b64encode(packed).decode()}"
    return f'<a download="synthetic_seed{asked["Seed"]}.zip" href="{source}">Download PNG and NIfTI</a>'
