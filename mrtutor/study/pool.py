"""The pictures of a study, in one file: synthetic sequences, and a slice of the cohort beside each.

n questions of each test · M = 4 modalities in the order of `Modality` · H, W image pixels (256).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrtutor.files import atomic_path
from mrtutor.vocabulary import IDH, Modality

SIMULATED = "the simulated cohort"
REAL = "a cohort of real patients"


@dataclass(frozen=True, eq=False)
class Pool:
    """Item i of test 1 is `cohort[i]` beside `synthetic[i]` in the modality `modality[i]`; of test 2, `synthetic[i]`.

    Attributes:
        synthetic: (n, 4, 256, 256) uint8.
        idh: the type that each sequence was asked for.
        cohort: (n, 256, 256) uint8, slices of other patients than gave the structure of the sequence.
        modality: of each pair.
        source: what the cohort is, in words for the reader: `SIMULATED` or `REAL`.
        origin: weights, seed and cases that the pool was made from.
    """

    synthetic: np.ndarray
    idh: tuple[IDH, ...]
    cohort: np.ndarray
    modality: tuple[Modality, ...]
    source: str
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuse what does not belong together (ValueError)."""
        n = len(self.idh)
        for what, values, shape in (("sequences", self.synthetic, (4,)), ("slices of the cohort", self.cohort, ())):
            if values.dtype != np.uint8 or values.shape[:1] + values.shape[1:-2] != (n, *shape):
                raise ValueError(f"Expected {n} {what} of uint8, got {values.shape} of {values.dtype}.")
        if not n or len(self.modality) != n:
            raise ValueError(f"Expected a modality and a type for each pair, got {len(self.modality)} and {n}.")

    def __len__(self) -> int:
        return len(self.idh)

    def pair(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """(slice of the cohort, synthetic slice) of an item of test 1."""
        return self.cohort[item], self.synthetic[item, list(Modality).index(self.modality[item])]

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz, all or nothing."""
        words = {"idh": list(self.idh), "modality": list(self.modality), "source": self.source, "origin": self.origin}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, synthetic=self.synthetic, cohort=self.cohort, words=json.dumps(words))

    @classmethod
    def load(cls, path: str | Path) -> "Pool":
        """Open what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a pool, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                synthetic, cohort, words = stored["synthetic"], stored["cohort"], json.loads(str(stored["words"]))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"No pictures at {path}: run `make reader-study` once to draw them.") from error
        except Exception as error:  # a damaged zip fails in many ways
            raise ValueError(f"Cannot read the pictures in {path} ({error}): delete it and draw again.") from error
        idh, modality = tuple(map(IDH, words["idh"])), tuple(map(Modality, words["modality"]))
        return cls(synthetic, idh, cohort, modality, words["source"], words["origin"])
