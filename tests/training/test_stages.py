"""All four stages in the smoke preset: what they leave behind, in what order, and that resuming changes nothing."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from mrtutor.models.guidance import Variant
from mrtutor.models.mirror import load_mirrored
from mrtutor.presets import load_preset
from mrtutor.training import stages
from mrtutor.training.batches import LatentBatches, SliceBatches, emphasis_map
from mrtutor.training.loop import step_generator
from mrtutor.vocabulary import Modality


@pytest.fixture(scope="module")
def trained(tiny_cohort, tmp_path_factory):
    """A run with autoencoder, text and denoiser trained for a few steps."""
    folder = tmp_path_factory.mktemp("run")
    run = stages.Run(load_preset("smoke"), tiny_cohort, folder)
    for stage in ("autoencoder", "text", "denoiser"):
        stages.train(run, stage)
    return run


def test_components_open_with_diffusers_and_transformers_alone(trained):
    folder = trained.folder
    autoencoder = AutoencoderKL.from_pretrained(folder / "autoencoder")
    assert len(autoencoder.config.latents_mean) == 4 and min(autoencoder.config.latents_std) > 0
    assert (folder / "autoencoder/residual.json").is_file() and Modality.T1 not in load_mirrored(folder / "autoencoder")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    assert unet.config.cross_attention_dim == text.config.hidden_size
    assert len(CLIPTokenizer.from_pretrained(folder / "tokenizer")) == text.config.vocab_size
    assert CLIPModel.from_pretrained(folder / "clip").config.text_config.vocab_size == text.config.vocab_size


@pytest.mark.parametrize("variant", ["B", "D"])
def test_guidance_stage_leaves_its_component(trained, variant):
    path = stages.train(trained, "guidance", variant=Variant(variant))
    if variant == "D":
        assert UNet2DConditionModel.from_pretrained(path).config.in_channels == 4 + 64
    else:
        assert ControlNetModel.from_pretrained(path).config.conditioning_channels == 64


def test_every_stage_says_what_it_cost_and_how_it_went(trained):
    for stage in ("autoencoder", "text", "denoiser"):
        cost = json.loads((trained.folder / "runs" / stage / "cost.json").read_text())
        assert cost["steps"] == 6 and cost["seconds"] > 0 and cost["peak_mib"] > 50
    log = (trained.folder / "runs" / "autoencoder" / "log.csv").read_text()
    assert "validation,psnr_db" in log and (trained.folder / "runs/autoencoder/sheets/000006.png").stat().st_size > 1000


def test_latents_are_computed_once_and_per_autoencoder(trained):
    files = list((trained.folder / "runs").glob("latents-*.npy"))
    assert len(files) == 1
    latents = np.load(files[0])
    assert latents.shape == (len(trained.cohort), 4, 4, 32, 32) and latents.dtype == np.float16
    assert 0.5 < latents.astype(np.float32).std() < 2


def test_cached_latents_equal_encoding_now(trained):
    from mrtutor.models.autoencoder import encode

    autoencoder = AutoencoderKL.from_pretrained(trained.folder / "autoencoder")
    latents = np.load(next((trained.folder / "runs").glob("latents-*.npy")))
    image = torch.from_numpy(trained.cohort.images[3, 2].astype(np.float32))[None, None] / 127.5 - 1
    with torch.no_grad():
        now = encode(autoencoder, image)[0].numpy()
    assert np.abs(now - latents[3, 2]).max() < 0.1  # float16 and bfloat16 rounding


def test_order_of_stages_is_explained(tiny_cohort, tmp_path):
    run = stages.Run(load_preset("smoke"), tiny_cohort, tmp_path)
    with pytest.raises(FileNotFoundError, match="train the earlier stages first"):
        stages.train(run, "denoiser")
    with pytest.raises(ValueError, match="expected one of autoencoder, text, denoiser, guidance"):
        stages.train(run, "unet")


def test_resume_of_a_stage_is_exact(tiny_cohort, tmp_path):
    preset = load_preset("smoke")
    short = replace(preset, stages={**preset.stages, "autoencoder": replace(preset.stages["autoencoder"], steps=6)})
    whole = stages.Run(short, tiny_cohort, tmp_path / "whole")
    stages.train(whole, "autoencoder")
    cut = stages.Run(short, tiny_cohort, tmp_path / "cut")
    work = stages._autoencoder

    def interrupted(run):
        stage = work(run)
        calls = {"n": 0}
        draw = stage.batches

        def batches(count, generator):
            calls["n"] += 1
            if calls["n"] == 5:
                raise KeyboardInterrupt
            return draw(count, generator)

        stage.batches = batches
        return stage

    stages._autoencoder = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            stages.train(cut, "autoencoder")
    finally:
        stages._autoencoder = work
    assert not (tmp_path / "cut" / "autoencoder").exists(), "a half-trained component must not look finished"
    stages.train(cut, "autoencoder", resume=True)
    a, b = (AutoencoderKL.from_pretrained(tmp_path / name / "autoencoder").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_structure_comes_from_any_modality(trained):
    batches = stages.latent_batches(trained, with_structure=True)
    assert isinstance(batches, LatentBatches)
    batch = batches(16, step_generator(0, 0))
    assert batch["structure"].shape == (16, 1, 256, 256) and set(batch["structure"].unique().tolist()) == {0.0, 1.0}
    assert batch["text"].shape[0] == 16
    row = np.array([0])
    first, second = (batches.at(row, torch.tensor([0]), torch.tensor([m]))["structure"] for m in (1, 3))
    assert not torch.equal(first, second)


def test_prompts_are_dropped_as_often_as_asked(trained):
    batches = replace(stages.latent_batches(trained, with_structure=False), drop_prompt=0.5)
    empty = batches.prompts.embeddings[0]
    batch = batches(64, step_generator(0, 1))
    share = (batch["text"] == empty).flatten(1).all(1).float().mean()
    assert 0.25 < share < 0.75


def test_crops_stay_inside_and_keep_their_labels(tiny_cohort):
    batch = SliceBatches(tiny_cohort, tiny_cohort.rows("train"), crop=128)(8, step_generator(0, 0))
    assert batch["image"].shape == (8, 1, 128, 128)
    assert batch["image"].min() >= -1 and batch["image"].max() <= 1
    assert set(batch["modality"].tolist()) <= set(range(len(Modality)))


def test_a_further_round_goes_on_from_the_finished_network(trained, tmp_path):
    first = stages.train(trained, "guidance", variant=Variant.D)
    before = UNet2DConditionModel.from_pretrained(first).state_dict()
    log = trained.folder / "runs" / "guidance-D" / "log.csv"
    kept = log.read_text()
    tiny = replace(trained.preset.stages["guidance"], steps=1, learning_rate=1e-9)
    preset = replace(trained.preset, stages=trained.preset.stages | {"guidance": tiny})
    again = stages.train(replace(trained, preset=preset, start=first, seed=1), "guidance", variant=Variant.D)
    after = UNet2DConditionModel.from_pretrained(again).state_dict()
    assert again == trained.folder / "unet-D-further"
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before)
    kept_first = UNet2DConditionModel.from_pretrained(first).state_dict()
    assert all(torch.equal(before[k], kept_first[k]) for k in before), "the first round was overwritten"
    third = stages.train(replace(trained, preset=preset, start=again, seed=2), "guidance", variant=Variant.D)
    assert third == trained.folder / "unet-D-further-2" and again.is_dir()
    assert (trained.folder / "runs" / "guidance-D-further-2" / "log.csv").is_file()
    assert log.read_text() == kept and (trained.folder / "runs" / "guidance-D-further" / "log.csv").is_file()


def test_a_further_round_asks_for_a_network_that_takes_a_structure(trained, tmp_path):
    with pytest.raises(ValueError, match="expected 68"):
        stages.train(replace(trained, start=trained.folder / "unet"), "guidance", variant=Variant.D)
    with pytest.raises(ValueError, match="for variant D, got B"):
        stages.train(replace(trained, start=trained.folder / "unet"), "guidance", variant=Variant.B)
    with pytest.raises(FileNotFoundError, match="unet-D"):
        stages.train(replace(trained, start=tmp_path), "guidance", variant=Variant.D)


def test_a_network_of_another_text_width_is_refused(trained, tmp_path):
    wide = stages.widen_input(stages.build_denoiser(trained.preset.denoiser, 48), stages.STRUCTURE_CHANNELS)
    wide.save_pretrained(tmp_path / "unet-D")
    with pytest.raises(ValueError, match=r"width 48, the text encoder of .* gives 32"):
        stages.train(replace(trained, start=tmp_path / "unet-D"), "guidance", variant=Variant.D)


@pytest.mark.parametrize("what", ["labels", "masks", "autoencoder", "text_encoder", "unet"])
def test_a_stage_is_not_resumed_on_other_inputs(trained, tmp_path, what):
    folder = shutil.copytree(trained.folder, tmp_path / "run", ignore=shutil.ignore_patterns("runs"))
    run, cohort = replace(trained, folder=folder, steps=1), trained.cohort
    stages.train(run, "guidance", variant=Variant.D)
    stages.train(run, "guidance", variant=Variant.D, resume=True)  # the same inputs
    if what == "labels":
        run = replace(run, cohort=replace(cohort, table=cohort.table.assign(idh=cohort.table["idh"].to_numpy()[::-1])))
    elif what == "masks":
        run = replace(run, cohort=replace(cohort, masks=np.zeros_like(cohort.masks)))
    else:
        model = {"autoencoder": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}[what]
        other = model.from_pretrained(folder / what)
        with torch.no_grad():
            next(other.parameters()).add_(1)
        other.save_pretrained(folder / what)
    with pytest.raises(ValueError, match=f"{what} was "):
        stages.train(run, "guidance", variant=Variant.D, resume=True)


def test_every_stage_says_what_it_was_trained_on(trained):
    origins = json.loads((trained.folder / "runs/origin.json").read_text())
    key = trained.cohort.manifest["sha256"]["slices.npy"][:12]
    about = {"source": "test", "patients": 20, "cohort_seed": 0, "cohort": key}
    for stage in ("autoencoder", "text", "denoiser"):
        assert about.items() <= origins[stage].items() and origins[stage]["device"].startswith("cpu")


def test_the_loss_counts_more_in_tumours_and_where_contrast_agent_shows():
    images, tumour = np.full((2, 4, 64, 64), 100, np.uint8), np.zeros((2, 64, 64), bool)
    tumour[:, :8, :4] = True  # half of the first latent pixel
    images[:, 2, 40, 40] = 200  # one bright pixel of a vein in T1Gd
    t1gd, flair = emphasis_map(images, tumour, torch.tensor([2, 0]), 8)
    assert t1gd.shape == (1, 8, 8) and t1gd[0, 0, 0] == flair[0, 0, 0] == 0.5
    assert t1gd[0, 5, 5] == 1 and t1gd.sum() == 1.5 and flair.sum() == 0.5
