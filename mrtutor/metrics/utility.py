"""Is a synthetic set good for anything? A small U-Net segments the tumour, trained on it and judged on cohort slices.

The network, its steps and its batches are the same whatever it is trained on; only the pictures differ. The mask of a
synthetic sequence is that of the case whose structure it was drawn from.

Axes: B, n sequences · M = 4 modalities in the order of `Modality` · H, W image pixels (256), h, w half of them.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.metrics.intervals import estimate, ratio
from mrtutor.metrics.table1 import Sets, check_set
from mrtutor.metrics.two_sample import patient_folds
from mrtutor.training.batches import pick
from mrtutor.vocabulary import Modality

# Enough for all arms to come near their end, as one that learns slowly would pass for one that learns badly: taught by
# 100 training slices and judged by 120 of validation patients, 200, 400 and 800 steps reach a Dice of .86, .91 and .93.
STEPS, BATCH, RATE = 400, 8, 3e-3
REPEATS = 2  # segmenters per arm: one that is taught by pictures that fit no mask ends anywhere, by luck of its seed
FEW = 2  # patients with true slices, where these are rare
BASES = {"synthetic": "cohort", "both": "cohort", "with_few": "few_patients"}  # what the Dice of an arm is divided by
SHRINK = 2  # 128 pixels a side: a tumour is larger than two pixels, and a step costs a quarter


class Block(nn.Sequential):
    """Two convolutions: (B, before, h, w) -> (B, width, h, w)."""

    def __init__(self, before: int, width: int):
        layers: list[nn.Module] = []
        for channels in (before, width):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        super().__init__(*layers)


class SmallUNet(nn.Module):
    """U-Net (Ronneberger et al., MICCAI 2015) of four levels: (B, 4, h, w) in [0, 1] -> logits (B, h, w)."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 32)):
        super().__init__()
        befores = (len(Modality), *widths[:-1])
        self.down = nn.ModuleList(Block(before, width) for before, width in zip(befores, widths, strict=True))
        self.up = nn.ModuleList(
            Block(below + width, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.exit = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return self.exit(x)[:, 0]


def train_segmenter(images: np.ndarray, masks: np.ndarray, *, steps: int = STEPS, seed: int = 0) -> SmallUNet:
    """Train on sequences (n, 4, 256, 256) uint8 and tumour labels (n, 256, 256) uint8, 0 for none.

    Loss: cross-entropy plus soft Dice, since a tumour is about 2 % of a slice.

    Raises:
        ValueError: wrong shapes or types, or masks without any tumour.
    """
    _check(images, masks)
    if not masks.any():
        raise ValueError("Expected masks with a tumour, got only background: choose slices with a visible tumour.")
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallUNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in tqdm(range(steps), desc="segmenter", leave=False):
        rows = pick(len(images), BATCH, generator).numpy()
        x, wanted = _shrink(images[rows], masks[rows])
        if torch.rand(1, generator=generator).item() < 0.5:
            x, wanted = x.flip(-1), wanted.flip(-1)
        logits = model(x)
        p = logits.sigmoid()
        soft_dice = (2 * (p * wanted).sum() + 1) / (p.sum() + wanted.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, wanted) + 1 - soft_dice
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def dice(model: SmallUNet, images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Dice of each sequence, (n,): overlap of predicted and true tumour, 1 for equal, at 128 pixels a side.

    Raises:
        ValueError: as `train_segmenter`.
    """
    _check(images, masks)
    scores = []
    for start in range(0, len(images), 4 * BATCH):
        x, wanted = _shrink(images[start : start + 4 * BATCH], masks[start : start + 4 * BATCH])
        found, wanted = model(x) > 0, wanted > 0.5
        both = (found & wanted).sum(dim=(1, 2))
        total = found.sum(dim=(1, 2)) + wanted.sum(dim=(1, 2))
        scores.append(torch.where(total > 0, 2 * both / total.clamp(min=1), 1.0))  # both empty: nothing missed
    return torch.cat(scores).double().numpy()


def utility(
    sets: Sets,
    rows: np.ndarray,
    cohort: Cohort,
    seed: int = 0,
    *,
    steps: int = STEPS,
    repeats: int = REPEATS,
) -> dict:
    """Dice of a tumour segmenter on real test slices, trained on each set, on cohort slices of the same rows, on both.

    Structures are those of the test patients themselves, and a mask known from training would be a gift. So half of the
    patients train and the other half judges, and the reverse. Every segmenter takes the same number of steps. A set
    that followed no structure does not fit its masks: its Dice is a null. And what could mixing bring at most? Beside
    it stand the cohort's slices mixed with as real ones, those of the validation patients, if there are any. Pictures
    may be rare where structures are not: so each set is mixed with the true slices of `FEW` patients, too.

    Args:
        steps: of each segmenter.
        repeats: segmenters of different seeds, and of different few patients; a slice's Dice is their mean.

    Returns:
        {"cohort": {"value", "ci95", "sd", "n", "by_seed"}, "few_patients": …, set: {"synthetic": …, "both": …,
        "with_few": …, "synthetic_ratio": {"value", "ci95", "n"}, "both_ratio": …, "with_few_ratio": …},
        "more_patients": {"both": …, "both_ratio": …}}; ratios are to the Dice of the arm in `BASES`, over the same
        slices; "by_seed" is the mean Dice of each repeat, whose spread the interval, over patients, does not hold.

    Raises:
        ValueError: a set of wrong shape or type; fewer than two patients.
    """
    for name, images in sets.items():
        check_set(name, images, rows)
    test, unique = cohort.rows("test"), np.unique(rows)
    people = cohort.table["subject_id"].to_numpy()
    folds = patient_folds(people[test], seed=seed)
    scores: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((repeats, len(test))))
    for fold, repeat in product(range(folds.max() + 1), range(repeats)):
        judge = test[folds == fold]
        judged = _pairs(cohort, judge)
        mine, real = (~np.isin(people[r], people[judge]) for r in (rows, unique))
        own = unique[real]
        few = own[np.isin(people[own], _some(people[own], seed + repeat))]
        drawn = {name: images[mine] for name, images in sets.items()}
        for arm, pairs in _lessons(cohort, drawn, rows[mine], own, few):
            model = train_segmenter(*pairs, steps=steps, seed=seed + fold + 1000 * repeat)
            scores[arm][repeat, folds == fold] = dice(model, *judged)
    mean = {arm: values.mean(axis=0) for arm, values in scores.items()}
    report: dict = {}
    for arm, values in mean.items():
        name, _, kind = arm.partition("/")
        entry = estimate(values, people[test]) | {"by_seed": scores[arm].mean(axis=1).tolist()}
        if kind:
            entry = {kind: entry, f"{kind}_ratio": ratio(values, mean[BASES[kind]], people[test], seed)}
        report[name] = report.get(name, {}) | entry
    return report


def _some(patients: np.ndarray, seed: int) -> np.ndarray:
    """`FEW` of the patients, or all where there are no more."""
    return np.random.default_rng(seed).permutation(np.unique(patients))[:FEW]


def _lessons(
    cohort: Cohort, sets: Sets, rows: np.ndarray, own: np.ndarray, few: np.ndarray
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Name of each arm with what teaches it: sequences (k, 4, H, W) and masks (k, H, W), uint8.

    Args:
        sets: what was drawn of `rows`, (n,), the rows that may teach.
        own, few: rows of all that may teach, each once, and of few patients.
    """
    truth, rare, more = _pairs(cohort, own), _pairs(cohort, few), cohort.rows("validation")
    yield "cohort", truth
    yield "few_patients", rare
    if len(more):
        yield "more_patients/both", _mixed(truth, _pairs(cohort, more))
    masks = np.asarray(cohort.masks[rows])
    for name, images in sets.items():
        yield f"{name}/synthetic", (images, masks)
        yield f"{name}/both", _mixed(truth, (images, masks))
        yield f"{name}/with_few", _mixed(rare, (images, masks))


def _pairs(cohort: Cohort, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, 4, H, W) and masks (n, H, W) of rows of the cohort."""
    return np.asarray(cohort.images[rows]), np.asarray(cohort.masks[rows])


def _mixed(*sets: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """All pairs in one set."""
    return tuple(np.concatenate(parts) for parts in zip(*sets, strict=True))


def _shrink(images: np.ndarray, masks: np.ndarray) -> tuple[Tensor, Tensor]:
    """uint8 arrays -> (B, 4, h, w) in [0, 1] and the share of tumour in each pixel (B, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    tumour = torch.from_numpy(np.ascontiguousarray(masks) > 0).float()
    return F.avg_pool2d(x, SHRINK), F.avg_pool2d(tumour[:, None], SHRINK)[:, 0]


def _check(images: np.ndarray, masks: np.ndarray) -> None:
    fits = images.ndim == 4 and images.shape[1] == len(Modality) and masks.shape == (len(images), *images.shape[2:])
    if not fits or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(
            f"Expected sequences (n, {len(Modality)}, H, W) uint8 with masks (n, H, W), got {images.shape} "
            f"{images.dtype} and {masks.shape}: take both from the same rows of a Cohort."
        )
