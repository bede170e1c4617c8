"""The whole report on tiny models: every figure is there, a finished part is not measured again, costs are compared."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mrtutor.metrics import cost, weight_figures, weights
from mrtutor.metrics.reader import Reader, train_reader
from mrtutor.presets import StagePreset
from tests.cohorts import write_tiny_cohort
from tests.tiny_pipelines import build

TINY = StagePreset(2, 4, 1e-3, warmup=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return write_tiny_cohort(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def report(cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, object, Reader]:
    folder = tmp_path_factory.mktemp("report")
    pipe, reader = build("D", steps=2), train_reader(cohort, folder / "reader", recipe=TINY)
    out = folder / "weights.json"
    return weights.evaluate_weights(pipe, cohort, reader, out, count=3), out, pipe, reader


def test_every_figure_has_value_interval_and_n(report) -> None:
    content, path, _, _ = report
    assert content == json.loads(path.read_text())
    wanted = {
        "autoencoder": ("psnr_db", "ssim", "tumour_psnr_db", "rim_contrast_ratio"),
        "prompt": ("modality_accuracy", "paraphrase_modality_accuracy", "idh_accuracy", "idh_accuracy_cohort"),
        "structure": ("D", "attainable", "null", "reconstruction"),
        "memory": ("generated", "held_out"),
        "cost": ("ddim100_s", "default_s", "ordinary_s", "peak_mib", "train_ratio"),
    }
    for section, names in wanted.items():
        for name in names:
            assert {"value", "ci95", "n"} <= set(content[section][name]), f"{section}: {name}"
    for metric in ("ssim", "nmi", "ncc"):
        assert set(content["sequence"][metric]) == {"generated", "cohort", "random"}
    assert content["structure"]["shipped"] == "D"
    assert content["structure"]["attainable"]["value"] > content["structure"]["null"]["value"]


def test_a_finished_part_is_kept_and_other_weights_start_anew(report, cohort) -> None:
    _, path, pipe, reader = report
    marked = json.loads(path.read_text())
    marked["cost"]["default_s"]["value"] = -1.0
    path.write_text(json.dumps(marked))
    assert weights.evaluate_weights(pipe, cohort, reader, path, count=3)["cost"]["default_s"]["value"] == -1.0
    networks = {"denoiser": pipe.unet.conv_out.bias, "autoencoder": pipe.autoencoder.decoder.conv_out.bias}
    for what, bias in networks.items():
        before = bias.detach().clone()
        with torch.no_grad():
            bias.add_(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weights, "cost_figures", lambda _, what=what: {"default_s": f"other {what}"})
            for name in ("autoencoder", "prompt", "structure", "diversity"):
                patch.setattr(weights, f"{name}_figures", lambda _: {})
            patch.setattr(weights.generation, "tumour_movement", lambda *_, **__: {})
            found = weights.evaluate_weights(pipe, cohort, reader, path, count=3)
        assert found["cost"]["default_s"] == f"other {what}", "a figure of other weights was kept"
        with torch.no_grad():
            bias.copy_(before)  # to the bit, as other tests ask for these very weights


def test_another_reader_costs_the_prompt_and_nothing_else(report, cohort, tmp_path, monkeypatch) -> None:
    kept, _, pipe, reader = report
    own = tmp_path / "weights.json"
    own.write_text(json.dumps(kept))
    other = Reader(copy.deepcopy(reader.modality), copy.deepcopy(reader.idh))
    with torch.no_grad():
        other.idh.classifier[-1].bias.add_(1)
    for name in ("autoencoder", "structure", "sequence", "cost", "diversity"):
        monkeypatch.setattr(weights, f"{name}_figures", lambda _: pytest.fail("measured again"))
    monkeypatch.setattr(weights, "prompt_figures", lambda _: {"idh_accuracy": "by the other"})
    found = weights.evaluate_weights(pipe, cohort, other, own, count=3)
    assert found["prompt"] == {"idh_accuracy": "by the other"} and found["of"] != kept["of"]
    assert all(found[name] == kept[name] for name in ("autoencoder", "structure", "memory", "cost"))


def test_other_real_cases_cost_the_autoencoder_and_nothing_else(report, cohort, tmp_path, monkeypatch) -> None:
    kept, _, pipe, reader = report
    own = tmp_path / "weights.json"
    own.write_text(json.dumps(kept))
    for name in ("prompt", "structure", "sequence", "cost", "diversity"):
        monkeypatch.setattr(weights, f"{name}_figures", lambda _: pytest.fail("measured again"))
    monkeypatch.setattr(weights, "autoencoder_figures", lambda e: {"real": [folder.name for folder in e.real]})
    found = weights.evaluate_weights(pipe, cohort, reader, own, count=3, real=[tmp_path / "A", tmp_path / "B"])
    assert found["autoencoder"] == {"real": ["A", "B"]} and found["of"]["real"] == ["A", "B"]
    assert all(found[name] == kept[name] for name in ("prompt", "structure", "memory", "cost"))


def test_the_same_patients_on_another_cpu_cost_nothing(report, cohort, tmp_path, monkeypatch) -> None:
    kept, _, pipe, reader = report
    own = tmp_path / "weights.json"
    own.write_text(json.dumps(kept))
    monkeypatch.setattr(weights, "cohort_key", lambda _: "one grey off")
    monkeypatch.setattr(weights, "_sequences", lambda *_: pytest.fail("drew again"))
    assert weights.evaluate_weights(pipe, cohort, reader, own, count=3) == kept, "of other pixels than it says"


def test_what_trained_the_weights_is_kept_until_somebody_says_otherwise(report, cohort, tmp_path) -> None:
    kept, _, pipe, reader = report
    own = tmp_path / "weights.json"
    own.write_text(json.dumps(kept | {"device_trained": "a T4"}))
    assert weights.evaluate_weights(pipe, cohort, reader, own, count=3)["device_trained"] == "a T4"
    found = weights.evaluate_weights(pipe, cohort, reader, own, count=3, trained_on="an H100")
    assert found["device_trained"] == "an H100" and found["commit"] == kept["commit"]


def test_weights_without_structure_are_refused_before_anything_is_drawn(cohort, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"take no structure.*--ldm"):
        weights.evaluate_weights(build("none", steps=2), cohort, None, tmp_path / "weights.json")
    assert not list(tmp_path.iterdir())


def test_a_real_cohort_has_no_noise_ceiling(cohort) -> None:
    real = {name: value for name, value in cohort.manifest.items() if name != "seed"}
    evaluation = SimpleNamespace(cohort=replace(cohort, manifest=real), cases=SimpleNamespace(rows=[0, 1]))
    assert weight_figures.noise_ceiling(evaluation) == {}


def test_variants_that_do_not_ship_come_from_their_own_comparison(cohort, tmp_path: Path) -> None:
    f1 = {"value": 0.7, "ci95": [0.6, 0.8], "sd": 0.1, "n": 3}
    content = {
        "of": {"cohort_recipe": weights.recipe_key(cohort)},
        "steps_budget": 30,
        "A": {"edge_f1": f1},
        "D": {"edge_f1": f1},
    }
    path = tmp_path / "variants.json"
    assert weights.other_variants(path, "D", cohort) == {}
    path.write_text(json.dumps(content))
    assert weights.other_variants(path, "D", cohort) == {"A": f1 | {"steps": 30}}
    path.write_text(json.dumps(content | {"of": {"cohort_recipe": "of other patients"}}))
    assert weights.other_variants(path, "D", cohort) == {}


def test_pictures_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = build("D", steps=1)
    monkeypatch.setattr(cost, "ordinary_sequence", lambda *_: torch.zeros(4, 256, 256) - 1)
    with pytest.raises(AssertionError, match="pictures differ"):
        cost.sampling_cost(pipe, repeats=1, ordinary_steps=1)
