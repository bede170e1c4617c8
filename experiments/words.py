"""Words obeyed: does the reader find in a drawn sequence what its sentence says, with and without an edge map?

    python -m experiments.words --real outputs/real --plain outputs/plain --count 40

The sentences say all that is known of held-out slices, with and without tumour; every second one is asked for as
"simulated". "word_obeyed" is the share read as said; its null is the share under the sentences in another order. Model
"truth" are the true slices, read as what they are: more cannot be hoped for.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from experiments.likeness import ask, draw
from experiments.tables import keep
from mrtutor.data.cohort import Cohort, choose_rows
from mrtutor.figures import Figure
from mrtutor.metrics.evaluators import WORDS, load_reader
from mrtutor.metrics.intervals import estimate
from mrtutor.pipeline.draw import SequenceSpec, weights_key
from mrtutor.pipeline.weights import load_pretrained


def obeyed(specs: list[SequenceSpec], read: dict[str, np.ndarray]) -> Iterator[dict]:
    """Both shares of each word, of the sequences whose sentence says something of it."""
    for word, values in WORDS.items():
        told = [getattr(spec.findings, word) for spec in specs]
        said = np.array([value is not None for value in told])
        asked = np.array([values.index(value) for value in told if value is not None])
        if len(set(asked)) < 2:
            continue
        patients = [spec.patient for spec, one in zip(specs, said, strict=True) if one]
        other = np.random.default_rng(0).permutation(asked)
        for metric, wanted in {"word_obeyed": asked, "word_obeyed_null": other}.items():
            yield {"metric": metric, "group": word, **vars(estimate(wanted == read[word][said], patients))}


def main(
    real: Annotated[Path, typer.Option()],
    plain: Annotated[str, typer.Option(help="Weights without an edge map.")],
    weights: str = "laptop",
    count: int = 40,
    seed: int = 0,
    readers: Path | None = None,
) -> None:
    """Draw `count` sequences by weights with and without an edge map, and read them."""
    cohort, reader = Cohort.open(real), load_reader(readers)
    own = ask(cohort, choose_rows(cohort, count, seed=seed, tumour=None), seed)
    asked = [replace(one, findings=replace(one.findings, simulated=one.number % 2 == 1)) for one in own]
    about = {"experiment": "words", "cohort": "real", "seed": seed}
    truth = np.asarray(cohort.images[[one.row for one in own]])
    keep(Figure(model="truth", **found, **about) for found in obeyed(own, reader.read_words(truth)))
    for folder in (plain, weights):
        pipe = load_pretrained(folder)
        about |= {"model": pipe.variant if pipe.method.takes_structure else "ldm", "weights": weights_key(pipe)}
        keep(Figure(**found, **about) for found in obeyed(asked, reader.read_words(draw(pipe, asked))))


if __name__ == "__main__":
    typer.run(main)
