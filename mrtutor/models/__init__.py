"""The networks: builders for standard classes of diffusers and transformers, and the little that those lack."""

from mrtutor.presets import Preset


def build_components(preset: Preset, variant: str) -> dict[str, object]:
    """Untrained parts of an `MRPipeline` by the names of its arguments, drawn from torch's global generator."""
    from mrtutor.models.autoencoder import build_autoencoder
    from mrtutor.models.guidance import guidance_of
    from mrtutor.models.text import build_clip, build_tokenizer
    from mrtutor.models.unet import build_denoiser, build_scheduler

    tokenizer = build_tokenizer(preset.text.max_length)
    autoencoder = build_autoencoder(preset.autoencoder).eval()
    channels = preset.autoencoder.latent_channels
    autoencoder.register_to_config(latents_mean=[0.0] * channels, latents_std=[1.0] * channels)
    encoder = build_clip(preset.text, tokenizer).text_model.eval()
    unet, guidance = guidance_of(variant).build(build_denoiser(preset.denoiser, preset.text.hidden).eval())
    parts = {"autoencoder": autoencoder, "text_encoder": encoder, "tokenizer": tokenizer, "unet": unet}
    return parts | {"guidance": guidance and guidance.eval(), "scheduler": build_scheduler()}
