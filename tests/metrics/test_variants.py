"""Four variants under one budget: what is measured, nothing done twice, and the run itself untouched."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mrtutor.metrics import variants
from mrtutor.metrics.variants import VARIANTS, compare_variants
from mrtutor.models.guidance import Variant
from mrtutor.presets import load_preset
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.training.stages import Run
from tests.cohorts import write_tiny_cohort

STEPS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose earlier stages left random weights, and whose shipped variant D is a marker."""
    folder = tmp_path_factory.mktemp("run")
    pipe = load_pretrained("smoke", "none", device="cpu")
    for name in variants.COMPONENTS:
        getattr(pipe, name).save_pretrained(folder / name)
    for name in ("unet-D", "runs/guidance-D"):
        (folder / name).mkdir(parents=True)
        (folder / name / "shipped").touch()
    return Run(load_preset("smoke"), write_tiny_cohort(tmp_path_factory.mktemp("cohort")), folder)


@pytest.fixture(scope="module")
def report(run: Run) -> tuple[dict, Path]:
    output = run.folder / "variants.json"
    return compare_variants(run, STEPS, count=2, sampling_steps=2, output=output), output


def test_every_variant_has_curve_f1_and_cost(report) -> None:
    content, path = report
    assert content == json.loads(path.read_text())
    assert (content["steps_budget"], content["batch_size"], content["seed"]) == (STEPS, 4, 0)
    assert content["attainable"]["value"] > content["null"]["value"]
    for variant in VARIANTS:
        part = content[str(variant)]
        assert [step for step, _ in part["curve"]] == [0, 1, 2]
        assert part["curve"][0][1] == content["plain_error"] and np.isfinite(part["curve"]).all()
        assert part["edge_f1"]["n"] == 2 and part["seconds"] > 0
        assert {"value", "ci95", "n"} <= set(part["edge_f1"]) & set(part["null_f1"])


def test_step_zero_of_every_variant_is_the_plain_error(run, report) -> None:
    from mrtutor.training.stages import _guidance

    work = variants._work_run(run, STEPS, 10)
    for variant in (Variant.B, Variant.D):
        torch.manual_seed(0)
        stage = _guidance(work, variant)
        error = stage.validate(stage.model.to(memory_format=torch.channels_last).eval())["error"]
        assert error == pytest.approx(report[0]["plain_error"], rel=5e-3), variant  # bfloat16, another memory format


def test_the_sheet_shows_two_cases_in_six_columns(report) -> None:
    sheet = cv2.imread(str(report[1].with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape == (2 * 256, 6 * 256)


def test_the_run_keeps_what_it_had(run, report) -> None:
    assert [p.name for p in (run.folder / "unet-D").iterdir()] == ["shipped"]
    assert [p.name for p in (run.folder / "runs/guidance-D").iterdir()] == ["shipped"]
    assert (run.folder / "variants/unet-D").is_dir() and (run.folder / "variants/guidance-A").is_dir()
    assert (run.folder / "variants/unet").resolve() == (run.folder / "unet").resolve()


def test_a_finished_variant_is_not_repeated(run, report, monkeypatch) -> None:
    content, path = report
    trained = []
    original = variants.train
    monkeypatch.setattr(variants, "train", lambda *a, **k: trained.append(k["variant"]) or original(*a, **k))
    again = compare_variants(run, STEPS, count=2, sampling_steps=2, output=path)
    assert again == content and not trained

    path.write_text(json.dumps({k: v for k, v in content.items() if k != "C"}))  # cut before C was written
    shutil.rmtree(run.folder / "variants/guidance-C")
    (run.folder / "variants/sequences-C-2-2.npy").unlink()
    resumed = compare_variants(run, STEPS, count=2, sampling_steps=2, output=path)
    assert trained == [Variant.C]
    assert resumed["C"]["curve"] == content["C"]["curve"] and resumed["C"]["edge_f1"] == content["C"]["edge_f1"]


def test_another_budget_starts_anew(run, report, monkeypatch) -> None:
    output, stamp = run.folder / "other.json", run.folder / "variants/guidance-A"
    before = stamp.stat().st_ino
    monkeypatch.setattr(variants, "VARIANTS", (Variant.A,))
    content = compare_variants(run, 1, count=2, sampling_steps=1, output=output)
    assert content["steps_budget"] == 1 and len(content["A"]["curve"]) == 2
    assert stamp.stat().st_ino != before
    assert (run.folder / "unet").is_dir() and any((run.folder / "unet").iterdir()), "a link was followed and emptied"


@pytest.mark.parametrize(("steps", "count"), [(0, 2), (2, 1)])
def test_too_little_is_refused(run, steps, count, tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 1 step and 2 held-out cases"):
        compare_variants(run, steps, count=count, output=tmp_path / "variants.json")
    assert not (tmp_path / "variants.json").exists()


def test_missing_stages_are_named(run, tmp_path) -> None:
    empty = Run(run.preset, run.cohort, tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="train the earlier stages first"):
        compare_variants(empty, 2, count=2, output=tmp_path / "variants.json")
