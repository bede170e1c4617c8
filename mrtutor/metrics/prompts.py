"""Does a slice show what its sentence says? CLIP score (Table 3) and retrieval among the eight prompts.

A CLIP score alone has no null: 30 may be much or nothing. So next to the score of the right sentence there is that of
the wrong ones, and the question that needs no scale: which of the eight prompts is nearest? The CLIP that scores never
guided a generator: it is a second MR-CLIP with its own seed, sizes and image half.

Axes: n sequences · 4 modalities · S sentences · H, W pixels. Source: Kim et al., WACV 2024, §4.3 and Table 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, ResNetModel
from transformers import VisionTextDualEncoderConfig as ScorerConfig
from transformers import VisionTextDualEncoderModel as DualEncoder
from transformers.utils import SAFE_WEIGHTS_NAME

from mrtutor.metrics.distances import in_batches, shipped
from mrtutor.metrics.intervals import Estimate, estimate
from mrtutor.metrics.sequence import present
from mrtutor.models.text import clip_pixels, tokenize
from mrtutor.vocabulary import IDH, Modality, canonical_prompts

TYPES = [str(idh) for idh in IDH]
FULL, NAMED = len(Modality) * len(TYPES), len(Modality) * (len(TYPES) + 1)  # 8 and 12
KINDS = {"full": slice(FULL), "modality": slice(FULL, NAMED), "idh": slice(NAMED, None)}  # of `phrases`


class FlatResNet(ResNetModel):
    """(n, 1, H, W) in [-1, 1] -> output whose `pooler_output` (n, C) is half mean, half maximum over the slice.

    The maximum is there for what is small: without an enhancing tumour, T1Gd differs from T1 by a few bright pixels.
    """

    def forward(self, pixel_values: Tensor, **options: object) -> object:
        output = super().forward(pixel_values, return_dict=True)
        features = output.last_hidden_state  # (n, C, H / 32, W / 32)
        output.pooler_output = (features.mean(dim=(-2, -1)) + features.amax(dim=(-2, -1))) / 2
        return output


def build_scorer(config: ScorerConfig) -> DualEncoder:
    """A CLIP for scoring with random weights: residual network on whole slices, causal text encoder."""
    return DualEncoder(config, FlatResNet(config.vision_config), CLIPTextModel(config.text_config))


@dataclass(eq=False)
class Scorer:
    """A CLIP and its tokenizer as an evaluator of slices; computes in float32 on the CPU."""

    model: DualEncoder
    tokenizer: CLIPTokenizer

    @torch.inference_mode()
    def scores(self, slices: np.ndarray, sentences: Sequence[str]) -> np.ndarray:
        """CLIP score, 100 × cosine, of every slice (n, H, W) with every sentence: (n, S), in [-100, 100]."""
        parts = []
        for images in in_batches(slices[:, None]):
            pooled = self.model.vision_model(pixel_values=clip_pixels(self.model, images)).pooler_output
            parts.append(F.normalize(self.model.visual_projection(pooled), dim=-1))
        ids, _ = tokenize(self.tokenizer, sentences)
        words = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
        return (100 * torch.cat(parts) @ F.normalize(words, dim=-1).T).numpy()


def load_scorer(folder: str | Path | None = None) -> Scorer:
    """The shipped scoring CLIP, or another in the same format. Raises: as `shipped`."""
    folder = shipped("scoring_clip", folder)
    model = build_scorer(ScorerConfig.from_pretrained(folder, local_files_only=True))
    model.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))  # from_pretrained leaves buffers of given halves unset
    return Scorer(model.float().eval(), CLIPTokenizer.from_pretrained(folder, local_files_only=True))


def phrases() -> list[str]:
    """The 14 sentences: 8 full (number 2·m + i), 4 modality phrases, 2 IDH phrases, in the paper's words."""
    modality = [f"a {m} modality MR image" for m in Modality]
    return [*canonical_prompts(), *modality, *(f"type of IDH {i} glioma" for i in IDH)]


def sentence_scores(scorer: Scorer, sequences: np.ndarray) -> np.ndarray:
    """CLIP scores of every slice of (n, 4, H, W) with every one of `phrases()`: (n, 4, 14), NaN for missing slices."""
    found = np.stack([scorer.scores(sequences[:, m], phrases()) for m in range(len(Modality))], axis=1)
    found[~present(sequences)] = np.nan
    return found


def clip_scores(scores: np.ndarray, idh: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Score of the right sentence and mean of the wrong ones, (n, 4) each, for "full", "modality" and "idh" phrases.

    Of scores (n, 4, 14); `idh` (n,) is the type in each sentence, "" for unknown: NaN but for the modality phrase.
    """
    types = np.array([TYPES.index(word) if word else -1 for word in idh])[:, None]
    modality, found = np.arange(len(Modality))[None], {}
    right_one = {"full": 2 * modality + types, "modality": modality + 0 * types, "idh": 0 * modality + types}
    for phrase, number in right_one.items():
        part = scores[..., KINDS[phrase]]
        right = np.take_along_axis(part, number.clip(0)[..., None], axis=2)[..., 0]
        wrong = (part.sum(axis=2) - right) / (part.shape[2] - 1)
        known = (types >= 0) | (phrase == "modality")
        found[phrase] = np.where(known, right, np.nan), np.where(known, wrong, np.nan)
    return found


def retrieval(scores: np.ndarray, idh: Sequence[str], patients: Sequence) -> dict[str, Estimate]:
    """How often the nearest of the eight full prompts is right, of scores (n, 4, 14); unknown types are left out.

    "modality", "idh", "both" of slices (chance 1/4, 1/2, 1/8); "idh_of_sequence" by the sum over its slices (1/2).
    """
    known = np.asarray(idh) != ""
    wanted = np.array([TYPES.index(word) for word in np.asarray(idh)[known]])
    scores, patients = scores[known, :, :FULL], np.asarray(patients)[known]
    there = np.isfinite(scores[..., 0])
    nearest = np.nan_to_num(scores).argmax(axis=2)  # (n, 4)
    right = {"modality": nearest // 2 == np.arange(len(Modality)), "idh": nearest % 2 == wanted[:, None]}
    right["both"] = right["modality"] & right["idh"]
    people = np.broadcast_to(patients[:, None], there.shape)[there]
    shares = {name: estimate(values[there], people) for name, values in right.items()}
    own = [scores[:, m, 2 * m : 2 * m + 2] for m in range(len(Modality))]  # (4, n, 2)
    return shares | {"idh_of_sequence": estimate(np.nansum(own, axis=0).argmax(axis=1) == wanted, patients)}
