"""The denoiser: a cross-attention U-Net on latents, and the noise schedule it was trained with.

Source: Rombach et al., CVPR 2022, §3.3; Kim et al., WACV 2024, Eq. 1 and 4; Lin et al., WACV 2024 (zero terminal SNR).
"""

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from mrtutor.presets import DenoiserPreset


def build_denoiser(preset: DenoiserPreset, text_dim: int, structure_channels: int = 0) -> UNet2DConditionModel:
    """A standard `diffusers.UNet2DConditionModel`.

    Args:
        preset: widths per level, layers per block and where cross-attention stands.
        text_dim: D of the text encoder's hidden states (B, L, D).
        structure_channels: extra input channels; 64 for variant D (see `widen_input`), else 0.
    """
    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in preset.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(preset.attention))
    return UNet2DConditionModel(
        sample_size=preset.latent_size,
        in_channels=preset.latent_channels + structure_channels,
        out_channels=preset.latent_channels,
        block_out_channels=preset.widths,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=preset.layers,
        cross_attention_dim=text_dim,
        attention_head_dim=preset.heads,  # diffusers' historical name: this is the number of heads
        norm_num_groups=preset.norm_groups,
    )


def build_scheduler(prediction: str = "v_prediction") -> DDIMScheduler:
    """DDIM on Stable Diffusion's scaled-linear schedule, rescaled to zero terminal SNR.

    Without the rescaling the last training step still shows the mean brightness of the image; sampling starts from
    pure noise, whose mean is grey, and the black background of MR drifts (Lin et al., 2024). Zero SNR needs
    v-prediction, because at that step noise alone says nothing about ε.
    """
    zero_snr = prediction == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
        clip_sample=False,
        set_alpha_to_one=True,
    )


@torch.no_grad()
def widen_input(unet: UNet2DConditionModel, structure_channels: int) -> UNet2DConditionModel:
    """Copy of a plain U-Net that also takes `structure_channels` (guidance variant D).

    The new input weights are zero, so that step 0 changes nothing, as with a zero convolution (Eq. 2).
    """
    config = dict(unet.config) | {"in_channels": unet.config.in_channels + structure_channels}
    wide = UNet2DConditionModel.from_config(config)
    state = unet.state_dict()
    weight = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([weight, weight.new_zeros(len(weight), structure_channels, 3, 3)], dim=1)
    wide.load_state_dict(state)
    return wide


@torch.no_grad()
def narrow_input(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Copy of a U-Net of guidance variant D that takes latents alone: as if the structure were empty everywhere.

    The inverse of `widen_input`. With rows whose structure was dropped, D has learnt to be a plain LDM as well.
    """
    plain = UNet2DConditionModel.from_config(dict(unet.config) | {"in_channels": unet.config.out_channels})
    state = unet.state_dict()
    state["conv_in.weight"] = state["conv_in.weight"][:, : unet.config.out_channels]
    plain.load_state_dict(state)
    return plain.train(unet.training)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in module.parameters())
