"""`mrtutor` on the command line. Commands are thin; heavy imports are inside them, so that --help is fast."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrtutor.files import writable_folder

if TYPE_CHECKING:
    from mrtutor.data.build import BuildReport
    from mrtutor.data.cohort import Cohort
    from mrtutor.pipeline.pipeline import MRPipeline

app = typer.Typer(
    help="Controllable text-to-image synthesis of multi-modality MR images, step by step. Not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
WORKERS = min(os.cpu_count() or 1, 8)
MISTAKE = 2  # exit status of a user's mistake, as in typer itself
INTERRUPTED = 130  # exit status after Ctrl-C, as in a shell
MAX_SEED = 2**63 - 1

Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed; the same seed, the same result on one machine.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; default the fastest here.")]
Weights = Annotated[str, typer.Option(help="Name or folder of the weights.")]
CohortOut = Annotated[Path, typer.Option(help="Folder of the cohort; an unfinished one is continued.")]


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Say a user's mistake, a full disk or Ctrl-C in one line, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args: object, **kwargs: object) -> None:
        again = "with --resume" if "resume" in kwargs else "again"  # without it, `train` starts anew
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            _stop(f"Interrupted. Nothing is half-written; run the same command {again} to go on.", INTERRUPTED)
        except (ValueError, OSError, FloatingPointError) as error:
            _stop(f"Error: {' '.join(str(error).split())}", MISTAKE)
        except RuntimeError as error:
            if type(error).__name__ != "BrokenProcessPool":
                raise
            _stop("Error: a worker process died, probably of memory: run again with fewer --workers.", 1)

    return wrapped


def _stop(message: str, status: int) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(status)


def _device(name: str | None) -> str | None:
    """Refuse a device that this machine does not have."""
    if name is None:
        return None
    import torch

    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = [device for device, there in found.items() if there]
    if name.split(":")[0] not in here:
        raise ValueError(f"No device {name!r} here: expected --device {' or '.join(here)}.")
    return name


def _load(weights: str, device: str | None) -> "MRPipeline":
    """A pipeline; the libraries' own progress bars would bury the one line that counts."""
    from diffusers.utils.logging import disable_progress_bar

    from mrtutor.pipeline.weights import load_pretrained

    disable_progress_bar()
    return load_pretrained(weights, device=_device(device))


@app.command()
@plain_errors
def simulate(
    out: CohortOut = Path("outputs/cohort"),
    patients: Annotated[int, typer.Option(min=1, help="Simulated patients; the paper has 484.")] = 484,
    seed: Seed = 0,
    workers: Workers = WORKERS,
    nifti: Annotated[Path | None, typer.Option(help="Also write BraTS-style NIfTI folders here.")] = None,
    device: Device = "cpu",
) -> None:
    """Simulate patients and prepare their slices as a cohort (simulated images, no patients)."""
    # One cohort for all readers: left to itself, MKL rounds otherwise on CPUs with AVX-512, and growth and thresholds
    # make more of it. The workers inherit it.
    os.environ.setdefault("MKL_CBWR", "AVX2")
    from mrtutor.data.build import build_cohort
    from mrtutor.data.sources import SimulatedCase

    writable_folder(out)
    if nifti and (out / "cohort.json").exists():
        raise ValueError(f"{out} is finished: NIfTI are written while simulating; choose another --out.")
    options = {"device": _device(device) or "cpu", "nifti": nifti and str(writable_folder(nifti))}
    cases = [SimulatedCase(number, seed, **options) for number in range(patients)]
    settings = {"source": "simulated", "seed": seed}
    _report(build_cohort(cases, out, settings, workers))


@app.command()
@plain_errors
def prepare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of cases, or a public cohort as downloaded.")],
    source: Annotated[
        str,
        typer.Option(help="Layout: folder (any), or a public cohort's, as brats-2021; an unknown word lists them."),
    ] = "folder",
    labels: Annotated[
        Path | None, typer.Option(help="Table of IDH types: columns subject_id, idh, or the cohort's own table.")
    ] = None,
    idh: Annotated[str | None, typer.Option(help="IDH type of every case: mutant or wild.")] = None,
    skull: Annotated[bool, typer.Option("--skull", help="Take images with the skull on (kaggle-3m).")] = False,
    label_codes: Annotated[
        str | None, typer.Option(help="How the segmentation is numbered, as brats-2021; default read off it.")
    ] = None,
    out: CohortOut = Path("outputs/cohort"),
    workers: Workers = WORKERS,
) -> None:
    """Prepare real cases (NIfTI with a tumour segmentation) as a cohort; sequences may be missing, IDH unknown."""
    from mrtutor.data.build import build_cohort
    from mrtutor.data.sources import find_cases, read_table

    writable_folder(out)
    table = None
    if labels is not None:
        table = read_table(labels, folders)
        typer.echo(f"Table: {table}")
    cases = find_cases(folders, source, table, idh, skull=skull, label_codes=label_codes)
    _report(build_cohort(cases, out, {"source": source}, workers))


def _report(report: "BuildReport") -> None:
    """How files were read and what was skipped, then one line: what happened and where it is."""
    for case, note in report.notes:
        typer.echo(f"Note: {case}: {note}")
    for case, reason in report.skipped:
        typer.echo(f"Skipped {case}: {reason}", err=True)
    verb = "Already complete" if report.already_complete else "Done"
    typer.echo(f"{verb}: {_described(report.cohort)} ({len(report.skipped)} case(s) skipped).")


def _described(cohort: "Cohort") -> str:
    kind = "simulated" if cohort.simulated else "real"
    people = cohort.patients["patient"].nunique()
    return f"{len(cohort)} slices of {people} {kind} patients in {cohort.path}"


@app.command()
@plain_errors
def train(
    stage: Annotated[str, typer.Argument(help="autoencoder, decoder, text, denoiser, guidance or student; or all.")],
    preset: Annotated[str, typer.Option(help="smoke, laptop, colab or paper.")] = "laptop",
    cohort: Annotated[list[Path] | None, typer.Option(help="A prepared cohort; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default outputs/PRESET.")] = None,
    variant: Annotated[
        str | None, typer.Option(help="Guidance variant, as paper or D; an unknown one lists them.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of the preset's.")] = None,
    seed: Seed = 0,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    start: Annotated[str | None, typer.Option(help="Weights to go on from: a name or a folder.")] = None,
    text_encoder: Annotated[str | None, typer.Option(help="A CLIP, frozen, instead of ours: folder or hub id.")] = None,
    unet: Annotated[str | None, typer.Option(help="U-Net to start the denoiser from: folder or hub id.")] = None,
    vae: Annotated[str | None, typer.Option(help="An autoencoder, frozen, instead of ours: folder or hub id.")] = None,
) -> None:
    """Train one stage, or all in order; the folder of the run is a pipeline that `sample` can draw with."""
    from mrtutor.training.stages import train_command

    folder = writable_folder(out or Path("outputs") / preset)
    cohorts = cohort or [Path("outputs/cohort")]
    options = {"preset": preset, "steps": steps, "seed": seed, "device": _device(device), "start": start}
    options |= {"text_encoder": text_encoder, "unet": unet, "vae": vae}
    components = train_command(stage, cohorts, folder, variant=variant, resume=resume, **options)
    typer.echo(f"Done: {', '.join(str(path) for path in components)}; logs and sheets in {folder / 'training'}.")


@app.command()
@plain_errors
def sample(
    subject: Annotated[Path | None, typer.Option(help="Folder of a real case (NIfTI).")] = None,
    structure: Annotated[Path | None, typer.Option(help="Or an edge map: white lines on black, 256 x 256.")] = None,
    slice_number: Annotated[
        int | None, typer.Option("--slice", min=0, help="Axial slice, from 0 as in the files; default most tumour.")
    ] = None,
    edges_of: Annotated[str | None, typer.Option(help="Modality whose edges are taken; default T1Gd.")] = None,
    idh: Annotated[str | None, typer.Option(help="IDH type to draw: mutant or wild; default not said.")] = None,
    weights: Weights = "laptop",
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps; default the weights'.")] = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures and NIfTI.")] = Path("outputs/sample"),
) -> None:
    """Draw a four-modality sequence from the edges of a real case, or from an edge map (synthetic images)."""
    if (subject is None) == (structure is None):
        raise ValueError("Expected either --subject FOLDER or --structure PNG.")
    if structure is not None and (slice_number is not None or edges_of is not None):
        raise ValueError("--slice and --edges-of are not read with --structure: leave them out.")
    from mrtutor.pipeline.draw import sample_structure, sample_subject

    writable_folder(out)
    pipe = _load(weights, device)
    options = {"idh": idh, "seed": seed, "steps": steps}
    if structure is not None:
        drawn = sample_structure(pipe, structure, out, **options)
    else:
        edges_of = edges_of or "T1Gd"
        drawn = sample_subject(pipe, subject, out, slice_number=slice_number, edges_of=edges_of, **options)
        typer.echo(f"Slice {drawn.slice_number} of the files, counted from 0; edges of {edges_of}.")
    typer.echo(f"Done: {len(drawn.files)} files of synthetic images in {out}.")


@app.command()
@plain_errors
def evaluate(
    weights: Weights = "laptop",
    cohort: Annotated[Path | None, typer.Option(help="A prepared cohort; default the examples of the course.")] = None,
    count: Annotated[int, typer.Option(min=8, help="Sequences to draw.")] = 100,
    section: Annotated[list[str] | None, typer.Option(help="Only this part, as quality; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps; default the weights'.")] = None,
    seed: Seed = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="Folder of the sequences and figures.csv.")] = Path("outputs/evaluation"),
) -> None:
    """Draw sequences from the edges of held-out patients and measure them; an interrupted run is continued."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.figures import record
    from mrtutor.metrics import evaluate as measures
    from mrtutor.metrics.distances import load_features
    from mrtutor.metrics.evaluators import load_reader
    from mrtutor.metrics.prompts import load_scorer
    from mrtutor.pipeline.draw import DrawSpec, draw_sets, weights_key

    writable_folder(out)
    sections = section or list(measures.SECTIONS)
    if unknown := set(sections) - set(measures.SECTIONS):
        known = ", ".join(measures.SECTIONS)
        raise ValueError(f"Unknown --section {', '.join(unknown)}: expected one of {known}.")
    networks = {}
    if "quality" in sections:
        networks["features"] = load_features()
    if "words" in sections:
        networks["scorer"] = load_scorer()
        try:
            networks["reader"] = load_reader()
        except FileNotFoundError as error:
            typer.echo(f"Left out what readers say: {error}")
    opened = Cohort.open(cohort) if cohort else Cohort.examples()
    pipe = _load(weights, device)
    options = {} if steps is None else {"num_inference_steps": steps}
    spec = DrawSpec(count, seed=seed, options=options)
    drawn = draw_sets(spec, out / "own", pipe, opened)
    about = {"weights": weights_key(pipe), "sections": sections}
    figures = measures.evaluate(drawn, opened, pipe.variant, **networks, **about)
    record(figures, out / "figures.csv")
    typer.echo(measures.as_table(figures).to_string())
    typer.echo(f"Done: {len(figures)} figures of {len(drawn)} synthetic sequences in {out / 'figures.csv'}.")


@app.command()
@plain_errors
def info(cohort: Annotated[Path | None, typer.Argument(help="A cohort to describe and verify.")] = None) -> None:
    """Versions and devices; or what a cohort holds."""
    if cohort is None:
        import platform
        from importlib.metadata import version

        import torch

        names = ("torch", "diffusers", "transformers", "torchio", "numpy")
        typer.echo(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        typer.echo(f"CPU cores {os.cpu_count()}, GPU {gpu}")
        return
    from mrtutor.data.cohort import Cohort

    opened = Cohort.open(cohort, verify=True)
    people = opened.patients.assign(idh=opened.patients["idh"].replace("", "unknown"))
    groups = people.groupby(["split", "idh"])
    typer.echo(groups.agg(patients=("patient", "nunique"), slices=("slices", "sum")).to_string())
    for case, reason in opened.manifest.get("skipped", []):
        typer.echo(f"Skipped {case}: {reason}")
    typer.echo(f"{_described(opened)}; checksums agree.")


def main() -> None:
    """Entry point of the console script."""
    app()
