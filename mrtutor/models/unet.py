"""The denoiser: a cross-attention U-Net on latents, and the noise schedule it is trained with.

The paper names neither its sizes nor a noise schedule; sizes are presets.
Source: Rombach et al., CVPR 2022, §3.3; Kim et al., WACV 2024, Eq. 1 (cross-attention) and Eq. 4 (the loss);
Lin et al., WACV 2024 (zero terminal SNR).
"""

from diffusers import DDIMScheduler, UNet2DConditionModel

from mrtutor.presets import DenoiserPreset


def build_denoiser(preset: DenoiserPreset, text_dim: int) -> UNet2DConditionModel:
    """The plain latent diffusion model, for text states (B, L, D) of width `text_dim`."""
    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in preset.attention)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(preset.attention))
    return UNet2DConditionModel(
        sample_size=preset.latent_size,
        in_channels=preset.latent_channels,
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
    """DDIM on Stable Diffusion's schedule; for "v_prediction" rescaled to zero terminal SNR, for "epsilon" as it is.

    Without the rescaling the last training step still shows the mean brightness of the image; sampling starts from
    pure noise, whose mean is grey, and the black background of MR drifts. At zero SNR noise alone says nothing about ε.
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
    )
