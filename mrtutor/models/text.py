"""MR-CLIP: a small CLIP for MR images and their sentences, with its tokenizer.

The text half conditions the denoiser: the U-Net's cross-attention reads its last hidden state (B, L, D). `is_causal` in
its config says whether a token sees only what comes before it, as in CLIP, or the whole sentence. Padding carries no
meaning: a bidirectional encoder never looks at it, nor does cross-attention where a pipeline says `mask_padding`.

The tokenizer is a standard `CLIPTokenizer`: byte-pair encoding, lower case, `</w>` at the end of a word. Every word of
the course's sentences is one token; an unknown word falls into smaller pieces, down to letters. CLIP's rules keep
digits apart, so T1 is two tokens (`t`, `1`) and T1Gd three (`t`, `1`, `gd`).

Axes: B batch · L tokens · D text width · H, W image pixels.
Source: Radford et al., ICML 2021 (CLIP); Sennrich et al., ACL 2016 (byte-pair encoding); Kim et al., WACV 2024, §3.3.
"""

import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mrtutor.presets import TextPreset
from mrtutor.vocabulary import FILLERS, NO_TUMOUR, PARTS, labelled_sentences

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def build_tokenizer(max_length: int = 64) -> CLIPTokenizer:
    """Learn the vocabulary from the training sentences; the same on every machine, in milliseconds.

    As in CLIP, padding is `<|endoftext|>`, and the two special tokens have the highest numbers.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    letters = sorted(ByteLevel.alphabet())
    letters += [letter + WORD_END for letter in letters]
    splitter = _tokenizer(letters, [], max_length).backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix=WORD_END))
    learner.normalizer, learner.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=10_000,  # more than there is: merging ends when every word is one piece
        special_tokens=letters,  # fixes their numbers, by which ties are broken; else each process merges differently
        initial_alphabet=ByteLevel.alphabet(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    findings = [phrase for words in PARTS.values() for phrases in words.values() for phrase in phrases]
    sentences = [sentence for sentence, *_ in labelled_sentences("train")]
    learner.train_from_iterator([*FILLERS, *NO_TUMOUR, "simulated", *findings, *sentences], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return _tokenizer([*letters, *("".join(pair) for pair in merges)], merges, max_length)


def _tokenizer(pieces: list[str], merges: list[tuple[str, str]], max_length: int) -> CLIPTokenizer:
    vocabulary = {piece: number for number, piece in enumerate([*dict.fromkeys(pieces), START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def tokenize(tokenizer: CLIPTokenizer, sentences: str | Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sentences -> token ids (B, L) long and mask (B, L) bool: True for start, words and the first end token.

    The empty sentence is the unconditional prompt. Nothing is cut off: a sentence of more than the tokenizer's
    `model_max_length` tokens is a ValueError.
    """
    sentences = [sentences] if isinstance(sentences, str) else list(sentences)
    length = tokenizer.model_max_length
    encoded = tokenizer(sentences, padding="max_length", max_length=length, verbose=False)
    for sentence, ids in zip(sentences, encoded.input_ids, strict=True):
        if len(ids) > length:
            raise ValueError(
                f"Expected a sentence of at most {length} tokens, got {len(ids)} (start and end count as two): "
                f"shorten {sentence!r}; a word outside the vocabulary costs up to one token a letter."
            )
    return torch.tensor(encoded.input_ids), torch.tensor(encoded.attention_mask, dtype=torch.bool)


def build_clip(preset: TextPreset, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained, standard `CLIPModel`; its image half is a ViT on grey images (B, 1, H, W), as MR has no colour."""
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
        is_causal=preset.causal,
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


def encoder_mask(encoder: CLIPTextModel | CLIPTextConfig, mask: Tensor) -> Tensor | None:
    """Mask (B, L) -> what `CLIPTextModel` (or its config) and `get_text_features` take as `attention_mask`.

    A causal encoder needs none: its words come before the padding and never see it. For a bidirectional one the mask
    is spelled out, (B, 1, L, L) with 0 where a token may look and a large negative number elsewhere, as transformers
    would otherwise make it causal.
    """
    if getattr(getattr(encoder, "config", encoder), "is_causal", True):
        return None
    hidden = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -1e4)
    return hidden[:, None, None, :].expand(-1, 1, mask.shape[1], -1)


@torch.no_grad()
def encode_prompts(
    encoder: CLIPTextModel, tokenizer: CLIPTokenizer, sentences: str | Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Sentences -> last hidden states (B, L, D), after the final layer norm, and mask (B, L) of what is no padding."""
    ids, mask = tokenize(tokenizer, sentences)
    ids, mask = ids.to(encoder.device), mask.to(encoder.device)
    visible = encoder_mask(encoder, mask)
    visible = visible if visible is None else visible.to(encoder.dtype)
    return encoder(input_ids=ids, attention_mask=visible).last_hidden_state, mask


def clip_pixels(model: CLIPModel, images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) in [-1, 1] -> `pixel_values`, resized bilinearly to what `model` takes.

    For the three channels of a CLIP from the hub grey is repeated and standardised with CLIP's own mean and spread.
    """
    config = model.config.vision_config
    size = (config.image_size, config.image_size)
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    if config.num_channels == 1:
        return images
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((images + 1) / 2 - mean) / std
