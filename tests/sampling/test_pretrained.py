"""Weights on disk: what is saved is what is loaded; missing, cut, altered or added files are named; all or nothing."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from mrtutor.files import write_checksums
from mrtutor.sampling import pretrained
from mrtutor.sampling.pretrained import load_pretrained, save_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(pipelines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(pipelines("D"), tmp_path_factory.mktemp("saved") / "tiny", card="# card")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def test_what_is_saved_is_what_is_loaded(saved, pipelines, structure) -> None:
    pipe = load_pretrained(saved, device="cpu")
    pipe.precision = torch.float32
    pipe.set_progress_bar_config(disable=True)
    again = pipe.sequence("wild", structure, seed=1)
    before = pipelines("D").sequence("wild", structure, seed=1)
    assert all((again[m] - before[m]).abs().max() < 0.02 for m in before), "float16 storage changed the pictures"
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale) == (3, 2.0)
    assert pipe.unet.dtype == torch.float32 and (saved / "README.md").read_text() == "# card"


def test_diffusers_and_transformers_alone_open_every_part(saved: Path) -> None:
    assert UNet2DConditionModel.from_pretrained(saved / "unet").config.in_channels == 4 + 64
    assert {tensor.dtype for tensor in load_file(saved / WEIGHTS).values()} == {torch.float16}
    assert AutoencoderKL.from_pretrained(saved / "autoencoder").config.latents_std == [1.0, 2.0, 0.5, 1.5]
    assert DDIMScheduler.from_pretrained(saved / "scheduler").config.rescale_betas_zero_snr
    assert CLIPTextModel.from_pretrained(saved / "text_encoder").config.hidden_size == 32
    assert len(CLIPTokenizer.from_pretrained(saved / "tokenizer")("T1Gd").input_ids) == 5
    assert not [p for p in saved.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"{WEIGHTS} is missing"):
        load_pretrained(folder)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_file_is_named(folder: Path, damage: str) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content = content[:-1000] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered"):
        load_pretrained(folder)


def test_a_file_beside_the_list_is_refused(folder: Path) -> None:
    (folder / "unet/model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"unet/model.safetensors .* not in SHA256SUMS"):
        load_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="No SHA256SUMS"):
        load_pretrained(folder)


def test_unknown_names_list_the_choices(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pretrained").mkdir()
    folder.rename(tmp_path / "pretrained/tiny")
    monkeypatch.setenv("MRTUTOR_DATA", str(tmp_path))
    assert load_pretrained("tiny", device="cpu").variant == "D"
    with pytest.raises(FileNotFoundError, match=r"No weights 'large'.*'smoke'.*\(tiny\)"):
        load_pretrained("large")
    with pytest.raises(ValueError, match="holds variant D, not A"):
        load_pretrained("tiny", variant="A")


def test_smoke_weights_are_the_same_every_time() -> None:
    one, two = load_pretrained("smoke"), load_pretrained("smoke")
    assert torch.equal(one.unet.conv_in.weight, two.unet.conv_in.weight)
    assert load_pretrained("smoke", variant="A").guidance is not None


def test_a_full_disk_leaves_the_old_weights(folder: Path, pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "SHA256SUMS").read_text()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pretrained, "write_checksums", full)
        with pytest.raises(OSError, match="No space"):
            save_pipeline(pipelines("D"), folder)
    assert (folder / "SHA256SUMS").read_text() == before and load_pretrained(folder, device="cpu")
    assert [p.name for p in folder.parent.iterdir()] == ["tiny"]


def test_weights_are_never_written_over_something_else(tmp_path: Path, pipelines) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no pipeline folder"):
        save_pipeline(pipelines("D"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_weights_beyond_float16_are_refused(pipelines, tmp_path: Path) -> None:
    bias = pipelines("D").unet.conv_out.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[0] = 1e6
        with pytest.raises(ValueError, match=r"1 weight\(s\) of unet are NaN or beyond float16"):
            save_pipeline(pipelines("D"), tmp_path / "new")
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert not (tmp_path / "new").exists()


def test_a_config_of_other_sizes_is_no_riddle(folder: Path) -> None:
    path = folder / "unet/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"in_channels": 4}))
    write_checksums(folder)
    with pytest.raises(ValueError, match=r"conv_in\.weight expected shape .*\[32, 4, 3, 3\].* got .*\[32, 68, 3, 3\]"):
        load_pretrained(folder)
