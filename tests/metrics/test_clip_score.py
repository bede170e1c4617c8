"""The scoring CLIP: built, trained two steps, saved, opened, checked; and the shipped one on slices it never saw."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from mrtutor.data.examples import examples_cohort
from mrtutor.metrics.clip_score import build_scorer, load_hub_scorer, load_scorer, scorer_folder
from mrtutor.metrics.clip_training import ScoringBatches, accuracy, train_scorer
from mrtutor.metrics.draws import cohort_set, held_out_rows
from mrtutor.metrics.table3 import phrases, retrieval, sentence_scores
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.presets import StagePreset, load_preset
from tests.cohorts import write_tiny_cohort

TINY = StagePreset(2, 4, 1e-3, warmup=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_tiny_cohort(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "scoring_clip"
    return train_scorer(cohort, folder, recipe=TINY), folder


def test_what_is_saved_is_opened_again(trained, cohort):
    scorer, folder = trained
    slices = cohort.images[:2, 0]
    scores = scorer.scores(slices, phrases())
    assert scores.shape == (2, 14) and np.abs(scores).max() <= 100.001
    assert np.array_equal(load_scorer(folder).scores(slices, phrases()), scores)
    assert np.allclose(scorer.scores(slices / 255.0, phrases()), scores, atol=1e-3)
    assert torch.allclose(scorer.embed_images(slices).norm(dim=1), torch.ones(2))
    card = (folder / "README.md").read_text()
    assert "2 steps" in card and "No generator" in card and "| both |" in card


def test_batches_are_balanced_and_prefer_the_hard_pair(cohort):
    batches = ScoringBatches.of(cohort)
    assert set(batches.rows) == set(cohort.rows("train"))
    drawn = batches(400, torch.Generator().manual_seed(0))
    assert abs(drawn["idh"].float().mean() - 0.5) < 0.1
    hard = ((drawn["modality"] == 1) | (drawn["modality"] == 2)).float().mean()
    assert abs(hard - 0.6) < 0.1 and drawn["image"].shape == (400, 1, 256, 256)


def test_a_bright_dot_reaches_the_pooled_output(trained):
    vision = trained[0].model.vision_model
    dark = torch.full((1, 1, 256, 256), -1.0)
    dotted = dark.clone()
    dotted[..., 200:204, 128:132] = 1.0
    with torch.inference_mode():
        a, b = (vision(pixel_values=x) for x in (dark, dotted))
    features = b.last_hidden_state
    expected = (features.mean(dim=(-2, -1)) + features.amax(dim=(-2, -1))) / 2
    assert torch.allclose(b.pooler_output, expected) and not torch.allclose(a.pooler_output, b.pooler_output)


def test_a_clip_from_the_hub_scores_as_transformers_does(tmp_path, cohort):
    tokenizer = build_tokenizer()
    clip = build_clip(load_preset("smoke").text, tokenizer).eval()
    clip.save_pretrained(tmp_path / "hub")
    tokenizer.save_pretrained(tmp_path / "hub")
    scorer = load_hub_scorer(tmp_path / "hub")
    slices, sentences = cohort.images[:2, 1], phrases()
    ids = tokenizer(sentences, padding="max_length", return_tensors="pt").input_ids
    pixels = torch.from_numpy(np.array(slices)).float()[:, None] / 127.5 - 1
    with torch.inference_mode():
        output = CLIPModel.from_pretrained(tmp_path / "hub")(input_ids=ids, pixel_values=pixels)
    expected = 100 * output.logits_per_image / clip.logit_scale.exp()
    assert np.allclose(scorer.scores(slices, sentences), expected.detach().numpy(), atol=1e-3)


def test_what_is_missing_or_broken_is_said(trained, tmp_path, cohort):
    scorer, folder = trained
    with pytest.raises(FileNotFoundError, match="No scoring CLIP"):
        load_scorer(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"expected a folder with config\.json"):
        load_hub_scorer(tmp_path / "nothing")
    copy = shutil.copytree(folder, tmp_path / "copy")
    with open(copy / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="SHA-256"):
        load_scorer(copy)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a bert"):
        load_hub_scorer(tmp_path / "bert")
    with pytest.raises(ValueError, match="one modality at a time"):
        scorer.embed_images(cohort.images[:1])


def test_the_shipped_judge_is_small_and_reads_held_out_slices():
    assert sum(p.stat().st_size for p in scorer_folder().iterdir()) < 5 * 2**20
    judge, examples = load_scorer(), examples_cohort()
    truth = cohort_set(examples, held_out_rows(examples, 4))
    found = retrieval(sentence_scores(judge, truth.images), truth.idh, truth.patients)
    assert found["modality"]["value"] >= 0.75 and found["both"]["value"] > 0.3
    shares = accuracy(judge, examples, examples.rows("test"))
    assert shares["modality"] == pytest.approx(found["modality"]["value"])
    assert shares["both"] == pytest.approx(found["both"]["value"])


def test_an_untrained_judge_is_standard_and_as_large(trained):
    torch.manual_seed(0)
    model = build_scorer(build_tokenizer())
    assert type(model).__name__ == "VisionTextDualEncoderModel"
    wanted = sum(p.numel() for p in trained[0].model.parameters())
    assert sum(p.numel() for p in model.parameters()) == wanted < 1_000_000
