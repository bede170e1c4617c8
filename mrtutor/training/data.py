"""Where batches come from: slices of several cohorts, what is true of them, and latents computed once.

Every draw uses the generator it is given, so that a batch is a function of (seed, step).

Axes: n slices · M = 4 modalities · B batch · P facts · H, W image pixels · C, h, w latent · L tokens · D text width.
"""

import hashlib
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import SIZE, canny
from mrtutor.files import atomic_path
from mrtutor.models.autoencoder import encode, factor_of
from mrtutor.models.precision import autocast
from mrtutor.vocabulary import IDH, PARTS, Findings, Modality, paraphrases

REAL_SHARE = 0.5  # share of real slices where a run has real and simulated ones
REAL_VIEWS, SIMULATED_VIEWS = 6, 2  # pictures made of each slice: real patients are few
ENHANCEMENT = 0.2  # grey values by which T1Gd must exceed T1; bias fields and noise stay below
MARGIN = 16  # pixels at the border of a slice that no brain reaches
ANY = -1  # code of what is unknown, or not said
# What can be true of a slice, each with its values; a code is a value's place in its list.
FACTS: dict[str, list] = {"modality": list(Modality), "idh": list(IDH), "tumour": [False, True]}
FACTS |= {"simulated": [False, True]} | {name: list(words) for name, words in PARTS.items()}
OPTIONAL = torch.tensor([name == "idh" or name in PARTS for name in FACTS])  # (P,): what a sentence may leave out


def codes(modality: Modality | None, idh: IDH | None, findings: Findings) -> list[int]:
    """P numbers, one for each of `FACTS`; `ANY` for None."""
    values = {"modality": modality, "idh": idh} | vars(findings)
    return [ANY if values[name] is None else choices.index(values[name]) for name, choices in FACTS.items()]


def drop(facts: Tensor, probability: float | Tensor, generator: Generator) -> Tensor:
    """Facts (B, P) in which the IDH type and each finding are left out with `probability`, one or (B, 1)."""
    return facts.masked_fill((torch.rand(facts.shape, generator=generator) < probability) & OPTIONAL, ANY)


def wording(facts: Sequence[int], generator: Generator, canonical: float) -> str:
    """A training sentence of P facts: the canonical one with probability `canonical`, else any paraphrase."""
    told = zip(FACTS.items(), facts, strict=True)
    values = {name: None if code == ANY else choices[code] for (name, choices), code in told}
    sentences = paraphrases(values.pop("modality"), values.pop("idh"), Findings(**values))
    first = torch.rand((), generator=generator).item() < canonical
    return sentences[0 if first else torch.randint(len(sentences), (), generator=generator)]


# A batch by number, each (B,) long: slice, view of it, modality, and the modality whose edges guide.
Draw = namedtuple("Draw", "index view modality edges_of")


class TrainingSlices(Dataset):
    """One split of several cohorts, numbered through.

    A slice is drawn by kind (real or simulated), collection (by the root of its number of patients), patient and slice.
    In training it has several `views`: as it is, flipped, and of real ones both with other scale, tilt and contrast.
    """

    def __init__(self, cohorts: Sequence[Cohort], split: str = "train"):
        self.cohorts, self.split = list(cohorts), split
        rows = [cohort.rows(split) for cohort in self.cohorts]
        self.places = [(cohort, int(row)) for cohort, own in zip(self.cohorts, rows, strict=True) for row in own]
        if not self.places:
            raise ValueError(f"No slice for {split} in {', '.join(str(c.path) for c in cohorts)}: use a larger cohort.")
        self.available = np.concatenate([c.available[own] for c, own in zip(self.cohorts, rows, strict=True)])
        tables = [c.table.loc[own, ["source", "patient"]] for c, own in zip(self.cohorts, rows, strict=True)]
        self.table = pd.concat(tables, ignore_index=True)
        simulated = self.table["source"] == "simulated"
        people = self.table.groupby("source")["patient"].transform("nunique")
        chance = people**-0.5 / self.table.groupby(["source", "patient"])["patient"].transform("size")
        share = np.where(simulated, 1 - REAL_SHARE, REAL_SHARE) / chance.groupby(simulated).transform("sum")
        self.chance = torch.tensor((share * chance).tolist())
        views = np.where(simulated, SIMULATED_VIEWS, REAL_VIEWS)
        self.views = views if split == "train" else np.ones_like(views)
        self.first = np.cumsum(self.views) - self.views  # number of the first view among those of all slices

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, object]:
        """Slice `number` as it is: image (M, H, W) float32 in [0, 1], mask (H, W) uint8, and a sentence a modality."""
        cohort, row = self.places[number]
        images, mask = self.pictures(number)
        sentences = [cohort.sentence(row, modality) for modality in Modality]
        return {"image": torch.from_numpy(images).float() / 255, "mask": mask, "sentence": sentences}

    def key(self) -> str:
        """Text that changes with pixels, labels or masks of any cohort."""
        return "-".join([self.split, *(cohort.key for cohort in self.cohorts)])

    def draw(self, count: int, generator: Generator) -> Draw:
        """Random slices, views and modalities, all by `generator`."""
        chosen = torch.multinomial(self.chance, count, replacement=True, generator=generator)
        there = torch.from_numpy(self.available[chosen.numpy()]).double()
        modality, edges_of = torch.multinomial(there, 2, replacement=True, generator=generator).T
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        return Draw(chosen, (share * torch.from_numpy(self.views[chosen.numpy()])).long(), modality, edges_of)

    def spread(self, count: int) -> Draw:
        """A fixed choice over the real patients (all, if none is real), the modalities in turn, views as measured."""
        order = self.table["patient"].sort_values(kind="stable").index.to_numpy()
        real = order[self.table["source"][order] != "simulated"]
        order = real if len(real) else order
        chosen = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
        there = [np.flatnonzero(self.available[i]) for i in chosen]
        turns = [[have[(n + shift) % len(have)] for shift in (0, 1)] for n, have in enumerate(there)]
        modality, edges_of = torch.tensor(np.array(turns)).long().T
        return Draw(torch.from_numpy(chosen), torch.zeros(len(chosen), dtype=torch.long), modality, edges_of)

    def pictures(self, number: int, view: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """One view of one slice: images (M, H, W) uint8 and tumour labels (H, W) uint8."""
        cohort, row = self.places[number]
        images, mask = np.array(cohort.images[row]), np.array(cohort.masks[row])
        if view >= 2:
            images, mask = _changed(images, mask, np.random.default_rng([row, int(view)]))
        if view % 2:
            images, mask = images[..., ::-1].copy(), mask[..., ::-1].copy()
        return images, mask

    def facts(self, draw: Draw) -> Tensor:
        """All that is known of a batch, (B, P) long; a flipped picture has its side flipped."""
        known = []
        for number, view, modality, _ in zip(*(column.tolist() for column in draw), strict=True):
            cohort, row = self.places[number]
            findings = cohort.findings(row)
            told = findings.flipped() if view % 2 else findings
            known.append(codes(list(Modality)[modality], cohort.idh(row), told))
        return torch.tensor(known)


def _changed(images: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A little turned, scaled and shifted, and each sequence with another gain and gamma."""
    matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-7, 7), rng.uniform(0.93, 1.05))
    matrix[:, 2] += rng.uniform(-4, 4, 2)
    moved = np.stack([cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC) for image in images])
    gain, gamma = np.exp(rng.uniform(-0.1, 0.1, (2, len(images), 1, 1)))
    changed = np.round(255 * np.clip(gain * (moved / 255) ** gamma, 0, 1)).astype(np.uint8)
    return changed, cv2.warpAffine(mask, matrix, (SIZE, SIZE), flags=cv2.INTER_NEAREST)


@dataclass
class SliceBatches:
    """Random slices, flipped or not, whole or cropped to squares of `crop` pixels.

    A batch: image (B, 1, H, W) in [-1, 1], modality (B,) long, facts (B, P) long.
    """

    slices: TrainingSlices
    crop: int | None = None

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        draw = self.slices.draw(count, generator)
        batch = self.at(draw._replace(view=draw.view % 2))
        if self.crop:
            y, x = (MARGIN + torch.randint(SIZE - 2 * MARGIN - self.crop + 1, (2,), generator=generator)).tolist()
            batch["image"] = batch["image"][..., y : y + self.crop, x : x + self.crop]
        return batch

    def at(self, draw: Draw) -> dict[str, Tensor]:
        """The batch of a given draw."""
        columns = zip(*(column.tolist() for column in draw[:3]), strict=True)
        images = np.stack([self.slices.pictures(number, view)[0][m] for number, view, m in columns])[:, None]
        image = torch.from_numpy(images).float() / 127.5 - 1
        return {"image": image, "modality": draw.modality, "facts": self.slices.facts(draw)}


@dataclass
class LatentBatches:
    """Cached latents with sentence and edge map; one edge map serves a whole sequence, so any modality's edges do.

    A batch: latent (B, C, h, w), text (B, L, D), text_mask (B, L) bool unless padding is read, structure (B, 1, H, W)
    in {0, 1}, emphasis (B, 1, h, w) in [0, 1] (see `emphasis_map`).
    """

    slices: TrainingSlices
    latents: np.ndarray  # (views of all slices, M, C, h, w), from `cache_latents`
    encode: Callable[[list[str]], tuple[Tensor, Tensor | None]]  # as `MRPipeline.encode`
    drop_prompt: float = 0.1  # share of rows with the empty prompt
    drop_part: float = 0.3  # share of IDH types and findings that a sentence leaves out
    canonical: float = 0.5  # share of sentences in the canonical wording
    with_structure: bool = True
    findings: bool = True  # False where the text encoder was trained on modality and IDH type alone

    def __call__(self, count: int, generator: Generator) -> dict[str, Tensor]:
        draw = self.slices.draw(count, generator)
        facts = drop(self.facts(draw), self.drop_part, generator).tolist()
        sentences = [wording(row, generator, self.canonical) for row in facts]
        silent = (torch.rand(count, generator=generator) < self.drop_prompt).tolist()
        return self.at(draw, ["" if empty else told for empty, told in zip(silent, sentences, strict=True)])

    def facts(self, draw: Draw) -> Tensor:
        """What the sentences of a draw may say, (B, P)."""
        facts = self.slices.facts(draw)
        if not self.findings:
            facts[:, 2:] = torch.tensor(codes(None, None, Findings())[2:])
        return facts

    def at(self, draw: Draw, sentences: list[str] | None = None) -> dict[str, Tensor]:
        """The batch of a given draw; default the full canonical sentences."""
        facts, index = self.facts(draw).tolist(), draw.index.numpy()
        text, mask = self.encode(sentences or [wording(row, Generator(), 1.0) for row in facts])
        latents = self.latents[self.slices.first[index] + draw.view.numpy(), draw.modality.numpy()]
        views = [self.slices.pictures(*pair) for pair in zip(index, draw.view.tolist(), strict=True)]
        images, tumours = (np.stack(arrays) for arrays in zip(*views, strict=True))
        emphasis = emphasis_map(images, tumours > 0, draw.modality, latents.shape[-1], self.slices.available[index])
        batch = {"latent": torch.from_numpy(np.float32(latents)), "text": text.cpu(), "emphasis": emphasis}
        if mask is not None:
            batch["text_mask"] = mask.cpu()
        if self.with_structure:
            edges = np.stack([canny(image[m]) for image, m in zip(images, draw.edges_of.tolist(), strict=True)])
            batch["structure"] = torch.from_numpy(edges > 0)[:, None].float()
        return batch


def emphasis_map(images: np.ndarray, tumour: np.ndarray, modality: Tensor, side: int, available: np.ndarray) -> Tensor:
    """Where slices say most about their prompts, (B, 1, side, side): share of tumour, and 1 where the agent shows.

    Rims, veins and sinuses are all that tells T1 from T1Gd, and so small that the mean over a slice passes them over.
    Of images (B, M, H, W) uint8, tumour (B, H, W) bool, modality (B,) to be drawn, and available (B, M) bool.
    """
    pair = [list(Modality).index(m) for m in (Modality.T1, Modality.T1GD)]
    bright = images[:, pair[1]].astype(np.int16) - images[:, pair[0]] > ENHANCEMENT * 255
    known = torch.isin(modality, torch.tensor(pair)) & torch.from_numpy(available[:, pair].all(axis=1))
    agent = F.adaptive_max_pool2d(torch.from_numpy(bright)[:, None].float(), side) * known.view(-1, 1, 1, 1)
    return torch.maximum(F.adaptive_avg_pool2d(torch.from_numpy(tumour)[:, None].float(), side), agent)


def latent_key(autoencoder: AutoencoderKL) -> str:
    """Twelve hex digits that change with whatever latents depend on; a new decoder leaves them."""
    digest = hashlib.sha256(repr((autoencoder.config.latents_mean, autoencoder.config.latents_std)).encode())
    for name, tensor in autoencoder.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.inference_mode()
def cache_latents(slices: TrainingSlices, autoencoder: AutoencoderKL, folder: Path, dtype: torch.dtype) -> np.ndarray:
    """Normalised latents of all views, (views, M, C, h, w) float16, computed once (autocast `dtype`), memory-mapped.

    The name of the file in `folder` changes with autoencoder, cohorts, split and views.
    """
    about = f"{latent_key(autoencoder)} {slices.key()} {REAL_VIEWS}-{SIMULATED_VIEWS}"
    path = folder / f"latents-{slices.split}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.npy"
    if not path.is_file():
        device, side = autoencoder.device, SIZE // factor_of(autoencoder)
        shape = (int(slices.views.sum()), len(Modality), autoencoder.config.latent_channels, side, side)
        with atomic_path(path) as temporary:
            cached = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for number in tqdm(range(len(slices)), desc=f"latents of {slices.split}"):
                for view in range(slices.views[number]):
                    images = torch.from_numpy(slices.pictures(number, view)[0])[:, None].to(device) / 127.5 - 1
                    with autocast(device, dtype):
                        latents = encode(autoencoder, images.contiguous(memory_format=torch.channels_last))
                    cached[slices.first[number] + view] = latents.half().cpu().numpy()
            del cached  # Windows renames no file that is open
    return np.load(path, mmap_mode="r")
