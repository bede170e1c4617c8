"""MR-CLIP: a small CLIP for MR images and their sentences, and the door for CLIPs from the hub.

The text half conditions the denoiser: its last hidden state (B, L, D) is what the U-Net's cross-attention reads. As in
Stable Diffusion no attention mask is passed on, so the positions after the end token are read like any other; since
CLIP's text encoder is causal, they have seen the whole sentence.

Axes: B batch · L tokens · D text width · H, W image pixels.

Source: Radford et al., ICML 2021 (CLIP); Kim et al., WACV 2024, §3.1 and §4.3 (CLIP score).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mrtutor.models.tokenizer import build_tokenizer, tokenize
from mrtutor.presets import TextPreset

__all__ = ["build_clip", "build_tokenizer", "clip_pixels", "encode_prompts", "load_text_encoder", "tokenize"]


def build_clip(preset: TextPreset, tokenizer: CLIPTokenizer | None = None) -> CLIPModel:
    """An untrained, standard `transformers.CLIPModel` in the preset's sizes.

    The image half is a ViT on grey images (B, 1, 256, 256): one channel, because MR has no colour.

    Args:
        preset: sizes of both halves; the inner layers are 4 × as wide as the hidden states, as in CLIP.
        tokenizer: gives the number of tokens and the ids of start, end and padding; default `build_tokenizer()`.
    """
    tokenizer = tokenizer or build_tokenizer(preset.max_length)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=preset.hidden,
        intermediate_size=4 * preset.hidden,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        max_position_embeddings=preset.max_length,
        projection_dim=preset.projection,
        # the pooled output is the state at the first end token; with the default ids it would be looked for in vain
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=preset.vision_hidden,
        intermediate_size=4 * preset.vision_hidden,
        num_hidden_layers=preset.vision_layers,
        num_attention_heads=preset.vision_heads,
        projection_dim=preset.projection,
        num_channels=1,
        image_size=preset.image_size,
        patch_size=preset.patch,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=preset.projection))


def clip_pixels(model: CLIPModel, images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) in [-1, 1] -> `pixel_values` of `model`.

    MR-CLIP takes them as they are. A CLIP from the hub has three channels: the grey value is repeated and
    standardised with CLIP's own mean and spread. Another size is reached bilinearly.

    Raises:
        ValueError: not one channel.
    """
    if images.ndim != 4 or images.shape[1] != 1:
        raise ValueError(f"Expected grey images (B, 1, H, W), got {tuple(images.shape)}: add or drop the channel axis.")
    config = model.config.vision_config
    if images.shape[-1] != config.image_size or images.shape[-2] != config.image_size:
        side = config.image_size
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    if config.num_channels == 1:
        return images
    mean = images.new_tensor(OPENAI_CLIP_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(OPENAI_CLIP_STD).view(1, 3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def load_text_encoder(source: str | Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Frozen text encoder and tokenizer.

    Args:
        source: a folder with `text_encoder/` and `tokenizer/` (a pipeline, a training run), a folder that holds both
            in one (a saved CLIP), or the id of either on the Hugging Face hub, such as openai/clip-vit-large-patch14.

    Raises:
        FileNotFoundError: no such folder, and the hub does not have it or cannot be reached; or no tokenizer in it.
        ValueError: a truncated weight file, or a tokenizer with tokens that the encoder has no embedding for.
    """
    try:
        encoder, tokenizer = _read_both(source)
    except SafetensorError as error:
        raise ValueError(
            f"The weights of {str(source)!r} cannot be read ({error}): the file was truncated or altered; restore it."
        ) from error
    except (OSError, ValueError) as error:  # transformers raises either, depending on which file is missing
        raise FileNotFoundError(
            f"No CLIP text encoder at {str(source)!r}: expected a folder with text_encoder/ and tokenizer/, a saved "
            f"CLIP, or the id of one on the Hugging Face hub (which needs the network once). Cause: {error}"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # what transformers makes of a folder without its files
        raise FileNotFoundError(
            f"No tokenizer at {str(source)!r}: expected tokenizer.json (or vocab.json and merges.txt) by the weights."
        )
    if len(tokenizer) > encoder.config.vocab_size:
        raise ValueError(
            f"The tokenizer of {str(source)!r} has {len(tokenizer)} tokens, its encoder {encoder.config.vocab_size} "
            "embeddings: they do not belong together; save both from one run."
        )
    return encoder.eval().requires_grad_(False), tokenizer


def _read_both(source: str | Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Encoder and tokenizer, which stand in one folder or in two sub-folders."""
    root = Path(source)
    if (root / "text_encoder").is_dir() and (root / "tokenizer").is_dir():
        return CLIPTextModel.from_pretrained(root / "text_encoder"), CLIPTokenizer.from_pretrained(root / "tokenizer")
    try:
        return CLIPTextModel.from_pretrained(source), CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        if root.is_dir():
            raise
        try:  # perhaps a whole pipeline on the hub
            encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder")
            return encoder, CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        except (OSError, ValueError):
            raise error from None


@torch.no_grad()
def encode_prompts(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, sentences: str | Sequence[str]) -> Tensor:
    """Sentences -> last hidden states (B, L, D), after the final layer norm, on the encoder's device.

    Raises:
        ValueError: a sentence is over the encoder's length, see `tokenize`.
    """
    ids = tokenize(tokenizer, sentences, encoder.config.max_position_embeddings)
    return encoder(input_ids=ids.to(encoder.device)).last_hidden_state
