"""`mrtutor` on the command line. Commands stay thin; heavy imports stand inside them so that --help is fast."""

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Controllable text-to-image synthesis of multi-modality MR images, step by step. Not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
WORKERS = min(os.cpu_count() or 1, 8)
MISTAKE = 2  # exit status of a user's mistake, as in typer itself
INTERRUPTED = 130  # exit status after Ctrl-C, as in a shell

Out = Annotated[Path, typer.Option(help="Folder of the cohort; an unfinished one is continued.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
PresetName = Annotated[str, typer.Option(help="smoke, laptop, colab or paper.")]


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
            _stop(f"Error: {_one_line(error, again)}", MISTAKE)
        except RuntimeError as error:
            if type(error).__name__ != "BrokenProcessPool":
                raise
            _stop("Error: a worker process died, probably of memory: run again with fewer --workers.", 1)

    return wrapped


def _one_line(error: Exception, again: str) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({text}): free some space and run the same command {again}; finished work is kept."
    if isinstance(error, PermissionError):
        return f"no permission ({text}): choose a folder you may write to, or change its rights."
    return text


def _stop(message: str, status: int) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(status)


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: the message lists those it has.
    """
    import torch

    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = [device for device, there in found.items() if there]
    if name not in here:
        raise ValueError(f"No device {name!r} here: this machine has {', '.join(here)}: give one as --device.")


@app.command()
@plain_errors
def simulate(
    out: Out = Path("outputs/cohort"),
    patients: Annotated[int, typer.Option(min=1, help="Number of simulated patients; the paper has 484.")] = 484,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cohort.")] = 0,
    workers: Workers = WORKERS,
    nifti: Annotated[Path | None, typer.Option(help="Also write BraTS-style NIfTI folders here.")] = None,
    device: Annotated[str, typer.Option(help="Torch device; with a GPU take --workers 1.")] = "cpu",
    noise_free: Annotated[bool, typer.Option("--noise-free", help="Without noise, to measure its ceiling.")] = False,
) -> None:
    """Simulate patients and prepare their slices as a cohort (simulated images, no patients)."""
    # one cohort for all readers: left to itself, MKL rounds otherwise on CPUs with AVX-512, and growth and thresholds
    # make more of it; the workers inherit it
    os.environ.setdefault("MKL_CBWR", "AVX2")
    from mrtutor.data.build import build_cohort
    from mrtutor.data.sources import simulated_cases

    check_device(device)
    if nifti and (out / "cohort.json").exists():
        raise ValueError(f"{out} is finished: NIfTI are written while simulating; choose another --out.")
    volumes = None if nifti is None else str(nifti)
    cases = simulated_cases(patients, seed, noise=not noise_free, device=device, nifti=volumes)
    settings = {"source": "simulated", "seed": seed, "noise": not noise_free}
    _say(build_cohort(cases, out, settings, workers), "simulated")


@app.command()
@plain_errors
def prepare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of cases, or a public cohort as downloaded.")],
    source: Annotated[
        str,
        typer.Option(help="Layout: folder (files end in _flair, _t1 …), ucsf-pdgm, brats-2021, brats-2023, upenn-gbm."),
    ] = "folder",
    labels: Annotated[
        Path | None, typer.Option(help="CSV of IDH types: columns subject_id, idh, or the cohort's own table.")
    ] = None,
    idh: Annotated[str | None, typer.Option(help="IDH type of every case: mutant or wild.")] = None,
    out: Out = Path("outputs/cohort"),
    workers: Workers = WORKERS,
) -> None:
    """Prepare real four-sequence cases (skull-stripped, segmented NIfTI) as a cohort."""
    from mrtutor.data.build import build_cohort
    from mrtutor.data.public import public_cases, read_table
    from mrtutor.data.public_layouts import layout_of
    from mrtutor.data.sources import folder_cases

    if source == "folder":
        cases = folder_cases(folders, labels, idh)
    else:
        cases = public_cases(folders, source, labels, idh)
        if labels is not None:
            typer.echo(f"Table: {read_table(layout_of(source), labels)}; {len(cases)} exam(s) on disk.")
    _say(build_cohort(cases, out, {"source": source}, workers), "real")


def _say(report: object, kind: str) -> None:
    """The skipped cases, their reasons counted, then one line: what happened and where it lies."""
    from mrtutor.data.skipped import count_reasons

    for case, reason in report.skipped:
        typer.echo(f"Skipped {case}: {reason}", err=True)
    if report.skipped:
        counts = ", ".join(f"{count} {why}" for why, count in count_reasons(report.skipped).items())
        typer.echo(f"Skipped by reason: {counts}.", err=True)
    verb = "Already complete" if report.already_complete else "Done"
    typer.echo(
        f"{verb}: {report.slices} slices of {report.patients} {kind} patients in {report.path}"
        f" ({len(report.skipped)} case(s) skipped)."
    )


@app.command()
@plain_errors
def info(cohort: Annotated[Path | None, typer.Argument(help="A cohort to describe and verify.")] = None) -> None:
    """Versions and devices; or what a cohort holds."""
    if cohort is None:
        _say_versions()
        return
    from mrtutor.data.cohort import Cohort

    opened = Cohort.open(cohort, verify=True)
    people = opened.patients
    typer.echo(people.groupby(["split", "idh"]).agg(patients=("slices", "size"), slices=("slices", "sum")).to_string())
    for case, reason in opened.manifest["skipped"]:
        typer.echo(f"Skipped {case}: {reason}")
    source = opened.manifest["source"]
    typer.echo(f"{len(opened)} slices of {len(people)} patients ({source}) in {cohort}; checksums agree.")


def _say_versions() -> None:
    import platform
    from importlib.metadata import version

    import torch

    from mrtutor.presets import PRESETS

    names = ("torch", "diffusers", "transformers", "torchio", "numpy")
    typer.echo(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    typer.echo(f"CPU cores {os.cpu_count()}, GPU {gpu}; presets {', '.join(PRESETS)}")


def main() -> None:
    """Entry point of the console script: all commands on one app."""
    from mrtutor import cli_models, cli_weights  # noqa: F401  (importing them adds the commands)

    app()
