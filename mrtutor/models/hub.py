"""Components of Stable Diffusion 1.5 (Rombach et al., CVPR 2022) or of a run, from a folder or the Hugging Face hub.

That the paper starts from Stable Diffusion is our inference. The way back to the hub: `hf upload OWNER/NAME FOLDER`.
"""

from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizer

from mrtutor.models.autoencoder import factor_of
from mrtutor.models.guidance import STRUCTURE_CHANNELS, guidance_of


def load_vae(source: str | Path) -> AutoencoderKL:
    """Frozen autoencoder, float32, with f = 8 and any number of latent channels."""
    vae = _load(AutoencoderKL.from_pretrained, source, "vae", "autoencoder", use_safetensors=True)
    if factor_of(vae) != 8:
        raise ValueError(f"The autoencoder of {str(source)!r} shrinks a picture by {factor_of(vae)}: expected 8.")
    return vae.float().requires_grad_(False)


def load_unet(source: str | Path, text_width: int, latent_channels: int = 4) -> UNet2DConditionModel:
    """U-Net to *start* from, float32, for latents of 32 x 32; one of variant D loses its structure channels."""
    unet = _load(UNet2DConditionModel.from_pretrained, source, "unet", use_safetensors=True).float()
    if unet.config.in_channels == unet.config.out_channels + STRUCTURE_CHANNELS:
        unet = guidance_of("D").plain(unet)
    got = unet.config.in_channels, unet.config.out_channels, unet.config.cross_attention_dim
    if got != (latent_channels, latent_channels, text_width):
        expected = f"expected {(latent_channels, latent_channels, text_width)}: take all parts from one model"
        raise ValueError(f"The U-Net of {source} has channels in and out and text width {got}, {expected}.")
    unet.register_to_config(sample_size=32)
    return unet


def load_text_encoder(source: str | Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Frozen text encoder and tokenizer, of a run, a pipeline or a whole saved CLIP."""
    encoder, report = _load(CLIPTextModel.from_pretrained, source, "text_encoder", output_loading_info=True)
    tokenizer = _load(CLIPTokenizer.from_pretrained, source, "tokenizer")
    tokens, missing = len(tokenizer), len(report["missing_keys"])  # transformers makes up what it does not find
    if missing or not len(set(tokenizer.all_special_ids)) < tokens <= encoder.config.vocab_size:
        got = f"{tokens} tokens for {encoder.config.vocab_size} embeddings, {missing} weights missing"
        raise ValueError(f"Expected a CLIP at {source}, got {got}: save encoder and tokenizer from one run.")
    return encoder.float().requires_grad_(False), tokenizer


def _load(reader, source, *subfolders, **options):
    """A component from a folder or the hub, perhaps in a sub-folder."""
    root, causes = Path(source), []
    places = [name for name in subfolders if not root.is_dir() or (root / name).is_dir()]
    for place in [*places, ""]:
        try:
            return reader(str(source), subfolder=place, **options)
        except (OSError, ValueError, SafetensorError, AttributeError, KeyError, TypeError, RuntimeError) as error:
            causes.append(" ".join(str(error).split())[:200])
    raise ValueError(f"Cannot load {source}: expected a folder or a hub id (`hf auth login` if gated). {causes[0]}")
