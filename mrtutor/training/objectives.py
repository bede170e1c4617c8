"""What each stage minimises, as small callables ``objective(model, batch, generator) -> (loss, logs)``.

Every random number comes from `generator`, so that a step is a function of (seed, step) and can be resumed.

Axes: B batch · C captions · P facts · H, W image pixels · h, w latent pixels · L tokens · D text width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Generator, Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import CLIPModel, CLIPTokenizer

from mrtutor.models.autoencoder import decode, encode, from_channels, to_channels
from mrtutor.models.guidance import VARIANTS, Guidance
from mrtutor.models.text import clip_pixels, encoder_mask, tokenize
from mrtutor.training.data import ANY, FACTS, OPTIONAL, drop, wording
from mrtutor.training.loop import Logs
from mrtutor.vocabulary import Modality, add_fillers, canonical_prompts, labelled_sentences

FINE = 8.0  # grain is small next to anatomy: what a 3 x 3 mean leaves is shown so much stronger
RIM = 9  # pixels: the discriminator sees the brain and half as much around it
MAX_SCALE = 100.0  # CLIP's ceiling of exp(logit_scale)


def reconstruction_loss(error: Tensor) -> Tensor:
    """L1 + 2·L2 + ½·L1 of the gradient, of an error (B, 1, H, W) of images in [-1, 1].

    L2 is what PSNR counts, L1 keeps plateaus flat, the gradient term keeps edges (a thin enhancing rim) crisp.
    """
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * gradient


@dataclass(frozen=True)
class AutoencoderObjective:
    """`reconstruction_loss`, and a small KL term towards a unit normal (Rombach et al., CVPR 2022, §3.1)."""

    kl_weight: float = 2e-4

    def __call__(self, model: AutoencoderKL, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        posterior = model.encode(to_channels(model, batch["image"])).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        decoded = model.decode(posterior.mean + posterior.std * noise).sample
        error = from_channels(model, decoded).float() - batch["image"]
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        logs = {"l1": error.abs().mean(), "l2": error.square().mean(), "kl": kl}
        return reconstruction_loss(error) + self.kl_weight * kl, {name: value.detach() for name, value in logs.items()}


class PatchDiscriminator(nn.Module):
    """Does it look scanned? Slices (B, 1, H, W) in [-1, 1] -> logits (B, h, w), each from 56 pixels about its square.

    One logit map per modality, of which the slice's own is taken. Source: Isola et al., CVPR 2017 (patches); Miyato et
    al., ICLR 2018 (spectral norm).
    """

    def __init__(self):
        super().__init__()
        sizes = [(2, 32, 4, 2), (32, 64, 4, 2), (64, 96, 4, 2), (96, 96, 3, 1), (96, len(Modality), 3, 1)]
        layers = []
        for before, after, kernel, stride in sizes:
            layers += [spectral_norm(nn.Conv2d(before, after, kernel, stride, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor, modality: Tensor) -> Tensor:
        mean = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        maps = self.body(torch.cat([images, FINE * (images - mean)], dim=1))
        return maps[torch.arange(len(images)), modality].float()


class AdversarialObjective:
    """Reconstruction loss + w · adversarial loss (hinge); the discriminator makes its own step first.

    The decoder that errs least draws the mean of all that a latent leaves open: a blur. The encoder, and so all
    latents, stay. w brings the adversarial gradient at the picture to `weight` times the length of the
    reconstruction's (Esser et al., CVPR 2021, Eq. 7).
    """

    def __init__(self, learning_rate: float, weight: float = 1.5):
        self.weight, self.discriminator = weight, PatchDiscriminator()
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), learning_rate, betas=(0.5, 0.99))

    def __call__(self, model: AutoencoderKL, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        image, modality = batch["image"], batch["modality"]
        with torch.no_grad():
            latent = encode(model, image)
        decoded = decode(model, latent)
        # far from the brain there is nothing to be seen; the true background keeps the discriminator off it
        near = F.max_pool2d((image > -1).float(), RIM, stride=1, padding=RIM // 2) > 0
        shown = torch.where(near, decoded.clamp(-1, 1), image)
        real, fake = self.discriminator(torch.cat([image, shown.detach()]), modality.repeat(2)).chunk(2)
        loss_discriminator = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss_discriminator.backward()
        self.optimizer.step()

        rebuilt = reconstruction_loss(decoded - image)
        self.discriminator.requires_grad_(False)
        fooled = -self.discriminator(shown, modality).mean()
        self.discriminator.requires_grad_(True)
        pulls = [torch.autograd.grad(loss, decoded, retain_graph=True)[0].norm() for loss in (rebuilt, fooled)]
        loss = rebuilt + self.weight * pulls[0] / pulls[1].clamp(min=1e-12) * fooled
        logs = {"rebuilt": rebuilt, "discriminator": loss_discriminator, "real": real.mean(), "fake": fake.mean()}
        return loss, {name: value.detach() for name, value in logs.items()}

    def state_dict(self) -> dict:
        """What the next step depends on apart from the model, for a checkpoint."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave."""
        for name, part in state.items():
            getattr(self, name).load_state_dict(part)


def positives(facts: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
    """Which caption is true of which image, and which may be: (B, C) bool each; the second contains the first.

    A caption (facts (C, P)) is true of an image (facts (B, P)) if each part that it says is. It may be true if the
    image's part is unknown, as an IDH type that nobody tested: that is neither right nor wrong.
    """
    silent, images = captions == ANY, facts[:, None]
    agrees = silent | (captions == images)
    return agrees.all(dim=-1), (agrees | (images == ANY)).all(dim=-1)


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, positive: Tensor, logit_scale: Tensor, possible: Tensor | None = None
) -> Tensor:
    """CLIP's loss (Radford et al., ICML 2021) with several positives per row and column (Khosla et al., NeurIPS 2020).

    With s_bc = exp(logit_scale) · cos(image b, caption c), P_b the captions that are true of image b, and Q_c the
    images that caption c is true of: L = ½ · mean_b mean_{c ∈ P_b} −log softmax(s_b·)_c + the same of Q_c and s_·c.
    Embeddings are (B, D) and (C, D), of any length. Rows and columns without a positive (B, C) are left out; pairs that
    are possible and not positive count as neither.
    """
    images, texts = (F.normalize(embeds.float(), dim=-1) for embeds in (image_embeds, text_embeds))
    logits = logit_scale.float().exp().clamp(max=MAX_SCALE) * (images @ texts.T)
    if possible is not None:
        logits = logits.masked_fill(possible & ~positive, -1e4)
    halves = []
    for scores, true in ((logits, positive), (logits.T, positive.T)):
        count = true.sum(dim=1)
        losses = -(scores.log_softmax(dim=1) * true).sum(dim=1) / count.clamp(min=1)
        halves.append(losses[count > 0].mean())
    return sum(halves) / 2


def sentence_state(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over a sentence of its hidden states (B, L, D), padding left out: what the U-Net reads, as one vector."""
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def text_states(model: CLIPModel, tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Projected embeddings (B, projection) and `sentence_state` (B, D) of sentences."""
    ids, mask = (tensor.to(model.device) for tensor in tokenize(tokenizer, sentences))
    output = model.text_model(input_ids=ids, attention_mask=encoder_mask(model.config.text_config, mask))
    return model.text_projection(output.pooler_output), sentence_state(output.last_hidden_state, mask)


def image_embeds(model: CLIPModel, images: Tensor) -> Tensor:
    """Projected embeddings (B, projection) of grey images (B, 1, H, W) in [-1, 1]."""
    return model.visual_projection(model.vision_model(clip_pixels(model, images)).pooler_output)


@dataclass(frozen=True)
class ContrastiveObjective:
    """Image–text loss, plus `paraphrase_weight` times the same loss between two wordings of each caption.

    A caption says what is known of an image, each part left out at random. The second term is taken on
    `sentence_state`, because that, not CLIP's pooled output, is what the generator reads.
    """

    tokenizer: CLIPTokenizer
    paraphrase_weight: float = 1.0
    temperature: float = 0.1  # of the text–text term
    drop_part: float = 0.4  # share of the IDH types and findings that are left out
    drop_modality: float = 0.15  # share of captions without a modality
    drop_all: float = 0.15  # share of captions that say nothing but the modality
    canonical: float = 0.25  # share of captions in the canonical wording, beyond chance
    fillers: float = 0.3  # share of captions with words that mean nothing

    def __call__(self, model: CLIPModel, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        """Loss, and logs: both terms, and the share of images whose nearest caption of the batch is true."""
        said, first, second = self.captions(batch["facts"].cpu(), generator)
        said = said.to(batch["image"].device)
        embeds, states = text_states(model, self.tokenizer, first + second)
        pictures, texts = image_embeds(model, batch["image"]), embeds[: len(first)]
        true, possible = positives(batch["facts"], said)
        pairing = contrastive_loss(pictures, texts, true, model.logit_scale, possible)
        same = (said[:, None] == said[None]).all(dim=-1)
        wording_loss = contrastive_loss(*states.chunk(2), same, states.new_tensor(-math.log(self.temperature)))
        nearest = (F.normalize(pictures.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T).argmax(dim=1)
        hit = true.gather(1, nearest[:, None]).float().mean()
        logs = {"image_text": pairing.detach(), "text_text": wording_loss.detach(), "accuracy": hit}
        return pairing + self.paraphrase_weight * wording_loss, logs

    def captions(self, facts: Tensor, generator: Generator) -> tuple[Tensor, list[str], list[str]]:
        """For each image's facts (B, P): what its caption says (B, P), and two wordings of it."""
        share = torch.rand(len(facts), 1, generator=generator)
        said = drop(facts, torch.where(share < self.drop_all, 1.0, self.drop_part), generator)
        modality, idh, tumour = (list(FACTS).index(name) for name in ("modality", "idh", "tumour"))
        said[share[:, 0] > 1 - self.drop_modality, modality] = ANY
        said[said[:, tumour] == 0, idh] = ANY  # no sentence says both
        first, second = ([self._words(row, generator) for row in said.tolist()] for _ in range(2))
        bare = (said[:, OPTIONAL] == ANY).all(dim=1) & (said[:, tumour] == 1)
        said[bare, tumour] = ANY  # says nothing of a tumour's kind, and leaves open whether there is one
        return said, first, second

    def _words(self, facts: list[int], generator: Generator) -> str:
        sentence = wording(facts, generator, self.canonical)
        longer = add_fillers(sentence, lambda high: int(torch.randint(high, (), generator=generator)))
        fits = len(self.tokenizer(longer, verbose=False).input_ids) <= self.tokenizer.model_max_length
        return longer if fits and torch.rand((), generator=generator).item() < self.fillers else sentence


@torch.no_grad()
def paraphrase_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, split: str = "held_out") -> dict[str, float]:
    """How often the nearest of the eight canonical prompts, by `sentence_state`, has a sentence's modality and type.

    `split` is "train" or "held_out", wordings never read in training; chance is 0.25 for "modality", 0.5 for "idh".
    """
    sentences, *labels = zip(*labelled_sentences(split), strict=True)
    parts = [sentences[start : start + 256] for start in range(0, len(sentences), 256)]
    queries = torch.cat([text_states(model, tokenizer, part)[1] for part in parts])
    prompts = text_states(model, tokenizer, canonical_prompts())[1]
    nearest = (F.normalize(queries.float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).T).argmax(dim=1).cpu()
    shares = {}
    for name, guess, label in zip(("modality", "idh"), (nearest // 2, nearest % 2), labels, strict=True):
        truth = torch.tensor([ANY if code is None else code for code in label])
        shares[name] = (guess == truth)[truth != ANY].float().mean().item()
    return shares


def min_snr_weight(alpha_bar: Tensor, prediction: str, gamma: float = 5.0, floor: float = 0.5) -> Tensor:
    """min-SNR-γ loss weight (Hang et al., ICCV 2023): min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for v.

    Sentence and structure decide where noise is strong. There the v-weight falls to 0, and at zero terminal SNR the
    first sampling step would never be trained: `floor` keeps those levels.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8)
    clipped = snr.clamp(max=gamma)
    return (clipped / snr.clamp(min=1e-8) if prediction == "epsilon" else clipped / (snr + 1)).clamp(min=floor)


@dataclass(frozen=True)
class DiffusionObjective:
    """Eq. 4, the paper's only loss: ε (or v) from noisy latents, time step, sentence and edge map.

    The model is a U-Net, or an ``nn.ModuleDict`` of "unet" and perhaps "guidance"; batches are those of
    `LatentBatches`, where all but latent and text may be missing.
    """

    scheduler: DDIMScheduler
    guidance: Guidance = VARIANTS["none"]
    autoencoder: AutoencoderKL | None = None  # only for variant C
    drop_structure: float = 0.0  # share of rows whose structure is empty, so that D can also draw without one
    tumour_weight: float = 0.0  # how much more an error counts in a tumour and where the contrast agent shows

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        latents, prediction = batch["latent"], self.scheduler.config.prediction_type
        levels = self.scheduler.config.num_train_timesteps
        t = torch.randint(levels, (len(latents),), generator=generator).to(latents.device)
        noise, structure = torch.randn(latents.shape, generator=generator).to(latents), batch.get("structure")
        if self.drop_structure and structure is not None:
            keep = torch.rand(len(latents), 1, 1, 1, generator=generator) >= self.drop_structure
            structure = structure * keep.to(latents.device)
        networks = dict(model.items()) if isinstance(model, nn.ModuleDict) else {"unet": model}
        target = noise if prediction == "epsilon" else self.scheduler.get_velocity(latents, noise, t)
        with torch.no_grad():
            condition = self.guidance.condition(structure, self.autoencoder)
        noisy, options = self.scheduler.add_noise(latents, noise, t), {"mask": batch.get("text_mask")}
        inputs = (networks["unet"], networks.get("guidance"), noisy, t, batch["text"], condition)
        squares = (self.guidance.predict(*inputs, **options).float() - target).square()
        emphasis = 1 + self.tumour_weight * batch["emphasis"] if "emphasis" in batch else 1
        weight = min_snr_weight(self.scheduler.alphas_cumprod.to(latents)[t], prediction)
        return (weight * (emphasis * squares).mean(dim=(1, 2, 3))).mean(), {"error": squares.mean().detach()}
