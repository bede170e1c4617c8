"""Small subjects and cases: an ellipsoid brain with a spherical tumour, made in milliseconds."""

import time
from dataclasses import dataclass

import numpy as np
import torch
import torchio as tio

SHAPE = (110, 130, 60)


def ball(radii: tuple[float, float, float], centre: tuple[float, float, float]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def tiny_subject(number: int = 0, idh: str = "wild") -> tio.Subject:
    """Brain of 76 x 96 x 52 mm; tumour in the right anterior quarter, around z 26; texture from ``number``."""
    rng = np.random.default_rng(number)
    head, lesion, core = ball((38, 48, 26), (55, 65, 30)), ball((14,) * 3, (70, 85, 26)), ball((7,) * 3, (70, 85, 26))
    labels = np.where(core, 3, np.where(lesion, 2, 0)).astype(np.uint8)
    images = {"tumour": tio.LabelMap(tensor=torch.from_numpy(labels)[None])}
    for name, level in {"FLAIR": 60.0, "T1": 110.0, "T1Gd": 130.0, "T2": 80.0}.items():
        volume = level * (1 + 0.1 * rng.standard_normal(SHAPE).astype(np.float32)) * np.where(lesion, 1.4, 1)
        images[name] = tio.ScalarImage(tensor=torch.from_numpy(volume * head)[None].float())
    images |= {"subject_id": f"TINY-{number:03d}", "idh": idh, "source": "test", "phenotype": {"age": 40 + number}}
    return tio.Subject(images)


@dataclass(frozen=True)
class TinyCase:
    """A `mrtutor.data.sources.Case`; it takes ``seconds`` to load, or cannot be read."""

    number: int
    seconds: float = 0.0
    bad: bool = False

    key = property(lambda case: f"{case.number:03d}")
    label = property(lambda case: f"tiny case {case.number}")

    def load(self) -> tio.Subject:
        time.sleep(self.seconds)
        if self.bad:
            raise ValueError("this case is bad")
        return tiny_subject(self.number, "mutant" if self.number % 2 else "wild")
