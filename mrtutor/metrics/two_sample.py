"""Can a machine tell? Classifier two-sample test (Lopez-Paz & Oquab, ICLR 2017): accuracy 50 % is "not by these means".

Two machines, because each is blind to something: a logistic regression on the MR feature network sees what that
network sees; a small convolutional network, trained from nothing on the pixels, also sees texture. Both sets are of
equal size, and the patients that judge are never those that trained, so recognising a patient helps nobody. What is
reported is the accuracy on slices that were left out.

Axes: n sequences · M modalities · D features · H, W image pixels (256).
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Generator, nn
from tqdm.auto import tqdm

from mrtutor.metrics.intervals import estimate
from mrtutor.training.batches import pick

FOLDS = 2  # each machine is trained on one half of the patients and judged on the other, and the reverse
PENALTY = 0.05  # C of the logistic regression: with more features than patients a weak penalty only learns by heart
STEPS, BATCH, RATE = 300, 16, 2e-3


def patient_folds(
    patients: np.ndarray, folds: int = FOLDS, seed: int = 0, labels: np.ndarray | None = None
) -> np.ndarray:
    """Fold of each slice, (n,); all slices of a patient share one, and folds hold equally many patients.

    Args:
        patients: (n,) patient of each slice.
        folds: how many.
        seed: of the draw.
        labels: (n,) set of each slice; with it, the patients of either set are spread evenly too.

    Raises:
        ValueError: fewer patients than folds.
    """
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"Expected at least {folds} patients for a split by patient, got {len(names)}: add some.")
    strata = np.bincount(index, weights=labels) / np.bincount(index)  # 0, 1, or between where both sets have a patient
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), strata))
    fold = np.empty(len(names), int)
    fold[order] = np.arange(len(names)) % folds
    return fold[index]


def tell_by_features(
    a: np.ndarray, b: np.ndarray, patients_a: np.ndarray, patients_b: np.ndarray, seed: int = 0
) -> dict:
    """Accuracy of a logistic regression for each modality on features (n, M, D) of set a against set b, pooled.

    Args:
        a, b: features of the two sets, e.g. generated and real.
        patients_a, patients_b: (n,) patient of each; a patient in both stays on one side of the split in both.

    Returns:
        {"value", "ci95", "sd", "n"}, n slices; 0.5 is chance.

    Raises:
        ValueError: sets of different sizes or forms, or fewer than two patients.
    """
    x, labels, patients = _both(a, b, patients_a, patients_b, 3)
    folds = patient_folds(patients, seed=seed, labels=labels)
    right = np.zeros(x.shape[:2])
    for fold in range(FOLDS):
        out = folds == fold
        _check_sides(labels[~out])
        for m in range(x.shape[1]):
            judge = LogisticRegression(C=PENALTY, max_iter=1000, class_weight="balanced")
            machine = make_pipeline(StandardScaler(), judge).fit(x[~out, m], labels[~out])
            right[out, m] = machine.predict(x[out, m]) == labels[out]
    return estimate(right.ravel(), patients.repeat(x.shape[1]), seed)


class SmallCNN(nn.Module):
    """Four strided convolutions and a mean: (B, 1, H, W) in [0, 1] -> logit (B,)."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 64)):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))[:, 0]


def tell_by_pixels(
    a: np.ndarray,
    b: np.ndarray,
    patients_a: np.ndarray,
    patients_b: np.ndarray,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> dict:
    """Accuracy of a small convolutional network, trained from nothing, on slices of a against b, (n, M, H, W) uint8.

    One network for all modalities, without the modality's name; `steps` of 8 + 8 slices, AdamW with a falling rate.
    Args, returns and raises as `tell_by_features`.
    """
    x, labels, patients = _both(a, b, patients_a, patients_b, 4)
    if x.dtype != np.uint8:
        raise ValueError(f"Expected slices uint8, got {x.dtype}: multiply images in [0, 1] by 255 and round.")
    folds = patient_folds(patients, seed=seed, labels=labels)
    right = np.zeros(x.shape[:2])
    for fold in range(FOLDS):
        out = folds == fold
        _check_sides(labels[~out])
        machine = _train(x, labels, ~out, steps, seed + fold)
        right[out] = _predict(machine, x[out]) == labels[out, None]
    return estimate(right.ravel(), patients.repeat(x.shape[1]), seed)


def _train(x: np.ndarray, labels: np.ndarray, rows: np.ndarray, steps: int, seed: int) -> SmallCNN:
    """Train on balanced batches, mirrored at random."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        machine = SmallCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(machine.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    sides = [np.flatnonzero(rows & (labels == label)) for label in (0, 1)]
    for _ in tqdm(range(steps), desc="can a machine tell?", leave=False):
        chosen = np.concatenate([side[pick(len(side), BATCH // 2, generator).numpy()] for side in sides])
        modality = pick(x.shape[1], BATCH, generator).numpy()
        images = torch.from_numpy(x[chosen, modality])[:, None].float() / 255
        images = images.flip(-1) if torch.rand(1, generator=generator).item() < 0.5 else images
        wanted = torch.from_numpy(labels[chosen]).float()
        loss = F.binary_cross_entropy_with_logits(machine(images), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return machine.eval()


@torch.inference_mode()
def _predict(machine: SmallCNN, x: np.ndarray) -> np.ndarray:
    """Label of each slice, (n, M)."""
    parts = torch.from_numpy(x).flatten(0, 1).split(4 * BATCH)
    return torch.cat([machine(part[:, None].float() / 255) > 0 for part in parts]).numpy().reshape(x.shape[:2])


def _both(
    a: np.ndarray, b: np.ndarray, patients_a: np.ndarray, patients_b: np.ndarray, ndim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two sets one after the other, with labels 1 (a) and 0 (b) and the patients."""
    if a.shape != b.shape or a.ndim != ndim or len(patients_a) != len(a) or len(patients_b) != len(b):
        raise ValueError(
            f"Expected two sets of one shape ({ndim} axes, the first two sequences and modalities) with a patient for "
            f"each sequence, got {a.shape} and {b.shape} with {len(patients_a)} and {len(patients_b)} patients: chance "
            "is 50 % only where both are equally many."
        )
    labels = np.repeat([1, 0], len(a))
    return np.concatenate([a, b]), labels, np.concatenate([patients_a, patients_b])


def _check_sides(labels: np.ndarray) -> None:
    if len(np.unique(labels)) < 2:
        raise ValueError(
            "Expected both sets among the patients that train, got one: use more patients, or another seed."
        )
