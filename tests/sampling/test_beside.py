"""A guidance network beside a pipeline: trained with its U-Net, packed alone, opened as one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel

from mrtutor.metrics.draws import weights_key
from mrtutor.models.guidance import Variant
from mrtutor.presets import load_preset
from mrtutor.sampling import pretrained
from mrtutor.sampling.beside import BESIDE
from mrtutor.sampling.pack import pack_guidance, pack_run
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.sampling.unpack import unpack_pipeline
from mrtutor.training import stages
from tests.cohorts import write_tiny_cohort


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of variant D, `base`, a run with a guidance network A for its U-Net, and that alone, `base-A`."""
    folder = tmp_path_factory.mktemp("beside")
    run = stages.Run(load_preset("smoke"), write_tiny_cohort(folder), folder / "first", steps=2)
    for stage in stages.STAGES:
        stages.train(run, stage)
    pack_run(run.folder, folder / "base", preset="smoke")
    unet = unpack_pipeline(folder / "base", folder / "run", plain=True)
    assert unet == folder / "run/unet" and not (folder / "run/unet-D").exists()
    stages.train(stages.Run(run.preset, run.cohort, folder / "run", steps=2), "guidance", variant=Variant.A)
    pack_guidance(folder / "run", folder / "base", folder / "base-A", variant="A")
    return folder


def test_it_opens_as_a_pipeline_that_shares_all_else(place: Path, structure: torch.Tensor) -> None:
    base, pipe = load_pretrained(place / "base", device="cpu"), load_pretrained(place / "base", "A", device="cpu")
    assert pipe.variant is Variant.A and pipe.parameters == base.parameters | {"variant": "A"}
    trained = ControlNetModel.from_pretrained(place / "run/guidance-A").state_dict()
    torch.testing.assert_close(pipe.guidance.state_dict(), {k: v.half().float() for k, v in trained.items()})
    for name in ("autoencoder", "text_encoder"):
        torch.testing.assert_close(getattr(pipe, name).state_dict(), getattr(base, name).state_dict(), rtol=0, atol=0)
    options = {"seed": 3, "structure_scale": 0.0, "num_inference_steps": 2}
    plain = [p.sequence("wild", structure, **options) for p in (base, pipe)]
    for modality, picture in plain[0].items():  # in bfloat16 the wider first convolution may round otherwise
        torch.testing.assert_close(
            plain[1][modality], picture, rtol=0, atol=0.01, msg="without structure one plain LDM"
        )
    same = load_pretrained(place / "base-A", device="cpu")
    assert weights_key(same) == weights_key(pipe) != weights_key(base)


def test_it_is_small_and_says_what_it_is(place: Path) -> None:
    files = {p.relative_to(place / "base-A").as_posix() for p in (place / "base-A").rglob("*") if p.is_file()}
    weights = "guidance/diffusion_pytorch_model.safetensors"
    assert files == {weights, "guidance/config.json", BESIDE, "origin.json", "README.md", "SHA256SUMS"}
    card = (place / "base-A/README.md").read_text()
    for words in ("# mrtutor `base-A`", "| guidance-A | 2 |", "the paper's", "rows\n`variant_A` of"):
        assert words in card
    assert set(json.loads((place / "base-A/origin.json").read_text())) >= {"autoencoder", "guidance-D", "guidance-A"}


def test_figures_of_these_weights_are_in_the_card(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "base", tmp_path / "base")
    figure = {"value": 0.61, "ci95": [0.5, 0.7], "n": 24}
    found = {"of": {"weights": weights_key(load_pretrained(place / "base-A", device="cpu")), "cohort": "c"}, "seed": 0}
    (tmp_path / "f.json").write_text(json.dumps(found | {"structure": {"A": figure}}))
    options = {"variant": "A", "results": tmp_path / "f.json", "key": weights_key}
    assert pack_guidance(place / "run", tmp_path / "base", tmp_path / "base-A", **options).measured
    assert "| structure: A | 0.61 |" in (tmp_path / "base-A/README.md").read_text()
    load_pretrained(tmp_path / "base-A", device="cpu")  # its checksums hold


def test_another_unet_is_refused(place: Path, tmp_path: Path) -> None:
    for name in ("base", "base-A"):
        shutil.copytree(place / name, tmp_path / name)
    pipe = load_pretrained(place / "base", device="cpu")
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(1)
    pretrained.save_pipeline(pipe, tmp_path / "base")
    with pytest.raises(ValueError, match="was trained with another U-Net than the one in"):
        load_pretrained(tmp_path / "base", "A", device="cpu")
    with pytest.raises(ValueError, match="was trained with another U-Net than that of"):
        pack_guidance(place / "run", tmp_path / "base", tmp_path / "base-A", variant="A")


def test_a_damaged_or_lonely_one_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "base-A", tmp_path / "base-A")
    with pytest.raises(FileNotFoundError, match="No weights"):
        load_pretrained(tmp_path / "base-A", device="cpu")
    shutil.copytree(place / "base", tmp_path / "base")
    weights = tmp_path / "base-A/guidance/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="guidance"):
        load_pretrained(tmp_path / "base-A", device="cpu")


def test_what_cannot_be_packed_beside(place: Path, tmp_path: Path) -> None:
    run, base = place / "run", place / "base"
    with pytest.raises(ValueError, match="D has no guidance network"):
        pack_guidance(run, base, place / "base-D", variant="D")
    with pytest.raises(FileNotFoundError, match=r"guidance-B: `mrtutor unpack .* --plain"):
        pack_guidance(run, base, place / "base-B", variant="B")
    with pytest.raises(ValueError, match="finds the rest in the next folder"):
        pack_guidance(run, base, tmp_path / "base-A", variant="A")
    with pytest.raises(ValueError, match="is no guidance network alone"):
        pack_guidance(run, base, place / "run", variant="A")
    assert not (place / "base-D").exists() and not (tmp_path / "base-A").exists()
