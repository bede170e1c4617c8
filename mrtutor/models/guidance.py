"""Structural guidance: an edge map steers the denoiser. One class per variant, all with the same methods.

A new variant is a class in this file and its name in a preset.
Axes: B batch · S edge maps · C latent channels · H, W image pixels (256) · h, w latent pixels (32) · L tokens · D text
width. Source: Kim et al., WACV 2024, §3.2, Eq. 2-3.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

STRUCTURE_CHANNELS = 64  # 8 x 8 edge pixels per latent pixel: nothing is lost on the way in
STEM_WIDTH = 96  # channels of the first convolution on the edge map
EXIT_FACTOR = 4.0  # zero convolutions learn so much faster than the clone: they start from nothing

Network = ControlNetModel | None
Denoise = Callable[..., Tensor]  # denoise(latents, time step, text, scale=1.0, mask=None) -> prediction


class Guidance:
    """The plain latent diffusion model, and what all variants have in common."""

    name = "none"
    label = "no structure: the plain latent diffusion model"
    takes_structure = False
    has_network = False

    def channels(self, unet: UNet2DConditionModel) -> tuple[int, int | None]:
        """Input channels of the U-Net, and those of the condition that the guidance network takes."""
        return unet.config.out_channels, STRUCTURE_CHANNELS if self.has_network else None

    def check(self, unet: UNet2DConditionModel, network: Network) -> None:
        """Refuse the networks of another variant, with a ValueError."""
        got = unet.config.in_channels, None if network is None else network.config.conditioning_channels
        if got != self.channels(unet):
            raise ValueError(
                f"Variant {self.name} needs a U-Net and a guidance network with {self.channels(unet)} input channels "
                f"(None: no such network), got {got}: they belong to another variant."
            )

    def build(self, unet: UNet2DConditionModel) -> tuple[UNet2DConditionModel, Network]:
        """U-Net and guidance network of this variant from a plain U-Net; before training they change nothing."""
        return unet, None

    def plain(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        """The U-Net of this variant as a plain latent diffusion model."""
        return unet

    def condition(self, structure: Tensor | None, autoencoder: AutoencoderKL | None = None) -> Tensor | None:
        """Edge maps (S, 1, H, W) in {0, 1} -> what `predict` takes as condition: (S, 64, h, w), or for C a latent."""
        return F.pixel_unshuffle(structure, 8) if self.takes_structure else None

    def predict(
        self,
        unet: UNet2DConditionModel,
        network: Network,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        condition: Tensor | None,
        *,
        mask: Tensor | None = None,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """One call: noisy latents (B, C, h, w), t (B,) or one, text (B, L, D) -> ε or v, as the scheduler says.

        Args:
            condition: from `condition`, one for each row; None for the variant "none".
            mask: (B, L) bool, True where cross-attention may look; None for everywhere.
            scale: factor on what the structure adds; a tensor (B, 1, 1, 1) gives each row its own.
        """
        return unet(latents, timesteps, text, encoder_attention_mask=mask).sample

    @contextmanager
    def fixed(
        self, unet: UNet2DConditionModel, network: Network, structure: Tensor | None, autoencoder: AutoencoderKL
    ) -> Iterator[Denoise]:
        """`predict` for given edge maps (S, 1, H, W), whose features are computed once; batches are a multiple of S."""
        condition = self.condition(structure, autoencoder)
        stem = network.controlnet_cond_embedding if self.has_network else None

        def denoise(latents, timestep, text, scale=1.0, mask=None) -> Tensor:
            # in order, once for each half of guidance
            rows = None if condition is None else condition.repeat(len(latents) // len(condition), 1, 1, 1)
            return self.predict(unet, network, latents, timestep, text, rows, mask=mask, scale=scale)

        try:
            if self.has_network:
                condition = stem(condition.to(network.dtype))
                network.controlnet_cond_embedding = nn.Identity()
            yield denoise
        finally:
            if self.has_network:
                network.controlnet_cond_embedding = stem

    def trainable_groups(self, unet: UNet2DConditionModel, network: Network, learning_rate: float) -> list[dict]:
        """Groups for the optimiser. What is in none of them is frozen, what is in one is set to train."""
        unet.requires_grad_(True)
        return [{"params": list(unet.parameters()), "lr": learning_rate}]


class ControlNetGuidance(Guidance):
    """Variant B (Zhang et al., ICCV 2023), and the base of all variants with a cloned encoder."""

    name = "B"
    label = "ControlNet: residuals into the middle block and the skips, base frozen"
    takes_structure = True
    has_network = True
    zero_stem = False  # a stem that starts like any convolution shortens the time in which nothing seems to happen
    skips = True  # residuals into the skip connections, not into the middle block alone

    def build(self, unet):
        network = ControlNetModel.from_unet(
            unet, conditioning_channels=self.channels(unet)[1], conditioning_embedding_out_channels=(STEM_WIDTH,)
        )
        if not self.zero_stem:
            network.controlnet_cond_embedding.conv_out.reset_parameters()
        return unet, network

    def predict(self, unet, network, latents, timesteps, text, condition, *, mask=None, scale=1.0):
        with text_masked(network, mask):
            down, middle = network(latents, timesteps, text, condition, conditioning_scale=scale, return_dict=False)
        return unet(
            latents,
            timesteps,
            text,
            encoder_attention_mask=mask,
            down_block_additional_residuals=list(down) if self.skips else [latents.new_zeros(()) for _ in down],
            mid_block_additional_residual=middle,
        ).sample

    def trainable_groups(self, unet, network, learning_rate):
        unet.requires_grad_(False)
        network.requires_grad_(True)
        exits = exit_parameters(network)
        known = {id(parameter) for parameter in exits}
        clone = [parameter for parameter in network.parameters() if id(parameter) not in known]
        return [{"params": clone, "lr": learning_rate}, {"params": exits, "lr": EXIT_FACTOR * learning_rate}]


class PaperGuidance(ControlNetGuidance):
    """Eq. 2-3: encoder and middle block cloned, zero convolutions before and after the clone."""

    name = "paper"
    label = "the paper's: residuals into the middle block and the skips, base frozen but for its first middle block"
    zero_stem = True

    def trainable_groups(self, unet, network, learning_rate):
        groups = super().trainable_groups(unet, network, learning_rate)
        first = unet.mid_block.resnets[0].requires_grad_(True)
        first.norm1.register_forward_pre_hook(_needing_gradient)
        return [*groups, {"params": list(first.parameters()), "lr": learning_rate}]


def _needing_gradient(norm: nn.GroupNorm, args: tuple[Tensor]) -> Tensor | None:
    """Torch 2.13 on CPUs crashes in the backward pass of a trained channels_last norm whose input needs no gradient."""
    if torch.is_grad_enabled() and norm.weight.requires_grad and not args[0].requires_grad:
        return args[0].detach().requires_grad_()


class MiddleGuidance(ControlNetGuidance):
    name = "A"
    label = "the other reading of Eq. 3: residual into the middle block only, base frozen"
    skips = False

    def trainable_groups(self, unet, network, learning_rate):
        clone, exits = super().trainable_groups(unet, network, learning_rate)
        network.controlnet_down_blocks.requires_grad_(False)  # they lead nowhere
        return [clone, exits | {"params": list(network.controlnet_mid_block.parameters())}]


class LatentGuidance(ControlNetGuidance):
    name = "C"
    label = "like B, with the edge map as a latent of the frozen autoencoder"

    def channels(self, unet):
        return unet.config.out_channels, unet.config.out_channels

    def condition(self, structure, autoencoder=None):
        from mrtutor.models.autoencoder import encode

        return encode(autoencoder, (structure * 2 - 1).to(autoencoder.dtype))


class ConcatGuidance(Guidance):
    name = "D"
    label = "structure concatenated to the U-Net's input, the whole U-Net trained"
    takes_structure = True

    def channels(self, unet):
        return unet.config.out_channels + STRUCTURE_CHANNELS, None

    def build(self, unet):
        """The new input weights are zero, so that nothing changes at first, as with a zero convolution (Eq. 2)."""
        return _with_input(unet, F.pad(unet.conv_in.weight.detach(), (0, 0, 0, 0, 0, STRUCTURE_CHANNELS))), None

    def plain(self, unet):
        """As if the edge map were empty everywhere; rows trained without one have made D a plain model, too."""
        return _with_input(unet, unet.conv_in.weight.detach()[:, : unet.config.out_channels])

    def predict(self, unet, network, latents, timesteps, text, condition, *, mask=None, scale=1.0):
        joined = torch.cat([latents, scale * condition.to(latents.dtype)], dim=1)
        return super().predict(unet, network, joined, timesteps, text, None, mask=mask)


def _with_input(unet: UNet2DConditionModel, weight: Tensor) -> UNet2DConditionModel:
    """Copy of a U-Net with another weight, of another number of input channels, in the first convolution."""
    other = copy.deepcopy(unet)
    other.conv_in.weight = nn.Parameter(weight.clone())
    other.conv_in.in_channels = weight.shape[1]
    other.register_to_config(in_channels=weight.shape[1])
    return other


def exit_parameters(network: ControlNetModel) -> list[nn.Parameter]:
    """Parameters of the zero convolutions at the exits of the clone."""
    return [*network.controlnet_down_blocks.parameters(), *network.controlnet_mid_block.parameters()]


@contextmanager
def text_masked(network: ControlNetModel, mask: Tensor | None) -> Iterator[None]:
    """Hide text tokens where `mask` (B, L) is False; `ControlNetModel` hands its blocks no mask, so hooks do."""
    network = getattr(network, "module", network)  # as wrapped for several processes
    blocks = [] if mask is None else [*network.down_blocks, network.mid_block]

    def add_mask(block: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
        return args, options | {"encoder_attention_mask": mask}

    with ExitStack() as hooks:
        for block in blocks:
            if getattr(block, "has_cross_attention", False):
                hooks.enter_context(block.register_forward_pre_hook(add_mask, with_kwargs=True))
        yield


_CLASSES = (Guidance, PaperGuidance, MiddleGuidance, ControlNetGuidance, LatentGuidance, ConcatGuidance)
VARIANTS: dict[str, Guidance] = {guidance.name: guidance() for guidance in _CLASSES}


def guidance_of(name: str) -> Guidance:
    """The guidance variant of this name; a ValueError lists the choices."""
    if name not in VARIANTS:
        raise ValueError(f"Unknown guidance variant {name!r}: expected one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
