"""Everything that is measured of the models, one section after another: `mrtutor evaluate`.

First every model draws its set (`mrtutor.metrics.draws`; resumable sequence by sequence), then each section is computed
and stored at once: a run that was cut off goes on with the next one, and a model that joins or changes costs its own
rows alone. The report is `data/results/evaluation.json`; its keys are those of DESIGN section 3.
"""

import json
from collections.abc import Callable, Collection, Mapping
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
from mrtutor.metrics.rows import joined, named, without
from mrtutor.metrics.table2 import PREDICTION, table2
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

    def only(self, names: Collection[str]) -> "Drawn":
        """The sets of some models and references."""
        parts = ({k: v for k, v in sets.items() if k in names} for sets in (self.own, self.swapped, self.references))
        return Drawn(*parts, self.truth)

    def images(self, models_only: bool = False) -> dict[str, np.ndarray]:
        """Name -> (n, 4, 256, 256) uint8, as Table 1 takes them."""
        sets = self.own if models_only else {**self.own, **self.references}
        return {name: s.images for name, s in sets.items()}


def draw_all(setting: Setting, folder: str | Path, missing: Mapping[str, Collection[str]]) -> Drawn:
    """Every set that a section misses, drawn or read from `folder`; `missing`: section -> names of models."""
    rows = held_out_rows(setting.cohort, setting.count)
    needed, against = {name for names in missing.values() for name in names}, missing.get("prompt_against_mask", ())

    def drawn(samplers: Mapping[str, Sampler], count: int, wanted: Collection[str], **options: bool) -> dict:
        return {
            name: draw_set(name, sampler, setting.cohort, rows[:count], folder, setting.seed, **options)
            for name, sampler in samplers.items()
            if name in wanted
        }

    own = drawn(setting.samplers, setting.count, needed)
    follow = {name: sampler for name, sampler in setting.samplers.items() if sampler.follows_structure}
    swapped = drawn(follow, setting.swaps, against, swap_idh=True)
    return Drawn(own, swapped, drawn(setting.references, setting.count, needed), cohort_set(setting.cohort, rows))


def evaluate(setting: Setting, output: str | Path = REPORT, folder: str | Path = DRAWS) -> dict:
    """Draw, measure, write.

    Args:
        setting: see `Setting`.
        output: the report. Nothing of another cohort, N or seed is kept; else what stands there already stays, apart
            from the rows of models that changed and from sections whose judges did. A model that is left out this time
            keeps its rows.
        folder: of the drawn sets.

    Returns:
        The report: "of" (the key), "seed", "commit" (of the newest figures), "preset", "simulated", and `SECTIONS`.

    Raises:
        ValueError: see `Setting.check`.
    """
    setting.check()
    output = Path(output)
    stored = json.loads(output.read_text()) if output.is_file() else {}
    kept = _kept(stored, setting)
    missing = {section: names for section in MEASURES if (names := _missing(setting, section, kept.get(section)))}
    if not missing:
        return stored
    key = setting.key
    if kept:
        key["samplers"] = stored["of"]["samplers"] | key["samplers"]
    report = {"of": key, "seed": setting.seed, "commit": commit(), "preset": setting.preset}
    report |= {"simulated": True, "count": setting.count} | kept
    drawn = draw_all(setting, folder, missing)
    bar = tqdm(missing.items(), desc="sections")
    for section, names in bar:
        bar.set_postfix_str(section)
        report = joined(report, MEASURES[section](setting, drawn.only(names)))
        write_json(output, report)
    return report


def _kept(stored: dict, setting: Setting) -> dict:
    """Sections, and rows in them, of a stored report that still hold."""
    of, now = stored.get("of"), setting.key
    if not of or any(of.get(part) != now[part] for part in ("cohort", "count", "seed")):
        return {}
    changed = [name for name, key in now["samplers"].items() if of["samplers"].get(name, key) != key]
    holds = [s for s in SECTIONS if s in stored and all(of.get(part) == now[part] for part in READS[s])]
    return {s: without(stored[s], [_row(setting, s, name) for name in changed]) for s in holds}


def _missing(setting: Setting, section: str, stands: dict | None) -> list[str]:
    """Models whose rows a section lacks."""
    asked = [*setting.samplers, *([] if section in MODELS_ONLY else setting.references)]
    rows = [_row(setting, section, name) for name in asked]
    there = named(stands, rows)
    return [name for name, row in zip(asked, rows, strict=True) if row not in there]


def _row(setting: Setting, section: str, name: str) -> str:
    """Under which name a section speaks of a model."""
    return PREDICTION if section == "table2" and name == _first(setting) else name


def _first(setting: Setting) -> str:
    return next(iter(setting.samplers))


def _table2(setting: Setting, drawn: Drawn) -> dict:
    sets = {**drawn.own, **drawn.references}
    return {"table2": table2(sets, drawn.truth, setting.seed, prediction=_first(setting))}


def _table3(setting: Setting, drawn: Drawn) -> dict:
    sets = {**drawn.own, **drawn.references}
    tables = {name: table3(sets, drawn.truth, judge, name) for name, judge in setting.judges.items()}
    if _first(setting) not in sets:  # at the top stands the prediction
        tables = {name: {key: table[key] for key in ("retrieval", "models")} for name, table in tables.items()}
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
    "two_sample": _two_sample,
    "memorisation": _memorisation,
    "utility": _utility,
}
SECTIONS = (*MEASURES, "floor")
MODELS_ONLY = ("prompt_against_mask", "memorisation", "utility")  # where the references have no row
READS = {  # parts of the key that a section depends on, besides models, cohort, count and seed
    "table2": (),
    "table3": ("judges",),
    "prompt_against_mask": ("reader", "swaps"),
    "table1": ("features", "resamples"),
    "floor": ("features", "resamples"),
    "two_sample": ("features", "steps"),
    "memorisation": (),
    "utility": ("steps",),
}
