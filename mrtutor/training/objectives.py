"""What each stage minimises, as small callables ``objective(model, batch, generator) -> (loss, logs)``.

Every random number comes from `generator`, so that a step is a function of (seed, step) and can be resumed.
The contrastive objective of MR-CLIP stands in `contrastive.py`.

Axes: B batch · H, W image pixels · h, w latent pixels · L tokens · D text width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from torch import Generator, Tensor, nn

from mrtutor.models.autoencoder import from_channels, to_channels
from mrtutor.models.guidance import Variant, predict, structure_condition

Logs = dict[str, Tensor]
Objective = Callable[[nn.Module, dict[str, Tensor], Generator], tuple[Tensor, Logs]]


def reconstruction_loss(error: Tensor, l2_weight: float = 2.0, gradient_weight: float = 0.5) -> Tensor:
    """L1 + 2·L2 + ½·L1 of the gradient, of an error (B, 1, H, W) of images in [-1, 1].

    L2 is what PSNR counts, L1 keeps plateaus flat, the gradient term keeps edges (a thin enhancing rim) crisp.
    """
    gradient = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + l2_weight * error.square().mean() + gradient_weight * gradient


@dataclass(frozen=True)
class AutoencoderObjective:
    """`reconstruction_loss`, and a small KL term towards a unit normal.

    batch: {"image": (B, 1, H, W) in [-1, 1]}.
    """

    l2_weight: float = 2.0
    gradient_weight: float = 0.5
    kl_weight: float = 2e-4

    def __call__(self, model: AutoencoderKL, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        image = batch["image"]
        posterior = model.encode(to_channels(model, image)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        decoded = model.decode(posterior.mean + posterior.std * noise).sample
        error = from_channels(model, decoded).float() - image
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(error, self.l2_weight, self.gradient_weight) + self.kl_weight * kl
        l1, l2 = error.detach().abs().mean(), error.detach().square().mean()
        return loss, {"l1": l1, "l2": l2, "kl": kl.detach()}


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Forward process q(z_t | z_0) = √ᾱ z_0 + √(1 − ᾱ) ε, with `alpha_bar` of shape (B,)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """v = √ᾱ ε − √(1 − ᾱ) z_0 (Salimans & Ho, ICLR 2022)."""
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents


def min_snr_weight(alpha_bar: Tensor, prediction: str, gamma: float = 5.0, floor: float = 0.5) -> Tensor:
    """min-SNR-γ loss weight (Hang et al., ICCV 2023): min(SNR, γ)/SNR for ε, min(SNR, γ)/(SNR + 1) for v.

    The v-weight falls to 0 with the SNR. But what a sentence and a structure decide (which contrast, what fills an
    outline) is decided where noise is strong, and at zero terminal SNR the very first sampling step would never be
    trained: `floor` keeps those noise levels. It lifts weak noise too, where γ pulls the v-weight down: on our schedule
    it acts at 753 of 1000 steps, 663 of SNR < 1 and 90 of SNR > 9 (from as little as 0.004 up to 0.5). Between, where
    1 ≤ SNR ≤ 9, min-SNR decides: from 0.5 up to 0.83 and down again.
    """
    snr = alpha_bar / (1 - alpha_bar).clamp(min=1e-8)
    clipped = snr.clamp(max=gamma)
    weight = clipped / snr.clamp(min=1e-8) if prediction == "epsilon" else clipped / (snr + 1)
    return weight.clamp(min=floor)


@dataclass(frozen=True)
class DiffusionObjective:
    """Eq. 4: the denoiser predicts ε (or v) from noisy latents, time step, sentence and structure.

    With `unet` given, that U-Net is frozen and `model` is the guidance network (A-C); otherwise `model` is the
    U-Net itself (the plain LDM, or variant D).
    batch: {"latent": (B, 4, h, w), "text": (B, L, D), "structure": (B, 1, H, W) in {0, 1}, unless NONE,
    "emphasis": (B, 1, h, w) in [0, 1], optional, where an error counts more}.
    """

    scheduler: DDIMScheduler
    variant: Variant = Variant.NONE
    unet: UNet2DConditionModel | None = None
    autoencoder: AutoencoderKL | None = None  # only for variant C
    drop_structure: float = 0.0  # share of rows whose structure is empty, so that D can also draw without one
    # How much more an error counts inside a tumour and where the contrast agent shows. Where neither noise nor
    # structure tells whether there is one, the minimiser leans towards it; where they do, it stays the mean.
    tumour_weight: float = 0.0

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
        latents = batch["latent"]
        steps = self.scheduler.config.num_train_timesteps
        t = torch.randint(0, steps, (len(latents),), generator=generator).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        return self.at(model, batch, t, noise, generator)

    def at(
        self, model: nn.Module, batch: dict[str, Tensor], t: Tensor, noise: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Logs]:
        """The loss at given time steps (B,) and noise (B, 4, h, w): validation uses fixed ones."""
        latents, prediction = batch["latent"], self.scheduler.config.prediction_type
        alpha_bar = self.scheduler.alphas_cumprod.to(latents)[t]
        target = noise if prediction == "epsilon" else velocity(latents, noise, alpha_bar)
        unet, guidance = (model, None) if self.unet is None else (self.unet, model)
        predicted = predict(
            unet,
            guidance,
            self.variant,
            add_noise(latents, noise, alpha_bar),
            t,
            batch["text"],
            self._condition(batch, generator),
        )
        squares = (predicted.float() - target).square()
        emphasis = 1 + self.tumour_weight * batch["emphasis"] if "emphasis" in batch else 1
        weighted = min_snr_weight(alpha_bar, prediction) * (emphasis * squares).mean(dim=(1, 2, 3))
        return weighted.mean(), {"error": squares.mean().detach()}

    def _condition(self, batch: dict[str, Tensor], generator: Generator | None) -> Tensor | None:
        if self.variant is Variant.NONE:
            return None
        structure = batch["structure"]
        if self.drop_structure and generator is not None:
            keep = torch.rand(len(structure), 1, 1, 1, generator=generator).to(structure.device) >= self.drop_structure
            structure = structure * keep
        with torch.no_grad():
            return structure_condition(structure, self.variant, self.autoencoder)


def guidance_groups(guidance: ControlNetModel, exits: list[nn.Parameter], learning_rate: float, factor: float) -> list:
    """Optimiser groups in which the zero-convolution exits learn `factor` times faster than the cloned encoder."""
    exit_ids = {id(p) for p in exits}
    body = [p for p in guidance.parameters() if id(p) not in exit_ids]
    return [{"params": body, "lr": learning_rate}, {"params": exits, "lr": factor * learning_rate}]
