"""The four stages on components of Stable Diffusion's layout (tiny, random), down to a sequence of pictures."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mrtutor.models.guidance import Variant
from mrtutor.models.hub import HubSources
from mrtutor.presets import load_preset
from mrtutor.sampling.origin import read_origins
from mrtutor.sampling.pack import pipeline_of_run
from mrtutor.sampling.pretrained import load_pretrained, save_pipeline
from mrtutor.training import stages
from tests.models.test_hub import WIDTH, write_sd


@pytest.fixture(scope="module")
def run(tiny_cohort, tmp_path_factory):
    sd = str(write_sd(tmp_path_factory.mktemp("sd")))
    folder = tmp_path_factory.mktemp("run")
    return stages.Run(load_preset("smoke"), tiny_cohort, folder, steps=2, hub=HubSources(sd, sd, sd))


def test_from_hub_components_to_pictures(run, tmp_path):
    for stage in stages.STAGES:
        stages.train(run, stage, variant=Variant.A)
    assert AutoencoderKL.from_pretrained(run.folder / "autoencoder").config.latents_mean is None
    assert read_origins(run.folder, ["autoencoder"]) == {"autoencoder": {"given": run.hub.vae}}
    assert not (run.folder / "runs/autoencoder").exists() and not (run.folder / "runs/text").exists()  # nothing trained
    start = UNet2DConditionModel.from_pretrained(run.hub.unet, subfolder="unet").state_dict()
    trained = UNet2DConditionModel.from_pretrained(run.folder / "unet").state_dict()
    assert start.keys() == trained.keys()
    change = max((start[name] - trained[name]).abs().max().item() for name in start)
    assert 0 < change < 0.05  # two steps away from where it started
    pipe = load_pretrained(save_pipeline(pipeline_of_run(run.folder, "smoke", "A"), tmp_path / "packed"), device="cpu")
    structure = torch.zeros(1, 1, 256, 256)
    structure[..., 60:200, 60] = 1
    pictures = pipe.sequence("wild", structure, num_inference_steps=2)
    assert [tuple(picture.shape) for picture in pictures.values()] == [(256, 256)] * 4
    assert all(torch.isfinite(picture).all() for picture in pictures.values())
    assert pipe.unet.config.cross_attention_dim == pipe.text_encoder.config.hidden_size == WIDTH


def test_given_components(run):
    assert run.given == {"autoencoder": run.hub.vae, "text": run.hub.text_encoder}
    assert stages.Run(load_preset("smoke"), run.cohort, run.folder).given == {}
    paper = stages.Run(load_preset("paper"), run.cohort, run.folder)
    assert paper.given == {"text": "openai/clip-vit-large-patch14"}
