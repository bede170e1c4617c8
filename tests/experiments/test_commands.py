"""Each command of experiments/ once, end to end, with tiny weights; rows go to a table of the test's own."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from experiments import attention_study, cost, evaluators, realism, tables, utility, variants
from mrtutor import load_pretrained
from mrtutor.data.cohort import Cohort
from mrtutor.figures import figure, load_figures
from mrtutor.metrics.distances import load_features
from mrtutor.metrics.evaluators import load_reader
from mrtutor.metrics.prompts import load_scorer
from mrtutor.pipeline.draw import DrawSpec, SampleSet, draw_sets
from mrtutor.pipeline.weights import ship
from mrtutor.vocabulary import Modality

DATA = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    """A data folder with the shipped weights and slices, and no results."""
    (tmp_path / "data").mkdir()
    for name in ("pretrained", "examples"):
        (tmp_path / "data" / name).symlink_to(DATA / name)
    monkeypatch.setenv("MRTUTOR_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def run(module: ModuleType, *words: object) -> pd.Series:
    """Run a command; gives the recorded values by (model, metric, group)."""
    app = typer.Typer()
    app.command()(module.main)
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return load_figures().set_index(["model", "metric", "group"])["value"].sort_index()


class Copier:
    """A sampler that draws the true slices."""

    key = "copier"

    def __init__(self, cohort: Cohort):
        self.cohort = cohort

    def draw(self, specs) -> np.ndarray:
        return self.cohort.images[[spec.row for spec in specs]] / 255


def test_tables(tiny_cohort):
    options = ["--count", 2, "--steps", 1, "--section", "structure"]
    values = run(tables, "--cohort", tiny_cohort.path, "--weights", "smoke", *options)
    models = {"paper", "ldm", "stylegan2", "autoencoder", "truth", "random"}
    assert set(values.index.levels[0]) == models | {"truth_blurred", "truth_noisy", "truth_wrong_modality"}
    assert values["truth", "edge_f1", "mean"] > values["truth_blurred", "edge_f1", "mean"]
    psnr = figure("weights", "autoencoder", "ae_psnr_db", "all")
    assert (psnr.unit, psnr.n) == ("dB", 8) and 0 < psnr.value < 60
    rows = load_figures()
    assert set(rows["cohort"]) == {"simulated"} and len(set(rows["weights"])) == 2, "StyleGAN2 has its own"


def test_word_that_is_obeyed():
    class Bright:
        def read_idh(self, sequences):
            return (sequences.mean(axis=(1, 2, 3)) > 100).astype(int)

    table = pd.DataFrame({"idh": ["mutant", "wild", "", "wild"], "patient": list("abcd")})
    dark, bright = np.zeros((4, 256, 256), np.uint8), np.full((4, 256, 256), 200, np.uint8)
    own = SampleSet(np.stack([dark, bright, dark, bright]), table)
    swapped = SampleSet(np.stack([bright, dark, dark, bright]), table)  # the last is deaf
    found = {f.group: f.value for f in tables.word_figures(Bright(), own, swapped, model="x")}
    assert found == pytest.approx({"agreeing": 1, "follows_word": 2 / 3, "word_effect": 2 / 3})


def test_utility(tiny_cohort, tmp_path):
    draw_sets(DrawSpec(4), tmp_path / "sets/copier", Copier(tiny_cohort), tiny_cohort)
    values = run(utility, "--cohort", tiny_cohort.path, "--sets", tmp_path / "sets", "--rounds", 5)
    assert values["copier", "dice_synthetic_ratio", "mean"] == pytest.approx(1, abs=0.01), "the same pictures"
    assert 0.5 < values["truth", "dice", "mean"] <= 1


def test_variants_train_once_and_are_pipelines(tiny_cohort, tmp_path):
    ship(load_pretrained("smoke", variant="none", device="cpu"), tmp_path / "plain")
    command = ["--cohort", tiny_cohort.path, "--start", tmp_path / "plain", "--preset", "smoke"]
    command += ["--steps", 2, "--count", 2, "--variant", "D"]
    values = run(variants, *command)
    assert values["D", "validation_error", "step 002"] > 0 and 0 <= values["D", "edge_f1", "mean"] <= 1
    assert load_pretrained(tmp_path / "outputs/variants/D", device="cpu").variant == "D"
    assert run(variants, *command)["D", "training_seconds", "mean"] == values["D", "training_seconds", "mean"]


def test_cost_compares_ways_that_draw_the_same(examples):
    pipe, edges = load_pretrained("smoke", device="cpu"), examples.structure(0, Modality.T1GD)
    pipe.precision = torch.float32
    ordinary = cost.ordinary_sequence(pipe, edges, steps=2)
    options = {"num_inference_steps": 2, "guidance_interval": (0, 1), "eta": 0.0}
    ours = torch.stack(list(pipe.sequence("wild", edges, **options).values()))
    assert (ours - ordinary).abs().max() < 1e-4
    values = run(cost, "--weights", "smoke", "--rounds", 1, "--steps", 2)
    ways = ("paper", "paper_ddim2", "ordinary_ddim2")
    assert all(values[way, "seconds_per_sequence", "mean"] > 0 for way in ways)


def test_realism_of_slices_that_are_real(tiny_cohort):
    values = run(realism, "--real", tiny_cohort.path, "--simulated", tiny_cohort.path, "--draws", 4)
    for metric in ("histogram", "edge_density", "power_spectrum", "fd_mr"):
        both = [values[model, metric, "T1"] for model in ("simulated", "real")]
        assert 0 < max(both) < 20 * min(both), metric
    assert 0 < values["real", "core_sd", "T1Gd"] < 30 and values["real", "grey_above_white", "T1"] == 0
    assert figure("realism", "simulated", "fd_mr", "T2", "real").patients == 4


@pytest.mark.parametrize("which", ["features", "scoring_clip", "readers"])
def test_evaluators(which, tiny_cohort, tmp_path):
    out = tmp_path / "trained"
    run(evaluators, which, "--cohort", tiny_cohort.path, "--steps", 2, "--out", out)
    if which == "features":
        kept = load_file(out / which / "reference.safetensors")
        assert load_features(out / which)(tiny_cohort.images[:1]).shape == (1, 4, 128)
        assert kept["train"].shape == (8, 4, 128) and kept["held_out_patients"].unique().numel() == 2
    elif which == "scoring_clip":
        assert load_scorer(out / which).scores(tiny_cohort.images[0], ["a T1 image"]).shape == (4, 1)
    else:
        assert load_reader(out / which).read_idh(tiny_cohort.images[:2]).shape == (2,)


def test_attention_study_goes_on_where_it_was(tiny_cohort, tmp_path, monkeypatch):
    command = ["--cohort", tiny_cohort.path, "--weights", "smoke", "--count", 2, "--steps", 1]
    values = run(attention_study, *command)
    assert {"glioma", "(type)", "(modality)", "<end>", "glioma in T2"} <= set(values["paper", "auprc"].index)
    assert {"structure alone", "average place", "permuted prompt", "meaningless word"} == set(values["null", "p"].index)
    ratio = values["paper", "auprc", "glioma"] / values["paper", "prevalence", "mean"]
    assert values["paper", "auprc_ratio", "glioma"] == pytest.approx(ratio, rel=1e-4)
    assert values["paper", "change_inside", "another seed"] > values["paper", "change_inside", "silence 'image'"] > 0
    files = sorted((tmp_path / "outputs/attention_study").glob("*/*.json"))
    files[1].unlink()
    measure, measured = attention_study.measure_case, []
    monkeypatch.setattr(attention_study, "measure_case", lambda *a, **k: measured.append(a[1]) or measure(*a, **k))
    run(attention_study, *command)
    assert [f"{case.seed:06d}.json" for case in measured] == [files[1].name], "only what was missing"


def test_shuffled_sentences_move_the_word():
    sentences = [f"A {m} modality MR image, type of IDH wild glioma" for m in Modality]
    for seed in range(20):
        mixed, instead = attention_study.shuffled(sentences, seed)
        places = {text.split().index("glioma") for text in mixed}
        assert len(places) == 1 and places != {9}, "one order for all"
        assert [text.split()[9] for text in mixed] == instead
