"""CLIP scores: how well a slice matches a sentence, judged by a CLIP that never guided the generator.

The shipped judge is a second MR-CLIP: its own seed, its own sizes and another image half (a residual network, as in
CLIP's RN50, in place of a ViT), trained on the cohort's training slices with the same contrastive objective. Any CLIP
folder from the hub (the paper's ViT-B/16) can stand beside it.

Axes: n slices · S sentences · D embedding width · H, W image pixels (256).

Source: Radford et al., ICML 2021 (CLIP); Hessel et al., EMNLP 2021 (CLIP score); Kim et al., WACV 2024, §4.3.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from mrtutor.metrics.judges import checked_folder, shipped
from mrtutor.models.text import clip_pixels, tokenize

FOLDER = "scoring_clip"  # below data/pretrained
WIDTHS = (32, 64, 96, 128)  # channels of the image half, after a stride of 4
TEXT_WIDTH = 64
BATCH = 16  # slices at a time when scoring


class FlatResNet(ResNetModel):
    """`ResNetModel` whose pooled output is half mean, half maximum over the slice, (n, C) in place of (n, C, 1, 1).

    The maximum is there for what is small: without an enhancing tumour, T1Gd differs from T1 by a few bright pixels
    in a vein, which a mean over the slice washes out.
    """

    def forward(self, pixel_values: Tensor, **options: object) -> object:
        """(n, 1, H, W) in [-1, 1] -> output with `pooler_output` (n, C)."""
        output = super().forward(pixel_values, return_dict=True)
        features = output.last_hidden_state  # (n, C, H / 32, W / 32)
        output.pooler_output = (features.mean(dim=(-2, -1)) + features.amax(dim=(-2, -1))) / 2
        return output


def build_scorer(tokenizer: CLIPTokenizer) -> VisionTextDualEncoderModel:
    """An untrained judge: residual network on whole slices beside a small causal text encoder."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = ResNetConfig(
        num_channels=1, embedding_size=32, hidden_sizes=list(WIDTHS), depths=[1, 1, 1, 1], layer_type="basic"
    )
    vision.hidden_size, vision.image_size = WIDTHS[-1], 256  # what the dual encoder and `clip_pixels` look up
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=64)
    return _dual(config)


def _dual(config: VisionTextDualEncoderConfig) -> VisionTextDualEncoderModel:
    return VisionTextDualEncoderModel(config, FlatResNet(config.vision_config), CLIPTextModel(config.text_config))


@dataclass(eq=False)
class Scorer:
    """A CLIP and its tokenizer as a judge of slices; computes in float32 on the CPU."""

    name: str
    model: nn.Module
    tokenizer: CLIPTokenizer

    @torch.inference_mode()
    def embed_images(self, slices: np.ndarray) -> Tensor:
        """(n, 256, 256) uint8, or floats in [0, 1] -> unit vectors (n, D).

        Raises:
            ValueError: another number of axes.
        """
        if slices.ndim != 3:
            raise ValueError(f"Expected slices (n, H, W), got {slices.shape}: pass one modality at a time.")
        parts = []
        for start in tqdm(range(0, len(slices), BATCH), desc=f"{self.name}", leave=False, disable=len(slices) < 64):
            part = torch.from_numpy(np.array(slices[start : start + BATCH]))  # a copy: cohorts are read-only
            part = part.float() / 255 if part.dtype == torch.uint8 else part.float()
            pooled = self.model.vision_model(pixel_values=clip_pixels(self.model, part[:, None] * 2 - 1)).pooler_output
            parts.append(F.normalize(self.model.visual_projection(pooled), dim=-1))
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_sentences(self, sentences: Sequence[str]) -> Tensor:
        """S sentences -> unit vectors (S, D).

        Raises:
            ValueError: a sentence is longer than the model takes.
        """
        length = self.model.config.text_config.max_position_embeddings
        ids = tokenize(self.tokenizer, sentences, length)
        pooled = self.model.text_model(input_ids=ids).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)

    def scores(self, slices: np.ndarray, sentences: Sequence[str]) -> np.ndarray:
        """CLIP score, 100 × cosine, of every slice with every sentence: (n, S), in [-100, 100].

        Negative cosines are kept; Hessel et al. cut them at 0, which hides how wrong a wrong sentence is.
        """
        return (100 * self.embed_images(slices) @ self.embed_sentences(sentences).T).numpy()


def scorer_folder() -> Path:
    """Where the shipped judge lies."""
    return shipped(FOLDER)


def load_scorer(folder: str | Path | None = None) -> Scorer:
    """The shipped judge, or one that `train_scorer` wrote.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: a file was truncated or altered.
    """
    remedy = "mrtutor.metrics.clip_training.train_scorer(cohort, folder)"
    folder = checked_folder(folder, FOLDER, "scoring CLIP", remedy)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    config = VisionTextDualEncoderConfig.from_pretrained(folder, local_files_only=True)
    model = _dual(config)  # `from_pretrained` would leave the buffers of halves that it is handed uninitialised
    model.load_state_dict(load_file(folder / SAFE_WEIGHTS_NAME))
    return Scorer("MR-CLIP 2", model.float().eval(), tokenizer)


def load_hub_scorer(folder: str | Path) -> Scorer:
    """A CLIP in the hub's layout, such as a download of openai/clip-vit-base-patch16.

    Raises:
        FileNotFoundError: no such folder, or nothing in it.
        ValueError: another kind of model.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"No CLIP in {folder}: expected a folder with config.json, weights and tokenizer, for instance a download "
            "of openai/clip-vit-base-patch16."
        )
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") != "clip":
        raise ValueError(f"{folder} holds a {config.get('model_type')}, not a CLIP with both halves.")
    model = CLIPModel.from_pretrained(folder, local_files_only=True).float().eval()
    return Scorer(folder.name, model, CLIPTokenizer.from_pretrained(folder, local_files_only=True))
