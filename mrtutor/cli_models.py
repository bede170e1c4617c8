"""Commands that train, pack, sample and measure; they join the app of `mrtutor.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from mrtutor.cli import app, plain_errors

CohortFolder = Annotated[Path, typer.Option(help="Folder of a prepared cohort.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same result on one machine.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")]
PresetName = Annotated[str, typer.Option(help="smoke, laptop, colab or paper.")]


@app.command()
@plain_errors
def train(
    stage: Annotated[str, typer.Argument(help="autoencoder, text, denoiser, guidance, or all.")],
    preset: PresetName = "laptop",
    cohort: CohortFolder = Path("outputs/cohort"),
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default outputs/PRESET.")] = None,
    variant: Annotated[str | None, typer.Option(help="Guidance variant A, B, C or D; default the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of the preset's.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train one stage, or all in order, and save its component in the run's folder."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.models.guidance import Variant
    from mrtutor.presets import load_preset
    from mrtutor.training import stages

    folder = out or Path("outputs") / preset
    run = stages.Run(load_preset(preset), Cohort.open(cohort), folder, seed, device, steps)
    chosen = Variant(variant) if variant else None
    for name in stages.STAGES if stage == "all" else [stage]:
        path = stages.train(run, name, variant=chosen, resume=resume)
        typer.echo(f"Done: {name} trained in {path}; log and sheets in {folder / 'runs'}.")


@app.command()
@plain_errors
def pack(
    run: Annotated[Path, typer.Option(help="Folder of a training run.")] = Path("outputs/laptop"),
    out: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("data/pretrained/laptop"),
    preset: PresetName = "laptop",
    variant: Annotated[str | None, typer.Option(help="Guidance variant; default the preset's.")] = None,
    device: Annotated[str, typer.Option(help="What trained it, for the model card.")] = "2 CPU cores",
    results: Annotated[Path, typer.Option(help="Figures for the model card.")] = Path("data/results/weights.json"),
) -> None:
    """Put the trained parts together as a pipeline folder: float16 safetensors, model card, checksums."""
    from mrtutor.sampling.pack import pack_run

    size = pack_run(run, out, preset=preset, variant=variant, device=device, results=results)
    typer.echo(f"Done: pipeline of {size / 2**20:.1f} MiB in {out}.")


@app.command()
@plain_errors
def examples(
    cohort: CohortFolder = Path("outputs/cohort"),
    out: Annotated[Path, typer.Option(help="Folder of the examples.")] = Path("data/examples"),
) -> None:
    """Keep a few slices of a simulated cohort as examples for the notebooks."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.data.examples import write_examples

    written = write_examples(Cohort.open(cohort), out)
    typer.echo(f"Done: {len(written)} simulated examples in {out}.")


@app.command()
@plain_errors
def sample(
    idh: Annotated[str, typer.Option(help="IDH type to draw: mutant or wild.")] = "wild",
    subject: Annotated[Path | None, typer.Option(help="Folder of a real four-modality case (NIfTI).")] = None,
    structure: Annotated[Path | None, typer.Option(help="Or a structure map: black-and-white PNG, 256 x 256.")] = None,
    slice_index: Annotated[int | None, typer.Option("--slice", help="Axial slice; default most tumour.")] = None,
    structure_from: Annotated[str, typer.Option(help="Modality whose edges are the structure.")] = "T1Gd",
    pipeline: Annotated[str, typer.Option(help="Name or folder of the weights.")] = "laptop",
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; default the pipeline's.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for pictures and NIfTI.")] = Path("outputs/sample"),
) -> None:
    """Draw a four-modality sequence from a real case's structure or from a structure map (synthetic images)."""
    from mrtutor.sampling import subject as work
    from mrtutor.sampling.pretrained import load_pretrained

    if (subject is None) == (structure is None):
        raise ValueError("Expected either --subject FOLDER or --structure PNG.")
    pipe = load_pretrained(pipeline)
    if subject:
        result = work.sample_subject(
            pipe, subject, idh, out, slice_index=slice_index, structure_from=structure_from, seed=seed, steps=steps
        )
    else:
        result = work.sample_structure(pipe, structure, idh, out, seed=seed, steps=steps)
    for name, value in result.figures.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"Done: {len(result.files)} files of synthetic images in {out}.")


@app.command()
@plain_errors
def evaluate(
    quick: Annotated[bool, typer.Option("--quick", help="The figures of the model card.")] = False,
    pipeline: Annotated[str, typer.Option(help="Name or folder of the weights.")] = "laptop",
    cohort: CohortFolder = Path("outputs/cohort"),
    reader: Annotated[Path, typer.Option(help="Independent reader; trained here if missing.")] = Path("outputs/reader"),
    count: Annotated[int, typer.Option(min=2, help="Sequences.")] = 100,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Report.")] = Path("data/results/weights.json"),
    device: Annotated[str, typer.Option(help="What trained the weights, for the record.")] = "2 CPU cores",
    real: Annotated[list[Path] | None, typer.Option(help="Folder of a real case, for the autoencoder.")] = None,
) -> None:
    """Measure weights on the cohort's test patients; every figure with its null or ceiling."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.metrics.reader import train_reader
    from mrtutor.metrics.weights import evaluate_weights
    from mrtutor.sampling.pretrained import load_pretrained

    if not quick:
        raise ValueError("Only `mrtutor evaluate --quick` exists so far: add --quick.")
    opened = Cohort.open(cohort)
    report = evaluate_weights(
        load_pretrained(pipeline),
        opened,
        train_reader(opened, reader),
        out,
        count=count,
        seed=seed,
        trained_on=device,
        real=real or (),
    )
    typer.echo(f"Done: {', '.join(k for k, v in report.items() if isinstance(v, dict))} measured, in {out}.")
