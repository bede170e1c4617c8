"""What is asked, of whom, in which order.

The items are the same for all readers, so that their agreement can be measured. Order and sides differ between
readers, are balanced (half of the cohort's pictures left, half right) and follow from the study's seed and the
reader's name alone: a session that is resumed goes on in the same order.

Source: Kim et al., WACV 2024, §4.5: two tests of 20 questions in 30 minutes each.
"""

import random
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mrtutor.study.pool import Pool
from mrtutor.vocabulary import IDH, Modality

READER_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")
SIMULATED_PREFIX = "sim-"  # names of readers that are programs


class Test(StrEnum):
    """The two tests of §4.5, in their order."""

    __test__ = False  # not pytest's

    PAIRS = "pairs"
    SEQUENCES = "sequences"


class Side(StrEnum):
    """Where a picture of a pair stands."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        test: which test it belongs to.
        number: its place for this reader, from 1.
        item: its place in the pool, the same for all readers.
        truth: the side of the cohort's picture (`Side`), or the type that was asked for (`IDH`). Never shown.
        modality: of a pair; None for a sequence.
    """

    test: Test
    number: int
    item: int
    truth: Side | IDH
    modality: Modality | None = None

    def pictures(self, pool: Pool) -> tuple[np.ndarray, ...]:
        """Slices (256, 256) uint8 from left to right: two of a pair, or FLAIR, T1, T1Gd, T2 of a sequence."""
        if self.test is Test.SEQUENCES:
            return tuple(pool.synthetic[self.item])
        pair = pool.pair(self.item)
        return pair if self.truth is Side.LEFT else pair[::-1]


def check_reader(reader: str, simulated: bool = False) -> str:
    """The reader's name, if it may be one. It is written into results, and never used as a path.

    Raises:
        ValueError: not 1 to 24 of a-z, 0-9 and inner hyphens; or the prefix of programs for a person, or without it
            for a program.
    """
    if not isinstance(reader, str) or not READER_ID.fullmatch(reader):
        raise ValueError(
            f"Expected a reader id of 1 to 24 lower-case letters, digits and inner hyphens, got {str(reader)[:40]!r}: "
            "take a code such as reader-1, not a name."
        )
    if reader.startswith(SIMULATED_PREFIX) != simulated:
        rule = "begins with" if simulated else "does not begin with"
        raise ValueError(
            f"The id of a {'simulated' if simulated else 'human'} reader {rule} {SIMULATED_PREFIX!r}, got {reader!r}."
        )
    return reader


def ask(pool: Pool, test: Test | str, count: int, seed: int, reader: str) -> list[Question]:
    """Questions of a test for a reader.

    Args:
        pool: its first `count` items are asked.
        test: which one.
        count: how many.
        seed: of the study.
        reader: see `check_reader`.

    Raises:
        ValueError: the pool has fewer items.
    """
    test = Test(test)
    if not 1 <= count <= len(pool):
        raise ValueError(f"Expected 1 to {len(pool)} questions, as many as there are pictures, got {count}.")
    rng = random.Random(f"{seed}/{reader}/{test}")  # a string is hashed the same way in every process
    order = rng.sample(range(count), count)
    if test is Test.SEQUENCES:
        return [Question(test, n, item, pool.idh[item]) for n, item in enumerate(order, 1)]
    first = rng.choice(list(Side))  # of an odd number one side gets one more: which one is drawn
    sides = [first if i % 2 == 0 else _other(first) for i in range(count)]
    rng.shuffle(sides)
    return [Question(test, n, i, sides[n - 1], pool.modality[i]) for n, i in enumerate(order, 1)]


def _other(side: Side) -> Side:
    return Side.RIGHT if side is Side.LEFT else Side.LEFT
