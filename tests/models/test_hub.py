"""Components in the layout of Stable Diffusion, with tiny random weights; no network is ever touched."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mrtutor.files import write_checksums
from mrtutor.models.autoencoder import build_autoencoder, decode, encode
from mrtutor.models.guidance import STRUCTURE_CHANNELS
from mrtutor.models.hub import install_text_encoder, install_vae, load_unet, load_vae, push_to_hub
from mrtutor.models.text import build_tokenizer, encode_prompts, load_text_encoder
from mrtutor.presets import load_preset

WIDTH = 24  # of the tiny text encoder


def tiny_vae(**changes):
    levels = changes.pop("levels", 4)
    options = {"in_channels": 3, "out_channels": 3, "latent_channels": 4, "norm_num_groups": 4} | changes
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=0.18215,
        **options,
    )


def tiny_unet(**changes):
    options = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": WIDTH, "sample_size": 64} | changes
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        **options,
    )


def write_sd(folder):
    """A pipeline folder as Stable Diffusion 1.5 has it: vae/, unet/, text_encoder/, tokenizer/."""
    torch.manual_seed(0)
    tiny_vae().save_pretrained(folder / "vae")
    tiny_unet().save_pretrained(folder / "unet")
    tokenizer = build_tokenizer(max_length=77)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        **ids,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return write_sd(tmp_path_factory.mktemp("sd"))


def test_a_colour_autoencoder_codes_grey_slices_as_diffusers_codes_the_repeated_slice(sd):
    vae = load_vae(sd)
    assert not any(p.requires_grad for p in vae.parameters()) and not vae.training
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = encode(vae, images)
        expected = vae.encode(images.repeat(1, 3, 1, 1)).latent_dist.mode() * 0.18215  # as Stable Diffusion does
        assert latents.shape == (2, 4, 8, 8)
        torch.testing.assert_close(latents, expected)
        colour = vae.decode(latents / 0.18215).sample
        torch.testing.assert_close(decode(vae, latents), colour.mean(1, keepdim=True))
    assert decode(vae, latents).shape == images.shape


@pytest.mark.parametrize("place", ["pipeline", "component"])
def test_a_unet_is_set_to_the_latents_of_the_course(sd, place):
    unet = load_unet(sd if place == "pipeline" else sd / "unet", WIDTH)
    assert unet.config.sample_size == 32  # Stable Diffusion's own 64 would draw 512 x 512
    assert unet.dtype == torch.float32
    sample = unet(torch.zeros(1, 4, 32, 32), 3, encoder_hidden_states=torch.zeros(1, 7, WIDTH)).sample
    assert sample.shape == (1, 4, 32, 32)


def test_what_is_installed_is_what_a_run_reads(sd, tmp_path):
    assert install_vae(sd, tmp_path) == tmp_path / "autoencoder"
    assert install_text_encoder(sd, tmp_path) == tmp_path / "text_encoder"
    images = torch.zeros(1, 1, 64, 64)
    torch.testing.assert_close(
        encode(AutoencoderKL.from_pretrained(tmp_path / "autoencoder"), images), encode(load_vae(sd), images)
    )
    sentence = "a T1 modality MR image"
    before, after = (encode_prompts(*load_text_encoder(folder), sentence) for folder in (sd, tmp_path))
    assert before.shape == (1, 77, WIDTH)
    torch.testing.assert_close(before, after)
    assert len(CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")) > 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_channels": 16}, "gives 16"),
        ({"levels": 3}, "1/4 of the size"),
        ({"in_channels": 4}, r"takes 4 channel"),
    ],
)
def test_other_autoencoders_are_refused(tmp_path, changes, words):
    tiny_vae(**changes).save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match=words):
        load_vae(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"in_channels": 9}, "inpainting"), ({"cross_attention_dim": 32}, "width 32, the text encoder gives 24")],
)
def test_other_unets_are_refused(tmp_path, changes, words):
    tiny_unet(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        load_unet(tmp_path, WIDTH)


def test_a_unet_of_variant_d_becomes_a_plain_one(tmp_path):
    torch.manual_seed(0)
    wide = tiny_unet(in_channels=4 + STRUCTURE_CHANNELS).eval()
    wide.save_pretrained(tmp_path)
    plain = load_unet(tmp_path, WIDTH, latent_size=8).eval()
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, WIDTH)
    empty = torch.cat([latents, torch.zeros(1, STRUCTURE_CHANNELS, 8, 8)], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(plain(latents, 7, text).sample, wide(empty, 7, text).sample)


def test_a_truncated_file_is_named(sd, tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        load_vae(tmp_path)


@pytest.mark.parametrize("source", ["nobody/nothing", "no folder here", "./missing", "/missing/folder", ""])
@pytest.mark.parametrize("load", [load_vae, lambda source: load_unet(source, WIDTH)])
def test_no_network_and_no_folder(source, load, monkeypatch):
    calls = []

    def offline(name, **options):
        calls.append(options["subfolder"] if "subfolder" in options else None)
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    for model in (AutoencoderKL, UNet2DConditionModel):
        monkeypatch.setattr(model, "from_pretrained", offline)
    with pytest.raises(FileNotFoundError, match=r"expected a folder on this machine, or an id.*HF_TOKEN"):
        load(source)
    assert len(calls) == (2 if source == "nobody/nothing" else 0)  # only an id goes to the hub: sub-folder, then root


def test_pickles_are_never_opened(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae", safe_serialization=False)
    with pytest.raises(FileNotFoundError, match="No autoencoder"):
        load_vae(tmp_path)


@pytest.fixture
def packed(tmp_path):
    for name, text in (("model_index.json", "{}"), ("README.md", "# card"), ("unet.safetensors", "weights")):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_text(text)
    write_checksums(tmp_path / "p")
    return tmp_path / "p"


class Api:
    """Stands for the hub: remembers what it was asked for."""

    calls: list = []  # noqa: RUF012
    trouble: Exception | None = None

    def __init__(self, token=None):
        self.calls.append(("token", token))

    def create_repo(self, repo_id, private, exist_ok):
        if self.trouble:
            raise self.trouble
        self.calls.append(("create", repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, sorted(p.name for p in folder_path.iterdir())))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    return Api


def test_push_uploads_the_whole_folder_privately(packed, api):
    assert push_to_hub(packed, "me/mr", token="secret") == "https://huggingface.co/me/mr"
    files = ["README.md", "SHA256SUMS", "model_index.json", "unet.safetensors"]
    assert api.calls == [("token", "secret"), ("create", "me/mr", True), ("upload", "me/mr", files)]


def test_push_refuses_what_is_not_whole(packed, api, monkeypatch):
    with pytest.raises(ValueError, match="OWNER/NAME, got 'mr'"):
        push_to_hub(packed, "mr")
    (packed / "unet.safetensors").write_text("altered")
    with pytest.raises(ValueError, match="does not match its SHA-256"):
        push_to_hub(packed, "me/mr")
    (packed / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks README\.md.*mrtutor pack"):
        push_to_hub(packed, "me/mr")
    assert api.calls == []


def test_push_without_network_or_token(packed, api, monkeypatch):
    monkeypatch.setattr(Api, "trouble", OSError("401 Client Error"))
    with pytest.raises(OSError, match=r"me/mr cannot be written .*401.*hf auth login"):
        push_to_hub(packed, "me/mr")


def test_our_own_autoencoder_may_be_given_too(tmp_path):
    """Pixel-unshuffle 4 and two levels are f = 8 as well."""
    build_autoencoder(load_preset("smoke").autoencoder).save_pretrained(tmp_path / "autoencoder")
    assert encode(load_vae(tmp_path), torch.zeros(1, 1, 64, 64)).shape == (1, 4, 8, 8)
