"""Commands that train, sample and measure; they join the app of `mrtutor.cli`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrtutor.cli import PresetName, app, check_device, plain_errors

if TYPE_CHECKING:
    from mrtutor.data.cohort import Cohort

CohortFolder = Annotated[Path, typer.Option(help="Folder of a prepared cohort.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed; the same seed gives the same result on one machine.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")]

FULL = "without --quick or --variants"
REPORTS = {"--variants": "variants", "--quick": "weights", FULL: "evaluation"}  # of `evaluate`, in data/results
TAKEN_BY = {  # options that not every stage of `train`, or not every way to `evaluate`, reads
    "train": {
        "variant": ("guidance", "all"),
        "text_encoder": ("text", "all"),
        "unet": ("denoiser", "all"),
        "vae": ("autoencoder", "all"),
        "start": ("guidance", "stylegan2"),
    },
    "evaluate": {
        **dict.fromkeys(("stylegan2", "ldm", "paper_variant", "section", "clip"), (FULL,)),
        **dict.fromkeys(("trained_on", "real"), ("--quick",)),
        **dict.fromkeys(("run", "preset"), ("--variants",)),
    },
}


@app.command()
@plain_errors
def train(
    stage: Annotated[str, typer.Argument(help="autoencoder, text, denoiser, guidance, all; decoder; stylegan2.")],
    preset: PresetName = "laptop",
    cohort: CohortFolder = Path("outputs/cohort"),
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default outputs/PRESET.")] = None,
    variant: Annotated[str | None, typer.Option(help="Guidance variant A, B, C or D; default the preset's.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of the preset's.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    text_encoder: Annotated[str | None, typer.Option(help="A CLIP, frozen, instead of ours: folder or hub id.")] = None,
    unet: Annotated[str | None, typer.Option(help="U-Net to start the denoiser from: folder or hub id.")] = None,
    vae: Annotated[str | None, typer.Option(help="An autoencoder, frozen, instead of ours: folder or hub id.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Folder to go on from: of unet-D or a further round, or of a stylegan2.")
    ] = None,
) -> None:
    """Train one stage, or all in order, and save its component in the run's folder."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.models.guidance import Variant
    from mrtutor.models.hub import HubSources
    from mrtutor.presets import load_preset
    from mrtutor.training import stages

    _check_options("train", stage, variant=variant, text_encoder=text_encoder, unet=unet, vae=vae, start=start)
    check_device(device)
    chosen = Variant(variant) if variant else None
    folder, hub = out or Path("outputs") / preset, HubSources(text_encoder, unet, vae)
    run = stages.Run(load_preset(preset), Cohort.open(cohort), folder, seed, device, steps, hub, start)
    if stage == "stylegan2":
        from mrtutor.baselines.gan_training import train_stylegan2

        path = train_stylegan2(run, resume=resume)
        typer.echo(f"Done: stylegan2 trained in {path}; log and sheets in {folder / 'runs'}.")
        return
    for name in stages.STAGES if stage == "all" else [stage]:
        path = stages.train(run, name, variant=chosen, resume=resume)
        if name in run.given:
            typer.echo(f"Done: {name} taken from {run.given[name]} to {path}; nothing was trained.")
        else:
            typer.echo(f"Done: {name} trained in {path}; log and sheets in {folder / 'runs'}.")


def _check_options(command: str, mode: str, **options: object) -> None:
    """Refuse an option that this stage of a command, or this way to call it, would not read."""
    for name, value in options.items():
        takers = TAKEN_BY[command][name]
        if value not in (None, []) and mode not in takers:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is for `{command} {' or '.join(takers)}`, got it with {mode!r}: leave it out.")


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
    from mrtutor.metrics.correspondence import FIGURES
    from mrtutor.sampling import subject as work
    from mrtutor.sampling.pretrained import load_pretrained

    if (subject is None) == (structure is None):
        raise ValueError("Expected either --subject FOLDER or --structure PNG.")
    pipe = load_pretrained(pipeline)
    if subject:
        options = {"slice_index": slice_index, "structure_from": structure_from, "seed": seed, "steps": steps}
        result = work.sample_subject(pipe, subject, idh, out, **options, likeness=FIGURES)
    else:
        result = work.sample_structure(pipe, structure, idh, out, seed=seed, steps=steps)
    for name, value in result.figures.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"Done: {len(result.files)} files of synthetic images in {out}.")


@app.command()
@plain_errors
def evaluate(
    quick: Annotated[bool, typer.Option("--quick", help="Only the figures of the model card.")] = False,
    variants: Annotated[int | None, typer.Option(min=1, help="Only compare guidance variants, STEPS each.")] = None,
    pipeline: Annotated[str, typer.Option(help="Name or folder of the weights.")] = "laptop",
    cohort: CohortFolder = Path("outputs/cohort"),
    count: Annotated[int | None, typer.Option(min=8, help="Sequences; default 500, with --quick 100.")] = None,
    stylegan2: Annotated[Path | None, typer.Option(help="StyleGAN2 baseline.")] = None,
    ldm: Annotated[Path | None, typer.Option(help="Pipeline of a plain LDM, or of A, whose U-Net is one.")] = None,
    paper_variant: Annotated[Path | None, typer.Option(help="Pipeline of the paper's variant A.")] = None,
    section: Annotated[list[str] | None, typer.Option(help="Only this section, as table1; may be repeated.")] = None,
    clip: Annotated[Path | None, typer.Option(help="A hub CLIP (ViT-B/16) as a second judge of prompts.")] = None,
    reader: Annotated[Path, typer.Option(help="Independent reader; trained here if missing.")] = Path("outputs/reader"),
    draws: Annotated[Path, typer.Option(help="Where drawn sequences are kept.")] = Path("outputs/evaluation"),
    run: Annotated[Path | None, typer.Option(help="With --variants: training run; default outputs/laptop.")] = None,
    preset: Annotated[str | None, typer.Option(help="With --variants: that of the run; default laptop.")] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Report; default in data/results, for weights laptop on the cohort of `make simulate`."),
    ] = None,
    trained_on: Annotated[
        str | None, typer.Option(help="With --quick: what trained the weights, for the record.")
    ] = None,
    real: Annotated[
        list[Path] | None, typer.Option(help="With --quick: folder of a real case, for the autoencoder.")
    ] = None,
) -> None:
    """Measure models on the cohort's test patients: Tables 1, 2 and 3, every figure with its null or ceiling."""
    from mrtutor.data.cohort import Cohort
    from mrtutor.metrics.reader import train_reader

    if quick and variants:
        raise ValueError("Expected --quick or --variants, got both: run one after the other.")
    mode = "--variants" if variants else "--quick" if quick else FULL
    others = {"stylegan2": stylegan2, "ldm": ldm, "paper_variant": paper_variant, "section": section, "clip": clip}
    _check_options("evaluate", mode, **others, trained_on=trained_on, real=real, run=run, preset=preset)
    opened, preset = Cohort.open(cohort), preset or "laptop"
    out = out or _shipped_report(mode, preset if variants else pipeline, opened)
    if variants:
        from mrtutor.metrics.variants import compare_variants
        from mrtutor.presets import load_preset
        from mrtutor.training.run import Run

        work = Run(load_preset(preset), opened, run or Path("outputs/laptop"), seed)
        report = compare_variants(work, variants, count=count or 50, output=out)
    elif quick:
        from mrtutor.metrics.weights import evaluate_weights
        from mrtutor.sampling.pretrained import load_pretrained

        weights = load_pretrained(pipeline)
        options = {"count": count or 100, "seed": seed, "trained_on": trained_on, "real": real or ()}
        report = evaluate_weights(weights, opened, train_reader(opened, reader), out, **options)
    else:
        from mrtutor.metrics import evaluation, setting
        from mrtutor.metrics.features import load_features

        chosen = evaluation.check_sections(section)
        models, references = _samplers(pipeline, opened, ldm=ldm, paper_variant=paper_variant, stylegan2=stylegan2)
        judges, features = _judges(clip), load_features()
        options = {"count": count or 500, "swaps": min(count or 500, setting.MAX_SWAPS), "seed": seed}
        options |= {"preset": pipeline, "references": references}
        asked = train_reader(opened, reader) if "prompt_against_mask" in chosen else None  # minutes, the first time
        what = setting.Setting(opened, models, asked, judges, features, **options)
        report = evaluation.evaluate(what, out, draws, chosen)
    typer.echo(f"Done: {', '.join(k for k, v in report.items() if isinstance(v, dict) and k != 'of')} in {out}.")


def _shipped_report(mode: str, weights: str, cohort: "Cohort") -> Path:
    """Where the figures of the shipped weights stand; those of others, or of other patients, never replace them."""
    from mrtutor.training.batches import recipe_key

    path = Path("data/results") / f"{REPORTS[mode]}.json"
    of = json.loads(path.read_text()).get("of", {}) if path.is_file() else {}
    here = recipe_key(cohort)
    if weights != "laptop" or of.get("recipe" if mode == FULL else "cohort_recipe", here) != here:
        raise ValueError(
            f"{path} is of the weights laptop on the course's own cohort, got {weights} on {cohort.path}: "
            "say with --out where the report is to go, as --out outputs/results.json."
        )
    return path


def _samplers(
    pipeline: str, cohort: object, *, ldm: Path | None, paper_variant: Path | None, stylegan2: Path | None
) -> tuple[dict, dict]:
    """The models that are evaluated, ours first; and what is no model but stands beside them."""
    from mrtutor.files import CHECKSUMS, sha256
    from mrtutor.metrics.draws import Sampler, pipeline_sampler, reconstruction_sampler
    from mrtutor.sampling.pretrained import load_pretrained

    ours = load_pretrained(pipeline)
    samplers = {"ours": pipeline_sampler(ours)}
    samplers["ldm"] = pipeline_sampler(ours, structure=False)
    if ldm:
        samplers["ldm_alone"] = pipeline_sampler(load_pretrained(ldm), structure=False)
    if paper_variant:
        samplers["variant_A"] = pipeline_sampler(load_pretrained(paper_variant))
    if stylegan2:
        from mrtutor.baselines.stylegan2 import load_stylegan2

        gan = load_stylegan2(stylegan2)
        key = sha256(stylegan2 / CHECKSUMS)[:12]
        samplers["stylegan2"] = Sampler(key, lambda order: gan.sequences([order.idh], order.seed)[0])
    return samplers, {"reconstruction": reconstruction_sampler(ours, cohort)}


def _judges(clip: Path | None) -> dict:
    """CLIPs that score prompts: the shipped one, then the one from the hub where given."""
    from mrtutor.metrics.clip_score import load_hub_scorer, load_scorer

    judges = [load_scorer(), *([load_hub_scorer(clip)] if clip else [])]
    return {judge.name: judge for judge in judges}
