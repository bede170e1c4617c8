"""Commands that put finished weights together, take them apart and upload them; they join the app of `mrtutor.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from mrtutor.cli import PresetName, app, plain_errors


@app.command()
@plain_errors
def pack(
    run: Annotated[Path, typer.Option(help="Folder of a training run.")] = Path("outputs/laptop"),
    out: Annotated[Path, typer.Option(help="Folder of the pipeline.")] = Path("data/pretrained/laptop"),
    preset: PresetName = "laptop",
    variant: Annotated[str | None, typer.Option(help="Guidance variant; default the preset's.")] = None,
    device: Annotated[
        str | None, typer.Option(help="What trained it, for the card; default what the run says.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Figures for the card, if of these weights.")] = Path(
        "data/results/weights.json"
    ),
    beside: Annotated[
        Path | None,
        typer.Option(help="Only the guidance network, for --out beside this pipeline, whose U-Net it took."),
    ] = None,
) -> None:
    """Put the trained parts together as a pipeline folder: float16 safetensors, model card, checksums."""
    from mrtutor.metrics.draws import weights_key
    from mrtutor.sampling.pack import pack_guidance, pack_run

    about = {"device": device, "results": results, "key": weights_key}
    if beside:
        done = pack_guidance(run, beside, out, variant=variant, **about)
    else:
        done = pack_run(run, out, preset=preset, variant=variant, **about)
    figures = f"figures of {results}" if done.measured else "no figures: measure these weights, then pack again"
    typer.echo(f"Done: pipeline of {done.size_bytes / 2**20:.1f} MiB in {out}, U-Net of {done.unet}; {figures}.")


@app.command()
@plain_errors
def unpack(
    pipeline: Annotated[str, typer.Argument(help="Name or folder of the weights.")] = "laptop",
    out: Annotated[Path, typer.Option(help="Folder of the run, new or empty.")] = Path("outputs/laptop"),
    plain: Annotated[bool, typer.Option("--plain", help="U-Net without structure, for variants A to C.")] = False,
) -> None:
    """Make a run of packed weights, to train on from them (`train guidance --start`, `train decoder`)."""
    from mrtutor.sampling.unpack import unpack_pipeline

    typer.echo(f"Done: {pipeline} unpacked, its U-Net in {unpack_pipeline(pipeline, out, plain=plain)}.")


@app.command()
@plain_errors
def push(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made if it is new.")],
    folder: Annotated[Path, typer.Option(help="What `mrtutor pack` wrote.")] = Path("data/pretrained/laptop"),
    public: Annotated[bool, typer.Option("--public", help="A new repository is seen by everybody.")] = False,
) -> None:
    """Upload a packed pipeline with its model card; needs a token that may write (`hf auth login`, or HF_TOKEN)."""
    from mrtutor.models.hub import push_to_hub

    typer.echo(f"Done: {folder} uploaded to {push_to_hub(folder, repository, private=not public)}.")
