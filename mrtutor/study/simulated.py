"""Simulated readers: programs that take the same tests through the same `Session`, to have answers to analyse.

They see what people see, the served PNGs, and nothing else. They say nothing about people: a program counts grain
that no radiologist looks for, and misses what anyone would see.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
import torch

from mrtutor.data.cohort import Cohort
from mrtutor.metrics.correspondence import ncc
from mrtutor.metrics.reader import Reader, shrink
from mrtutor.study.pictures import clean, served
from mrtutor.study.pool import Pool
from mrtutor.study.questions import Side, Test
from mrtutor.study.session import Session, Step
from mrtutor.vocabulary import IDH, Modality

Judge = tuple[int, IDH]  # rating 0…5 and type


@dataclass(frozen=True)
class SimulatedReader:
    """A program in a reader's seat.

    Attributes:
        name: its id; begins with "sim-".
        about: one sentence on what it does.
        pair: (left, right, modality) -> the side of the cohort's picture.
        sequence: four pictures -> rating and type.
        Pictures are (256, 256) floats in [0, 1].
    """

    name: str
    about: str
    pair: Callable[[np.ndarray, np.ndarray, Modality], Side]
    sequence: Callable[[Sequence[np.ndarray]], Judge]

    def take(self, session: Session, pool: Pool) -> Session:
        """Both tests, or what is left of them, from consent to done."""
        while session.step is not Step.DONE:
            if session.step is Step.CONSENT:
                session.consent()
            elif session.step is Step.READY:
                session.begin()
            elif session.step is Step.PAUSED:
                session.resume()
            else:
                self._answer(session, pool)
        return session

    def _answer(self, session: Session, pool: Pool) -> None:
        question = session.question
        seen = [_decode(served(image)) for image in question.pictures(pool)]
        if question.test is Test.PAIRS:
            session.answer_pair(question.number, self.pair(*seen, question.modality))
        else:
            session.answer_sequence(question.number, *self.sequence(seen))


def _decode(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255


def coin_reader(seed: int = 0) -> SimulatedReader:
    """Guesses everything: what chance looks like."""
    rng = np.random.default_rng(seed)

    def pair(left: np.ndarray, right: np.ndarray, modality: Modality) -> Side:
        return list(Side)[rng.integers(2)]

    def sequence(pictures: Sequence[np.ndarray]) -> Judge:
        return int(rng.integers(6)), list(IDH)[rng.integers(2)]

    return SimulatedReader("sim-coin", "throws coins and a die", pair, sequence)


def network_reader(reader: Reader) -> SimulatedReader:
    """The independent classifier: takes the picture whose modality it recognises better for the cohort's.

    Its rating is 5 × the mean probability that it gives to the four modality words, rounded; the type is that of its
    other network.
    """

    @torch.inference_mode()
    def recognised(picture: np.ndarray, modality: Modality) -> float:
        logits = reader.modality(shrink(torch.from_numpy(picture)[None, None])).logits[0]
        return float(logits.softmax(-1)[list(Modality).index(modality)])

    def pair(left: np.ndarray, right: np.ndarray, modality: Modality) -> Side:
        return Side.LEFT if recognised(left, modality) > recognised(right, modality) else Side.RIGHT

    def sequence(pictures: Sequence[np.ndarray]) -> Judge:
        sure = np.mean([recognised(p, m) for p, m in zip(pictures, Modality, strict=True)])
        idh = int(reader.read_idh(torch.from_numpy(np.stack(pictures))[None])[0])
        return round(5 * float(sure)), list(IDH)[idh]

    return SimulatedReader("sim-network", "asks the independent classifier", pair, sequence)


def rules_reader(cohort: Cohort) -> SimulatedReader:
    """Three rules of thumb: the cohort's picture is the grainier, wild type enhances, good sequences fit together.

    An autoencoder smooths away part of the noise, so of a pair the picture with more fine grain is called the
    cohort's; a pipeline that puts grain back (`mrtutor.models.residual`) turns that rule around. The type is read from
    `enhancement`, with a threshold half way between the types' means over the cohort's *training* slices. The rating is
    5 × the mean NCC of the six pairs of modalities, rounded.
    """
    amounts = {idh: [enhancement(_as_seen(cohort, row)) for row in cohort.rows("train", idh)[:200]] for idh in IDH}
    middle = np.mean([np.mean(values) for values in amounts.values()])

    def pair(left: np.ndarray, right: np.ndarray, modality: Modality) -> Side:
        return Side.LEFT if grain(left) > grain(right) else Side.RIGHT

    def sequence(pictures: Sequence[np.ndarray]) -> Judge:
        fit = np.mean([ncc(a, b) if a.any() and b.any() else 0.0 for a, b in combinations(pictures, 2)])
        return round(5 * float(np.clip(fit, 0, 1))), IDH.WILD if enhancement(pictures) > middle else IDH.MUTANT

    return SimulatedReader("sim-rules", "follows three rules of thumb", pair, sequence)


def _as_seen(cohort: Cohort, row: int) -> list[np.ndarray]:
    return [clean(np.asarray(image)).astype(np.float32) / 255 for image in cohort.images[row]]


def grain(picture: np.ndarray) -> float:
    """Fine grain: mean |picture − its 3 × 3 median| over the brain, (256, 256) in [0, 1]."""
    inside = picture > 0
    rest = np.abs(picture - cv2.medianBlur(picture.astype(np.float32), 3))
    return float(rest[inside].mean()) if inside.any() else 0.0


def enhancement(pictures: Sequence[np.ndarray]) -> float:
    """Share of the brain where T1Gd is brighter than T1 by more than 0.25, pictures in the order of `Modality`."""
    t1, t1gd = (pictures[list(Modality).index(m)] for m in (Modality.T1, Modality.T1GD))
    inside = (t1 > 0) & (t1gd > 0)
    return float((t1gd - t1 > 0.25)[inside].mean()) if inside.any() else 0.0
