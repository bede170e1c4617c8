"""Everything that is measured of the models, one section after another: `mrtutor evaluate`.

First every model draws its set (`mrtutor.metrics.draws`; resumable sequence by sequence), then each section is computed
and stored at once, so that a run that was cut off goes on with the next one. The report is
`data/results/evaluation.json`; its keys are those of DESIGN section 3.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.files import write_json
from mrtutor.metrics import table1, two_sample
from mrtutor.metrics import utility as segmentation
from mrtutor.metrics.clip_score import Scorer
from mrtutor.metrics.draws import Sampler, SyntheticSet, cohort_set, draw_set, held_out_rows, network_key
from mrtutor.metrics.features import Features
from mrtutor.metrics.frechet import RESAMPLES
from mrtutor.metrics.reader import Reader
from mrtutor.metrics.record import commit
from mrtutor.metrics.table2 import table2
from mrtutor.metrics.table3 import prompt_against_mask, table3
from mrtutor.training.batches import cohort_key

REPORT = Path("data/results/evaluation.json")
DRAWS = Path("outputs/evaluation")
MAX_SWAPS = 100  # sequences with the other type's word, by default


@dataclass(frozen=True)
class Setting:
    """What to evaluate: the models, on which patients, by which judges."""

    cohort: Cohort
    samplers: Mapping[str, Sampler]  # the first is *ours*, the prediction of Table 2
    reader: Reader
    judges: Mapping[str, Scorer]  # the first is the main one of Table 3
    features: Features  # in which Table 1 compares
    count: int = 500  # sequences per model, half of them mutant
    swaps: int = MAX_SWAPS  # sequences with the other type's word
    seed: int = 0
    preset: str = "laptop"
    references: Mapping[str, Sampler] = field(default_factory=dict)  # no models: shown in the tables beside them
    steps: int | None = None  # of the networks trained for two-sample test and utility; default theirs
    resamples: int = RESAMPLES  # bootstrap draws of the distances

    def check(self) -> None:
        """Fail before anything is drawn.

        Raises:
            ValueError: no sampler, no judge, too few sequences, a name used twice.
        """
        if not self.samplers or not self.judges:
            raise ValueError("Expected at least one sampler and one judge: give both.")
        if self.count < 8 or not 4 <= self.swaps <= self.count:
            raise ValueError(
                f"Expected at least 8 sequences and 4 to {self.count} swaps, got {self.count} and {self.swaps}."
            )
        if both := set(self.samplers) & set(self.references):
            raise ValueError(f"{', '.join(both)} named both as model and as reference: choose another name.")

    @property
    def key(self) -> dict:
        """Changes with all that a stored section depends on."""
        return {
            "cohort": cohort_key(self.cohort),
            "count": self.count,
            "swaps": self.swaps,
            "seed": self.seed,
            "samplers": {name: s.key for name, s in {**self.samplers, **self.references}.items()},
            "judges": {name: network_key(judge.model) for name, judge in self.judges.items()},
            "reader": network_key(self.reader.modality, self.reader.idh),
            "features": network_key(self.features.network),
            "steps": self.steps or {"two_sample": two_sample.STEPS, "utility": segmentation.STEPS},
            "resamples": self.resamples,
        }


@dataclass(frozen=True)
class Drawn:
    """The sets of a setting."""

    own: dict[str, SyntheticSet]  # models
    swapped: dict[str, SyntheticSet]  # models that follow a structure, with the other type's word
    references: dict[str, SyntheticSet]
    truth: SyntheticSet

    def images(self, models_only: bool = False) -> dict[str, np.ndarray]:
        """Name -> (n, 4, 256, 256) uint8, as Table 1 takes them."""
        sets = self.own if models_only else {**self.own, **self.references}
        return {name: s.images for name, s in sets.items()}


def draw_all(setting: Setting, folder: str | Path = DRAWS) -> Drawn:
    """Every set of a setting, drawn or read from `folder`."""
    rows = held_out_rows(setting.cohort, setting.count)

    def drawn(name: str, sampler: Sampler, count: int, **options: bool) -> SyntheticSet:
        return draw_set(name, sampler, setting.cohort, rows[:count], folder, setting.seed, **options)

    own = {name: drawn(name, sampler, setting.count) for name, sampler in setting.samplers.items()}
    swapped = {
        name: drawn(name, sampler, setting.swaps, swap_idh=True)
        for name, sampler in setting.samplers.items()
        if sampler.follows_structure
    }
    references = {name: drawn(name, sampler, setting.count) for name, sampler in setting.references.items()}
    return Drawn(own, swapped, references, cohort_set(setting.cohort, rows))


def evaluate(setting: Setting, output: str | Path = REPORT, folder: str | Path = DRAWS) -> dict:
    """Draw, measure, write.

    Args:
        setting: see `Setting`.
        output: the report; sections that stand there already, of the same setting, are kept.
        folder: of the drawn sets.

    Returns:
        The report: "of" (the key), "seed", "commit", "preset", "simulated", and `SECTIONS`.

    Raises:
        ValueError: see `Setting.check`.
    """
    setting.check()
    output = Path(output)
    report = json.loads(output.read_text()) if output.is_file() else {}
    if report.get("of") != setting.key:  # other weights, another N: nothing that stands there holds
        report = {"of": setting.key, "seed": setting.seed, "commit": commit(), "preset": setting.preset}
        report |= {"simulated": True, "count": setting.count}
    todo = [name for name in SECTIONS if name not in report]
    drawn = draw_all(setting, folder) if todo else None
    bar = tqdm(todo, desc="sections")
    for name in bar:
        bar.set_postfix_str(name)
        if name not in report:  # the section before may have brought it along
            report |= MEASURES[name](setting, drawn)
            write_json(output, report)
    return report


def _table2(setting: Setting, drawn: Drawn) -> dict:
    return {"table2": table2({**drawn.own, **drawn.references}, drawn.truth, setting.seed)}


def _table3(setting: Setting, drawn: Drawn) -> dict:
    sets = {**drawn.own, **drawn.references}
    tables = {name: table3(sets, drawn.truth, judge, name) for name, judge in setting.judges.items()}
    main, *others = tables
    return {"table3": {**tables[main], "other_judges": {name: tables[name] for name in others}}}


def _prompt_against_mask(setting: Setting, drawn: Drawn) -> dict:
    return {"prompt_against_mask": prompt_against_mask(setting.reader, drawn.own, drawn.swapped, drawn.truth)}


def _table1(setting: Setting, drawn: Drawn) -> dict:
    """Also brings the floor."""
    options = {"rows": drawn.truth.rows, "resamples": setting.resamples}
    quality = table1.image_quality(drawn.images(), setting.cohort, setting.features, setting.seed, **options)
    floor = quality.pop("floor")
    return {"table1": quality, "floor": floor}


def _two_sample(setting: Setting, drawn: Drawn) -> dict:
    options = {} if setting.steps is None else {"steps": setting.steps}
    args = drawn.images(), drawn.truth.rows, setting.cohort, setting.features, setting.seed
    return {"two_sample": table1.two_sample(*args, **options)}


def _memorisation(setting: Setting, drawn: Drawn) -> dict:
    return {"memorisation": table1.memorisation(drawn.images(models_only=True), drawn.truth.rows, setting.cohort)}


def _utility(setting: Setting, drawn: Drawn) -> dict:
    options = {} if setting.steps is None else {"steps": setting.steps}
    args = drawn.images(models_only=True), drawn.truth.rows, setting.cohort, setting.seed
    return {"utility": table1.utility(*args, **options)}


MEASURES: dict[str, Callable[[Setting, Drawn], dict]] = {
    "table2": _table2,
    "table3": _table3,
    "prompt_against_mask": _prompt_against_mask,
    "table1": _table1,
    "floor": _table1,
    "two_sample": _two_sample,
    "memorisation": _memorisation,
    "utility": _utility,
}
SECTIONS = tuple(MEASURES)
