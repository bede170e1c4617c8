"""Drawing many synthetic sequences, resumably; and one sequence from a reader's own case.

    python -m mrtutor.pipeline.draw --count 1000 --out outputs/many                       # one process
    python -m mrtutor.pipeline.draw --count 1000 --out outputs/many --shard 0 --shards 8  # one of eight, anywhere

Sequence i is a function of (seed, i): slice, edges, noise. A chunk of sequences is one file, which has its final name
only when it is whole. Shard k of K draws those of the chunks k, k + K, … that are missing; whichever finds all chunks
joins them. `accelerate launch` sets the shards by itself. After a kill, run the same again, with any number of shards.
A finished folder has sequences.npy (n sequences, 4 modalities, 256, 256) uint8, table.csv, and spec.json.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort, choose_rows
from mrtutor.data.structure import SIZE, canny, validate_structure
from mrtutor.files import atomic_path, locked, writable_folder, write_json, write_text
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.vocabulary import IDH, Findings, Modality

SPEC, SEQUENCES, TABLE, PARTS = "spec.json", "sequences.npy", "table.csv", "parts"
OTHER = {IDH.MUTANT: IDH.WILD, IDH.WILD: IDH.MUTANT, None: None}


@dataclass(frozen=True)
class DrawSpec:
    """What is to be drawn, the same for every process. Sets of `idh` "own" and "swapped" are pairs."""

    count: int
    seed: int = 0  # of slices, edges and noise
    split: str = "test"  # of the cohort whose slices with tumour give the edges
    idh: str = "own"  # type in the sentence: the patient's own, or swapped for the other (unknown stays unknown)
    balanced: bool = False  # mutant and wild slices in turn
    chunk: int = 2  # sequences in one file, drawn in one batch
    options: dict[str, Any] = field(default_factory=dict)  # of `MRPipeline.__call__`; structure_scale=0: the plain LDM

    def __post_init__(self) -> None:
        if self.count < 1 or self.chunk < 1 or self.seed < 0 or self.idh not in ("own", "swapped"):
            raise ValueError(f'Expected count and chunk from 1, seed from 0, idh "own" or "swapped", got {self}.')


@dataclass(frozen=True)
class SequenceSpec:
    """What one sequence is drawn from."""

    number: int
    row: int  # of the cohort, whose edges are taken
    patient: str  # whose slice it is
    idh: IDH | None  # type in the sentence; None where unknown
    edges_of: Modality  # whose edges are taken
    seed: int  # of the noise
    structure: np.ndarray  # edge map (256, 256) uint8, 0 or 255
    findings: Findings


def plan(spec: DrawSpec, cohort: Cohort) -> pd.DataFrame:
    """Which sequences a spec means on a cohort: number, row, patient, idh ("" where unknown), edges_of, seed.

    Slices are taken as `choose_rows` orders them. Where more sequences are wanted than there are slices, a slice comes
    again with the next modality's edges and another noise.
    """
    orders = []
    for idh in IDH if spec.balanced else [None]:
        count = len(cohort.rows(spec.split, idh, tumour=True))
        if count == 0:
            raise ValueError(f"No {spec.split} slices with tumour of IDH {idh or 'any'} in {cohort.path}.")
        orders.append(choose_rows(cohort, count, split=spec.split, seed=spec.seed, idh=idh))
    table = []
    for number in range(spec.count):
        order = orders[number % len(orders)]
        turn, place = divmod(number // len(orders), len(order))
        row = order[place]
        there = np.flatnonzero(cohort.available[row])
        first = np.random.default_rng([spec.seed, row]).integers(len(there))
        own = cohort.idh(row)
        about = {"number": number, "row": row, "patient": cohort.table["patient"].iat[row]}
        about["idh"] = str((own if spec.idh == "own" else OTHER[own]) or "")
        about["edges_of"] = str(list(Modality)[there[(first + turn) % len(there)]])
        about["seed"] = int(np.random.default_rng([spec.seed, number]).integers(2**62))
        table.append(about)
    return pd.DataFrame(table)


def sequence_specs(table: pd.DataFrame, cohort: Cohort) -> list[SequenceSpec]:
    """What a sampler needs of some rows of a `plan`."""
    specs = []
    for about in table.to_dict("records"):
        row, edges_of = about["row"], Modality(about["edges_of"])
        known = about | {"idh": IDH(about["idh"]) if about["idh"] else None, "edges_of": edges_of}
        specs.append(SequenceSpec(**known, structure=cohort.structure(row, edges_of), findings=cohort.findings(row)))
    return specs


class PipelineSampler:
    """`MRPipeline` as a sampler, in float32; any object with `key` (of weights and settings) and `draw` is one."""

    def __init__(self, pipe: MRPipeline, **options: Any) -> None:
        self.pipe, self.options = pipe, options
        pipe.set_progress_bar_config(disable=True)
        settings = {**pipe.config, **pipe.scheduler.config, **options}
        settings = {name: value for name, value in settings.items() if not name.startswith("_")}  # paths and versions
        self.key = f"{weights_key(pipe)} {json.dumps(settings, sort_keys=True)}"

    def draw(self, specs: list[SequenceSpec]) -> Tensor:
        """Sequences (n, 4, 256, 256) in [0, 1]; the modalities of a sequence share edges and noise."""
        prompts = [self.pipe.sentence(modality, spec.idh, spec.findings) for spec in specs for modality in Modality]
        generators = [torch.Generator().manual_seed(spec.seed) for spec in specs for _ in Modality]
        structure = np.stack([spec.structure for spec in specs for _ in Modality])
        structure = structure if self.pipe.method.takes_structure else None
        before, self.pipe.precision = self.pipe.precision, torch.float32
        try:
            images = self.pipe(prompts, structure, generator=generators, **self.options).images
        finally:
            self.pipe.precision = before
        return images.unflatten(0, (len(specs), len(Modality)))


def weights_key(pipe: MRPipeline) -> str:
    """12 hex digits that change with any weight of a pipeline."""
    digest = hashlib.sha256()
    for network in filter(None, (pipe.autoencoder, pipe.text_encoder, pipe.unet, pipe.guidance)):
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class SampleSet:
    """Sequences with what each was drawn from."""

    images: np.ndarray  # (n, 4, 256, 256) uint8, memory-mapped where opened from a folder
    table: pd.DataFrame  # as `plan` gives it
    about: dict[str, Any] = field(default_factory=dict)  # content of spec.json

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def open(cls, folder: str | Path) -> "SampleSet":
        """Open a finished folder of `draw_sets` (FileNotFoundError: not finished, or no such folder)."""
        folder = Path(folder)
        if not (folder / TABLE).is_file():
            raise FileNotFoundError(f"No finished sample set in {folder}: run the command that draws it again.")
        table = pd.read_csv(folder / TABLE, keep_default_na=False, dtype={"patient": str, "idh": str})
        return cls(np.load(folder / SEQUENCES, mmap_mode="r"), table, json.loads((folder / SPEC).read_text()))


def draw_sets(
    spec: DrawSpec, folder: str | Path, pipe: MRPipeline | Any, cohort: Cohort, shard: int = 0, shards: int = 1
) -> SampleSet | None:
    """Draw the missing chunks of one shard, and join all chunks if none is missing (else the result is None).

    A set that was begun is continued; a folder of another spec is refused. `pipe` may be another sampler.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"Expected a shard from 0 to {shards - 1}, got {shard}.")
    folder, table = writable_folder(folder), plan(spec, cohort)
    sampler = PipelineSampler(pipe, **spec.options) if isinstance(pipe, MRPipeline) else pipe
    about = {**asdict(spec), "sampler": sampler.key, "cohort_key": cohort.key, "synthetic": True}
    with locked(folder / ".lock"):
        if not (folder / SPEC).is_file():
            write_json(folder / SPEC, about)
    old, new = json.loads((folder / SPEC).read_text(encoding="utf-8")), json.loads(json.dumps(about))
    different = [f"{name} was {old.get(name)}, now {value}" for name, value in new.items() if old.get(name) != value]
    if different:
        raise ValueError(f"{folder} holds another sample set ({'; '.join(different)}): choose another folder.")
    shape = (len(Modality), SIZE, SIZE)
    starts = range(0, spec.count, spec.chunk)
    parts = [(folder / PARTS / f"{start:07d}.npy", table.iloc[start : start + spec.chunk]) for start in starts]
    for part, chunk in tqdm(parts[shard::shards], desc=f"shard {shard} of {shards}", unit="chunk", disable=None):
        if part.is_file() or (folder / TABLE).is_file():  # in this order: parts go once the table is there
            continue
        images = np.asarray(sampler.draw(sequence_specs(chunk, cohort)))
        if not np.isfinite(images).all():
            raise ValueError("Expected finite pictures of the sampler, got NaN: its weights are broken.")
        with atomic_path(part) as temporary, open(temporary, "wb") as file:
            np.save(file, np.round(images * 255).astype(np.uint8))
    with locked(folder / ".lock"):
        if not (folder / TABLE).is_file():
            if not all(part.is_file() for part, _ in parts):
                return None
            with atomic_path(folder / SEQUENCES) as temporary:
                joined = np.lib.format.open_memmap(temporary, "w+", np.uint8, (spec.count, *shape))
                for part, chunk in parts:
                    joined[chunk["number"]] = np.load(part)
                joined.flush()
            write_text(folder / TABLE, table.to_csv(index=False, lineterminator="\n"))
        shutil.rmtree(folder / PARTS, ignore_errors=True)
    return SampleSet.open(folder)


@dataclass(frozen=True)
class Sample:
    """One sequence from a reader's own case or edge map, and where it is."""

    synthetic: dict[Modality, np.ndarray]  # (256, 256) float32 in [0, 1]
    structure: np.ndarray  # edge map, (256, 256) bool
    files: list[Path]  # comparison first, then PNG and NIfTI of each modality
    real: dict[Modality, np.ndarray]  # empty without a case
    slice_number: int | None = None  # of the axial slice in the case's files, from 0


def sample_subject(
    pipe: MRPipeline,
    folder: str | Path,
    out: str | Path,
    *,
    slice_number: int | None = None,
    edges_of: Modality | str = Modality.T1GD,
    **options: Any,
) -> Sample:
    """Draw a synthetic sequence from the edges of one slice of a real case, as found by `find_cases` in its folder.

    The sentences say what the case's segmentation shows, where it has one and the weights know such sentences.
    `slice_number` counts axial slices from 0 as in the case's files; default is the one with most tumour. All four are
    drawn from the edges of `edges_of`; `options` are `idh`, `seed` and `steps` of `sample_structure`.
    """
    from mrtutor.data.prepare import prepare_slice
    from mrtutor.data.sources import find_cases

    edges_of, out = Modality(edges_of), writable_folder(out)
    cases = find_cases([folder], segmentation=False)
    if len(cases) != 1:
        raise ValueError(f"Expected one case in {folder}, found {len(cases)}: name the folder of one of them.")
    subject = cases[0].load()
    prepared = prepare_slice(subject, None if slice_number is None else _other_count(subject, slice_number))
    pictures = zip(Modality, prepared.images[0], prepared.available, strict=True)
    real = {modality: image.astype(np.float32) / 255 for modality, image, there in pictures if there}
    if edges_of not in real:
        raise ValueError(f"{folder} lacks {edges_of}: take the edges of {' or '.join(real)} instead.")
    number, name = _other_count(subject, int(prepared.z_index[0])), subject["subject_id"]
    title = f"{name}, slice {number} (counted from 0 as in the file); edges of {edges_of}"
    options["findings"] = prepared.findings[0] if "tumour" in subject else None
    options |= {"real": real, "name": f"{name}_slice{number:03d}", "title": title}
    return replace(sample_structure(pipe, canny(real[edges_of]), out, **options), slice_number=number)


def _other_count(subject: Any, number: int) -> int:
    """From the file's count of axial slices to the count from the lowest one, and back: they differ in S-to-I files."""
    image = next(subject[str(modality)] for modality in Modality if str(modality) in subject)
    axis = next(axis for axis, letter in enumerate(image.orientation) if letter in "SI")
    depth = image.spatial_shape[axis]
    if not 0 <= number < depth:
        raise ValueError(f"No slice {number}: the files have axial slices 0 to {depth - 1}.")
    return number if image.orientation[axis] == "S" else depth - 1 - number


def sample_structure(
    pipe: MRPipeline,
    structure: object,
    out: str | Path,
    *,
    idh: IDH | str | None = None,
    seed: int = 0,
    steps: int | None = None,
    findings: Findings | None = None,
    real: Mapping[Modality, np.ndarray] | None = None,
    name: str = "edges",
    title: str = "your own edge map",
) -> Sample:
    """Draw a synthetic sequence from one edge map, in any form that `validate_structure` takes, and save it.

    In the folder `out`: a comparison (with the `real` slices above, if given), and each slice as PNG and NIfTI with the
    synthetic stamp. File names begin with `name`; `title` says where the edges are from.
    """
    from mrtutor.data.export import NOTICE, save_nifti_slice, save_png
    from mrtutor.plot import sheet

    out, idh, real = writable_folder(out), IDH(idh) if idh is not None else None, dict(real or {})
    edges = validate_structure(structure)[0, 0].numpy() > 0
    structure = edges if pipe.method.takes_structure else None
    drawn = pipe.sequence(idh, structure, seed, findings=findings, num_inference_steps=steps)
    synthetic = {modality: picture.numpy() for modality, picture in drawn.items()}
    rows = {"real": [None, *(real.get(modality) for modality in synthetic)]} if real else {}
    rows["synthetic"] = [edges, *synthetic.values()]
    title = f"{title}; drawn with {f'IDH {idh}' if idh else 'IDH type not said'}, seed {seed}"
    stem = f"{out / name}_{idh or 'glioma'}_seed{seed}"
    files = [Path(f"{stem}_comparison.png")]
    sheet(rows, ["edges", *synthetic], path=files[0], width=2.4, title=f"{title}\n{NOTICE}")
    for modality, picture in synthetic.items():
        text = {"Prompt": pipe.sentence(modality, idh, findings), "Seed": str(seed), "Source": title}
        files.append(save_png(picture, f"{stem}_{modality}_synthetic.png", **text))
        files.append(save_nifti_slice(picture, f"{stem}_{modality}_synthetic.nii.gz"))
    return Sample(synthetic, edges, files, real)


def main(
    count: Annotated[int, typer.Option(min=1, help="Sequences in all.")],
    out: Annotated[Path, typer.Option(help="Folder of the set; one that was begun is continued.")],
    weights: Annotated[str, typer.Option(help="Name or folder of the pipeline.")] = "laptop",
    cohort: Annotated[Path | None, typer.Option(help="A prepared cohort; default the examples of the course.")] = None,
    split: Annotated[str, typer.Option(help="Of the cohort whose slices give the edges.")] = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the pipeline's.")] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Sequences in one batch and one file.")] = 2,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default CUDA where there is one.")] = None,
    shard: Annotated[int, typer.Option(min=0, envvar="RANK", help="Which of the shards this process draws.")] = 0,
    shards: Annotated[int, typer.Option(min=1, envvar="WORLD_SIZE", help="Processes in all.")] = 1,
) -> None:
    """Draw many sequences, in one process or as one of several, on one machine or on many."""
    gpus = torch.cuda.device_count()
    if device == "cuda" and gpus > 1:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', shard)) % gpus}"
    options = {} if steps is None else {"num_inference_steps": steps}
    try:
        spec = DrawSpec(count, seed=seed, split=split, chunk=chunk, options=options)
        opened = Cohort.open(cohort) if cohort else Cohort.examples()
        done = draw_sets(spec, out, load_pretrained(weights, device=device), opened, shard, shards)
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    missing = f"shard {shard} of {shards}; others are still missing"
    print(f"Done: {missing if done is None else f'all {len(done)} synthetic sequences'}, in {out}.")


if __name__ == "__main__":
    typer.run(main)
