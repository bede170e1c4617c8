"""What is evaluated: which models on which patients by which judges, and the sets that they draw."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mrtutor.data.cohort import Cohort
from mrtutor.metrics import two_sample
from mrtutor.metrics import utility as segmentation
from mrtutor.metrics.clip_score import Scorer
from mrtutor.metrics.draws import Sampler, SyntheticSet, cohort_set, draw_set, held_out_rows, network_key
from mrtutor.metrics.features import Features
from mrtutor.metrics.frechet import RESAMPLES
from mrtutor.metrics.reader import Reader
from mrtutor.training.batches import cohort_key, recipe_key

MAX_SWAPS = 100  # sequences with the other type's word, by default


@dataclass(frozen=True)
class Setting:
    """What to evaluate: the models, on which patients, by which judges."""

    cohort: Cohort
    samplers: Mapping[str, Sampler]  # the first is *ours*, the prediction of Table 2
    reader: Reader | None  # asked by prompt_against_mask alone
    judges: Mapping[str, Scorer]  # the first is the main one of Table 3
    features: Features  # in which Table 1 compares
    count: int = 500  # sequences per model, half of them mutant
    swaps: int = MAX_SWAPS  # sequences with the other type's word
    seed: int = 0
    preset: str = "laptop"
    references: Mapping[str, Sampler] = field(default_factory=dict)  # no models: shown in the tables beside them
    steps: int | None = None  # of the networks trained for two-sample test and utility; default theirs
    repeats: int = segmentation.REPEATS  # segmenters of the utility, per arm
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
    def first(self) -> str:
        """Name of the prediction."""
        return next(iter(self.samplers))

    @property
    def key(self) -> dict:
        """Changes with all that a stored section depends on.

        Each model's entry says how many sequences it drew for which pixels: a left-out model may keep rows of fewer,
        and of a cohort that another machine rounded otherwise.
        """
        drawn = f"{self.count} sequences of cohort {cohort_key(self.cohort)}"
        return {
            "recipe": recipe_key(self.cohort),
            "swaps": self.swaps,
            "seed": self.seed,
            "samplers": {name: f"{s.key}, {drawn}" for name, s in {**self.samplers, **self.references}.items()},
            "judges": {name: network_key(judge.model) for name, judge in self.judges.items()},
            "reader": self.reader and network_key(self.reader.modality, self.reader.idh),
            "features": network_key(self.features.network),
            "steps": self.steps or {"two_sample": two_sample.STEPS, "utility": segmentation.STEPS},
            "repeats": self.repeats,
            "few": segmentation.FEW,
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
