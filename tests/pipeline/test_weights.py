"""Weights on disk: what is saved is what is loaded; missing, cut, altered or added files are named; all or nothing."""

import shutil
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from mrtutor import files
from mrtutor.models.hub import load_text_encoder, load_unet, load_vae
from mrtutor.pipeline.weights import load_pretrained, model_card, ship, training_of
from mrtutor.vocabulary import Modality
from tests.models.tiny_pipelines import build

UNET = "unet/diffusion_pytorch_model.safetensors"
COHORT = {"source": "simulated", "key": "c0a146deb838", "patients": 484, "seed": 0}
TRAINED = {"text": {"cohorts": [COHORT], "steps": 12_000}}
pipelines = cache(build)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return ship(pipelines("paper"), tmp_path_factory.mktemp("saved") / "tiny", card="# card", training=TRAINED)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def draw(pipe):
    pipe.precision = torch.float32
    return pipe.sequence("wild", torch.eye(256), seed=1, modalities=["T2"])[Modality.T2]


def test_what_is_shipped_is_what_is_loaded(saved):
    pipe, before = load_pretrained(saved, device="cpu"), pipelines("paper")
    assert (draw(pipe) - draw(before)).abs().max() < 0.02, "float16 changed the pictures"
    assert all(pipe.config[name] == value for name, value in before.parameters.items())
    assert {part.dtype for part in (pipe.unet, pipe.text_encoder, pipe.autoencoder)} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(saved / UNET).values()} == {torch.float16}
    assert not [p for p in saved.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    assert training_of(saved) == TRAINED and (saved / "README.md").read_text() == "# card"


def test_what_is_shipped_does_not_say_where_it_lay(saved, tmp_path):
    pipe = load_pretrained(saved, device="cpu")
    assert pipe.unet.config._name_or_path.startswith(str(saved)), "diffusers notes it no more: drop the cure in `ship`"
    again = ship(pipe, tmp_path / "again")
    assert not [path for path in again.rglob("*.json") if str(saved) in path.read_text()]
    assert torch.equal(draw(load_pretrained(again, device="cpu")), draw(pipe))


@pytest.mark.parametrize("damage", ["missing", "cut", "flip", "added"])
def test_a_damaged_folder_is_named(folder, damage):
    content = (folder / UNET).read_bytes()
    written = {"cut": content[:-1000], "flip": content[:-1] + bytes([content[-1] ^ 1]), "added": content}
    (folder / UNET).unlink()
    if damage != "missing":
        (folder / UNET).write_bytes(written[damage])
    if damage == "added":
        (folder / "unet/model.safetensors").write_bytes(b"")
    with pytest.raises((FileNotFoundError, ValueError), match="unet"):
        load_pretrained(folder)


def test_names_are_looked_for_in_the_data_folder(folder, monkeypatch, tmp_path):
    place = tmp_path / "pretrained/tiny"
    shutil.copytree(folder, place)
    monkeypatch.setenv("MRTUTOR_DATA", str(tmp_path))
    assert load_pretrained("tiny", device="cpu").variant == "paper"
    with pytest.raises(FileNotFoundError, match="tiny"):
        load_pretrained("large")
    with pytest.raises(ValueError, match="holds variant paper"):
        load_pretrained("tiny", variant="A")
    (place / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS"):
        load_pretrained("tiny")


def test_smoke_weights_are_the_same_every_time():
    one, two = (load_pretrained("smoke", variant="D").unet.conv_in for _ in range(2))
    assert torch.equal(one.weight, two.weight) and one.in_channels > 64


def test_weights_that_were_cut_are_said(tmp_path):
    pipelines("D").save_pretrained(tmp_path)
    (tmp_path / UNET).write_bytes((tmp_path / UNET).read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_pretrained(tmp_path)


def test_nothing_is_shipped_by_halves_or_over_something_else(folder, monkeypatch, tmp_path):
    before = (folder / "SHA256SUMS").read_text()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(files, "write_checksums", lambda _: 1 / 0)
        ship(pipelines("D"), folder)
    assert (folder / "SHA256SUMS").read_text() == before and load_pretrained(folder, device="cpu").variant == "paper"
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no pipeline folder"):
        ship(pipelines("D"), tmp_path)
    pipe = build("D")
    torch.nn.init.constant_(pipe.unet.conv_out.bias, 1e6)
    with pytest.raises(ValueError, match="unet"):
        ship(pipe, tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"tiny", "thesis.txt"}


def test_the_card_tells_data_and_figures_and_never_claims_simulated_without_proof():
    figures = pd.DataFrame([{"metric": "edge_f1", "value": 0.5, "low": 0.4, "patients": 33}])
    card = model_card("tiny", "D", TRAINED, figures)
    assert "simulated-data" in ModelCard(card).data.tags and "edge_f1|0.5|0.4|33" in card
    assert "text|simulated, 484 patients (`c0a146deb838`)|12000" in card
    real = {"cohorts": [COHORT | {"source": "upenn-gbm"}]}
    assert "Slices of patients" in model_card("tiny", "D", {"text": real})
    for training in ({}, {"text": {}}, {"text": TRAINED["text"] | {"start": "elsewhere"}}):
        card = model_card("tiny", "D", training)
        assert "not all recorded" in card and "simulated-data" not in card


def test_shipped_weights_load_and_draw(examples):
    """The weights of the course: a finite sequence in which the modalities differ, along the edges that were given."""
    pipe = load_pretrained("laptop", device="cpu")
    pictures = torch.stack([*pipe.sequence("wild", examples.structure(0, "T1Gd"), num_inference_steps=4).values()])
    assert torch.isfinite(pictures).all()
    assert pictures[:, :8, :8].mean() < 0.1 < pictures[:, 100:150, 100:150].mean()
    assert min((pictures[i] - pictures[j]).abs().mean() for i in range(4) for j in range(i)) > 0.005


def test_parts_are_found_in_a_pipeline_folder(saved, tmp_path):
    channels = pipelines("D").unet.config.out_channels
    assert load_vae(saved).config.latent_channels == channels
    assert load_text_encoder(saved)[0].config.hidden_size == 32
    pipelines("D").unet.save_pretrained(tmp_path / "unet")
    assert load_unet(tmp_path, 32, channels).config.in_channels == channels, "variant D loses its structure channels"
    for width, latent in ((768, channels), (32, channels + 1)):
        with pytest.raises(ValueError, match="text width"):
            load_unet(saved, width, latent)
    with pytest.raises(ValueError, match="hub"):
        load_vae(saved / "nowhere")
