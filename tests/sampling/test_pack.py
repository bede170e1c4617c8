"""From a run's folder to a pipeline folder: complete, checked, with a card that says what was measured."""

import json
import shutil
from pathlib import Path

import pytest

from mrtutor.presets import load_preset
from mrtutor.sampling.card import _training_table
from mrtutor.sampling.pack import pack_run
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.training import stages
from tests.cohorts import write_tiny_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    work = stages.Run(load_preset("smoke"), write_tiny_cohort(folder), folder / "run", steps=2)
    for stage in stages.STAGES:
        stages.train(work, stage)
    return folder / "run"


def test_packed_weights_open_and_the_card_shows_every_stage(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "weights.json"
    figure = {"value": 31.25, "ci95": [31.0, 31.5], "n": 9}
    results.write_text(json.dumps({"seed": 7, "autoencoder": {"psnr_db": figure}, "cost": {"default_steps": 25}}))
    size = pack_run(run, tmp_path / "out", preset="smoke", device="a test", results=results)
    assert size == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert load_pretrained(tmp_path / "out", device="cpu").variant == "D"
    card = (tmp_path / "out/README.md").read_text()
    for words in ("Not for diagnosis", "a test", "| autoencoder | 2 |", "| guidance-D | 2 |", "31.25 | 31 … 31.5 | 9"):
        assert words in card, words


def test_an_unfinished_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks guidance-B: run `mrtutor train all"):
        pack_run(run, tmp_path / "out", preset="smoke", variant="B", device="cpu")
    assert not (tmp_path / "out").exists()


def test_the_card_leaves_out_a_stage_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(run / "runs", tmp_path / "runs")
    (runs / "text" / "cost.json").unlink()
    table = _training_table(runs)
    assert "| autoencoder | 2 |" in table and "| text |" not in table
