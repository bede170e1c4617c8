"""`python -m mrtutor.study`: draw the pictures of a study and write its folder; nothing is drawn twice."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    out: Annotated[Path, typer.Option(help="folder of the study")] = Path("outputs/reader_study"),
    weights: Annotated[str, typer.Option(help="a name below data/pretrained, or a folder")] = "laptop",
    cohort: Annotated[
        Path | None, typer.Option(help="folder of a prepared cohort; default the shipped examples")
    ] = None,
    questions: Annotated[int, typer.Option(help="of each of the two tests")] = 20,
    minutes: Annotated[float, typer.Option(help="for each of the two tests")] = 30.0,
    seed: Annotated[int, typer.Option(help="of cases, noise, order and sides")] = 0,
) -> None:
    """Prepare a reader study; about 2 minutes for 20 questions on 2 CPU cores, a moment if it is there already."""
    from mrtutor.study.prepare import prepare_study

    try:
        study = prepare_study(out, weights, cohort, questions=questions, minutes=minutes, seed=seed)
    except (ValueError, OSError) as error:
        print(f"mrtutor.study: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"Ready in {out}: {study.questions} questions and {study.minutes:g} min per test, beside {study.source}.")


if __name__ == "__main__":
    typer.run(prepare)
