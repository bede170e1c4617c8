"""Components in the layout of Stable Diffusion 1.5, from a local folder or the Hugging Face hub; and the way back.

What differs from our own components, and what is done about it:

- the autoencoder has three colour channels: grey is repeated on the way in, averaged on the way out, and one scaling
  factor serves all latent channels (`mrtutor.models.autoencoder`);
- the U-Net is set to latents of 32 x 32, the latents of our 256 x 256 slices. It was trained to predict the noise ε on
  a schedule that ends above zero SNR; ours predicts v down to zero SNR. So it is where the denoiser stage *starts*,
  never a finished denoiser;
- the text encoder is a CLIP with its own tokenizer (`mrtutor.models.text.load_text_encoder`).

Source: Rombach et al., CVPR 2022; Kim et al., WACV 2024, §4.1.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError

from mrtutor.files import CHECKSUMS, replace_folder, verify_checksums
from mrtutor.models.autoencoder import unshuffle_factor
from mrtutor.models.denoiser import narrow_input
from mrtutor.models.guidance import STRUCTURE_CHANNELS
from mrtutor.models.text import load_text_encoder

LATENT_CHANNELS = 4
FACTOR = 8  # from image to latent
HELP = (
    "expected a folder on this machine, or an id on the Hugging Face hub such as "
    "stable-diffusion-v1-5/stable-diffusion-v1-5, which needs the network once and, where the model is gated, a token "
    "(`hf auth login`, or the variable HF_TOKEN)"
)


@dataclass(frozen=True)
class HubSources:
    """Where components come from instead of being trained from nothing; a folder or a hub id each, None for training.

    Attributes:
        text_encoder: frozen CLIP in place of MR-CLIP.
        unet: first weights of the denoiser stage.
        vae: frozen autoencoder.
    """

    text_encoder: str | None = None
    unet: str | None = None
    vae: str | None = None


def load_vae(source: str | Path) -> AutoencoderKL:
    """Frozen KL autoencoder with 4 latent channels and f = 8, in float32.

    Args:
        source: folder or hub id of an autoencoder, or of a pipeline with one in ``vae/``.

    Raises:
        FileNotFoundError: it is neither here nor on the hub, or the hub cannot be reached.
        ValueError: a truncated file; other latents than the course's; neither grey nor colour images.
    """
    vae = _load(AutoencoderKL.from_pretrained, source, ("vae", "autoencoder"), "autoencoder")
    config = vae.config
    u = unshuffle_factor(vae)
    factor = u * 2 ** (len(config.block_out_channels) - 1)
    grey_or_colour = config.in_channels in (3, u * u)
    if not grey_or_colour or config.latent_channels != LATENT_CHANNELS or factor != FACTOR:
        raise ValueError(
            f"The autoencoder of {str(source)!r} takes {config.in_channels} channel(s) and gives "
            f"{config.latent_channels} at 1/{factor} of the size: expected 1 or 3 (or a pixel-unshuffled image), "
            f"{LATENT_CHANNELS} and 1/{FACTOR}."
        )
    return vae.eval().requires_grad_(False)


def load_unet(source: str | Path, text_width: int, latent_size: int = 32) -> UNet2DConditionModel:
    """Denoising U-Net set to latents of ``latent_size``, in float32.

    Args:
        source: folder or hub id of a U-Net, or of a pipeline with one in ``unet/``; one of variant D loses its
            structure channels.
        text_width: D of the text encoder whose states (B, L, D) it will read.
        latent_size: side of the latents; the weights do not depend on it.

    Raises:
        FileNotFoundError: it is neither here nor on the hub, or the hub cannot be reached.
        ValueError: a truncated file; other channels (an inpainting model), another text width.
    """
    unet = _load(UNet2DConditionModel.from_pretrained, source, ("unet",), "U-Net")
    if (unet.config.in_channels, unet.config.out_channels) == (LATENT_CHANNELS + STRUCTURE_CHANNELS, LATENT_CHANNELS):
        unet = narrow_input(unet)
    config = unet.config
    if (config.in_channels, config.out_channels) != (LATENT_CHANNELS, LATENT_CHANNELS):
        raise ValueError(
            f"The U-Net of {str(source)!r} has {config.in_channels} input and {config.out_channels} output channels: "
            f"expected {LATENT_CHANNELS} of each; models for inpainting or depth do not fit."
        )
    if config.cross_attention_dim != text_width:
        raise ValueError(
            f"The U-Net of {str(source)!r} reads text states of width {config.cross_attention_dim}, the text encoder "
            f"gives {text_width}: take both from one model (--text-encoder and --unet)."
        )
    unet.register_to_config(sample_size=latent_size)
    return unet


def install_vae(source: str | Path, run: Path) -> Path:
    """Put an autoencoder into a training run's folder as its component ``autoencoder/``; returns that folder.

    Raises:
        FileNotFoundError, ValueError: as `load_vae`.
    """
    vae = load_vae(source)
    with replace_folder(run / "autoencoder") as temporary:
        vae.save_pretrained(temporary)
    return run / "autoencoder"


def install_text_encoder(source: str | Path, run: Path) -> Path:
    """Put a CLIP's text half and tokenizer into a run's folder, as ``text_encoder/`` and ``tokenizer/``.

    Raises:
        FileNotFoundError, ValueError: as `mrtutor.models.text.load_text_encoder`.
    """
    encoder, tokenizer = load_text_encoder(source)
    for name, part in (("tokenizer", tokenizer), ("text_encoder", encoder.float())):
        with replace_folder(run / name) as temporary:
            part.save_pretrained(temporary)
    return run / "text_encoder"


INSTALL = {"autoencoder": install_vae, "text": install_text_encoder}  # by the stage that they replace


def _load(reader: Callable, source: str | Path, subfolders: tuple[str, ...], what: str) -> torch.nn.Module:
    """Component from a folder or the hub, where it may stand in a sub-folder; safetensors only."""
    root = Path(source)
    if str(source) and root.is_dir():
        places = [{"subfolder": name} for name in subfolders if (root / name).is_dir()] or [{}]
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and not str(source).startswith("."):
        places = [{"subfolder": subfolders[0]}, {}]
    else:
        raise FileNotFoundError(f"No {what} at {str(source)!r}: {HELP}.")
    causes = []
    for place in places:
        try:
            return reader(str(source), use_safetensors=True, torch_dtype=torch.float32, **place)
        except SafetensorError as error:
            raise ValueError(f"The weights of {str(source)!r} cannot be read ({error}): restore the file.") from error
        except (OSError, ValueError) as error:
            causes.append(" ".join(str(error).split())[:200])
    raise FileNotFoundError(f"No {what} at {str(source)!r}: {HELP}. Cause: {causes[0]}")


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload a packed pipeline, with its model card, to the Hugging Face hub.

    Args:
        folder: as `mrtutor pack` writes it.
        repo_id: owner/name.
        private: whether a new repository is seen by its owner only.
        token: default the one of `hf auth login` or HF_TOKEN.

    Returns:
        Address of the repository.

    Raises:
        FileNotFoundError: no pipeline or no card in the folder.
        ValueError: a bad ``repo_id``; a file that does not match its checksum.
        OSError: no network, no token, or no permission.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"Expected a repository as OWNER/NAME, got {repo_id!r}.")
    for name in ("model_index.json", CHECKSUMS, "README.md"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}: expected a folder that `mrtutor pack` wrote.")
    verify_checksums(folder)
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Pipeline packed by mrtutor")
    except (OSError, HfHubHTTPError, RuntimeError) as error:
        raise OSError(
            f"{repo_id} cannot be written ({' '.join(str(error).split())[:200]}): check the network, and log in with a "
            "token that may write (`hf auth login`, or the variable HF_TOKEN)."
        ) from error
    return str(address)
