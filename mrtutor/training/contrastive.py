"""What MR-CLIP minimises: images and sentences of one meaning belong together, and so do paraphrases.

A batch holds many slices of each modality, and only eight full prompts exist: plain InfoNCE, with one right answer a
row, would punish right answers. Here every caption that is true of an image is a positive.

Axes: B images · C captions · L tokens · D width.

Source: Radford et al., ICML 2021 (CLIP's loss); Khosla et al., NeurIPS 2020 (several positives a row).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from transformers import CLIPModel, CLIPTokenizer

from mrtutor.data.paraphrases import add_fillers, canonical_prompts, labelled_sentences, paraphrases
from mrtutor.models.text import clip_pixels, tokenize
from mrtutor.vocabulary import IDH, Modality

ANY = -1  # label of what a caption does not say
MAX_SCALE = 100.0  # CLIP's ceiling of exp(logit_scale)

Label = tuple[int, int]  # numbers of modality and IDH type in their enums, or ANY


def positives(images: Tensor, captions: Tensor) -> Tensor:
    """Which caption is true of which image.

    Args:
        images: (B, 2) long, numbers of modality and IDH type of each image.
        captions: (C, 2) long, the same of each caption, `ANY` where it does not say.

    Returns:
        (B, C) bool.
    """
    return ((captions == ANY) | (captions == images[:, None])).all(dim=-1)


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, positive: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's loss with several positives per row and column.

    With s_bc = exp(logit_scale) · cos(image b, caption c), P_b the captions that are true of image b, and Q_c the
    images that caption c is true of,

        L = ½ · mean_b mean_{c ∈ P_b} −log softmax(s_b·)_c  +  ½ · mean_c mean_{b ∈ Q_c} −log softmax(s_·c)_b .

    Its least value is not 0 but about the mean of log |P_b| and log |Q_c|. One positive a row gives CLIP's loss.

    Args:
        image_embeds: (B, D), of any length: cosines are taken.
        text_embeds: (C, D), likewise.
        positive: (B, C) bool, see `positives`. Rows and columns without a positive are left out.
        logit_scale: scalar, logarithm of the inverse temperature, as `CLIPModel` keeps it; exp is capped at 100.

    Raises:
        ValueError: shapes that do not fit, or no positive at all.
    """
    expected = (len(image_embeds), len(text_embeds))
    if tuple(positive.shape) != expected:
        raise ValueError(
            f"Expected `positive` of shape {expected} (images, captions), got {tuple(positive.shape)}: "
            "make it with positives(image_labels, caption_labels)."
        )
    if not positive.any():
        raise ValueError("Expected at least one caption that is true of an image, got none: check the labels.")
    images, texts = (F.normalize(embeds.float(), dim=-1) for embeds in (image_embeds, text_embeds))
    logits = logit_scale.float().exp().clamp(max=MAX_SCALE) * (images @ texts.T)
    return (_soft_cross_entropy(logits, positive) + _soft_cross_entropy(logits.T, positive.T)) / 2


def _soft_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    count = positive.sum(dim=1)
    losses = -(logits.log_softmax(dim=1) * positive).sum(dim=1) / count.clamp(min=1)
    return losses[count > 0].mean()


def sentence_state(hidden: Tensor, ids: Tensor, end_id: int) -> Tensor:
    """Mean of the hidden states from the end token on, (B, D).

    These positions (end token and padding) have seen the whole sentence, and they are more than half of what the
    U-Net's cross-attention reads.

    Args:
        hidden: (B, L, D) last hidden state.
        ids: (B, L) token ids, padded with the end token.
        end_id: id of the end token.
    """
    tail = (ids == end_id)[..., None].to(hidden.dtype)
    return (hidden * tail).sum(dim=1) / tail.sum(dim=1)


@dataclass(frozen=True)
class ContrastiveObjective:
    """Image–text loss, plus the same loss between paraphrases.

    Each step draws one training caption per image: the full sentence, or one part of it (modality only, IDH only),
    the canonical wording or a paraphrase, sometimes with filler words. The second term is taken on `sentence_state`
    of the last hidden state, because that, not CLIP's pooled output, is what the generator reads: captions of one
    meaning are drawn together, captions of different meanings apart.

        L = L_image–text + `paraphrase_weight` · L_text–text

    A batch: image (B, 1, H, W) in [-1, 1], modality (B,) and idh (B,) long, numbers in their enums.
    """

    tokenizer: CLIPTokenizer
    paraphrase_weight: float = 1.0
    temperature: float = 0.1  # of the text–text term
    partial: float = 0.3  # share of captions that name only one of the two
    canonical: float = 0.25  # share of captions in the canonical wording, beyond chance
    fillers: float = 0.3  # share of captions with words that mean nothing
    flip: float = 0.5  # share of images mirrored: the side of a tumour tells neither modality nor IDH type

    def __call__(self, model: CLIPModel, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, dict]:
        """Loss, and logs: both terms, and the share of images whose nearest caption of the batch is true."""
        image = batch["image"]
        labels = torch.stack([batch["modality"], batch["idh"]], dim=1)  # (B, 2)
        sentences, meanings = self.captions(labels, generator)
        ids = tokenize(self.tokenizer, sentences).to(image.device)
        said = torch.tensor(meanings, device=image.device)  # (B, 2)
        mirrored = torch.rand(len(image), generator=generator).to(image.device) < self.flip
        image = torch.where(mirrored[:, None, None, None], image.flip(-1), image)

        output = model(input_ids=ids, pixel_values=clip_pixels(model, image))
        true = positives(labels, said)
        pairing = contrastive_loss(output.image_embeds, output.text_embeds, true, model.logit_scale)
        state = sentence_state(output.text_model_output.last_hidden_state, ids, self.tokenizer.eos_token_id)
        same = (said[:, None] == said[None]).all(dim=-1)
        wording = contrastive_loss(state, state, same, state.new_tensor(-math.log(self.temperature)))
        nearest = output.logits_per_image.argmax(dim=1, keepdim=True)
        logs = {"image_text": pairing.detach(), "text_text": wording.detach()}
        return pairing + self.paraphrase_weight * wording, logs | {"accuracy": true.gather(1, nearest).float().mean()}

    def captions(self, labels: Tensor, generator: Generator) -> tuple[list[str], list[Label]]:
        """One training caption for each image's (modality, IDH type) in `labels` (B, 2), and what it says."""
        sentences, meanings = [], []
        for modality, idh in labels.tolist():
            draw = torch.rand(3, generator=generator).tolist()
            if draw[0] < self.partial:
                modality, idh = (modality, ANY) if draw[0] < self.partial / 2 else (ANY, idh)
            choices = paraphrases(*_words(modality, idh))
            number = int(torch.randint(len(choices), (1,), generator=generator))
            sentence = choices[0] if draw[1] < self.canonical else choices[number]
            sentences.append(self._filled(sentence, generator) if draw[2] < self.fillers else sentence)
            meanings.append((modality, idh))
        return sentences, meanings

    def _filled(self, sentence: str, generator: Generator) -> str:
        longer = add_fillers(sentence, generator)
        fits = len(self.tokenizer(longer, verbose=False).input_ids) <= self.tokenizer.model_max_length
        return longer if fits else sentence


def _words(modality: int, idh: int) -> tuple[Modality | None, IDH | None]:
    return None if modality == ANY else list(Modality)[modality], None if idh == ANY else list(IDH)[idh]


def retrieval_accuracy(queries: Tensor, prompts: Tensor, labels: Tensor) -> dict[str, float]:
    """How often the nearest of the eight canonical prompts has the right modality, and the right IDH type.

    Chance: 0.25 and 0.5 (for IDH the share of the commoner type is the fairer yardstick).

    Args:
        queries: (B, D) embeddings of images or of sentences; cosines are taken.
        prompts: (8, D) embeddings of `canonical_prompts()`, in that order.
        labels: (B, 2) long; `ANY` leaves a row out of that figure.

    Returns:
        {"modality": share, "idh": share}; a figure for which no row has a label is left out.

    Raises:
        ValueError: not eight prompts.
    """
    if len(prompts) != len(Modality) * len(IDH):
        raise ValueError(f"Expected the 8 canonical prompts, got {len(prompts)}: embed canonical_prompts(), in order.")
    nearest = (F.normalize(queries.float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).T).argmax(dim=1)
    found = {"modality": nearest // len(IDH), "idh": nearest % len(IDH)}
    shares = {}
    for column, (name, guess) in enumerate(found.items()):
        known = labels[:, column] != ANY
        if known.any():
            shares[name] = (guess == labels[:, column])[known].float().mean().item()
    return shares


@torch.no_grad()
def paraphrase_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, split: str = "held_out") -> dict[str, float]:
    """`retrieval_accuracy` of a split's sentences by their `sentence_state`, what the generator will read."""
    rows = labelled_sentences(split)
    labels = torch.tensor([[ANY if value is None else value for value in row[1:]] for row in rows])

    def states(sentences: list[str]) -> Tensor:
        ids = tokenize(tokenizer, sentences).to(model.device)
        return sentence_state(model.text_model(input_ids=ids).last_hidden_state, ids, tokenizer.eos_token_id).cpu()

    sentences = [sentence for sentence, _, _ in rows]
    parts = [states(sentences[start : start + 256]) for start in range(0, len(sentences), 256)]
    return retrieval_accuracy(torch.cat(parts), states(canonical_prompts()), labels)
