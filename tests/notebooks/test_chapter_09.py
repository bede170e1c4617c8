"""Chapter 9 where the smoke run does not go: NMI by hand is the package's; the whole run is read, or its lack said."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import top_k_accuracy_score

from mrtutor.metrics.correspondence import nmi
from mrtutor.metrics.table2 import GT, PREDICTION, RANDOM
from mrtutor.sampling.pretrained import data_root

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTER = "09_evaluate_sequences_and_prompts.ipynb"
rng = np.random.default_rng(0)


def _cells(name: str, tag: str) -> list[str]:
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    return [c.source for c in cells if tag in c.metadata.get("tags", [])]


def test_nmi_by_hand_is_the_packages() -> None:
    names: dict[str, Any] = {"np": np}
    exec(_cells(CHAPTER, "nmi")[0], names)
    a, b = rng.random((2, 64, 64))
    for other in (a, 1 - a, b, (a + b) / 2):
        value, joint = names["nmi_by_hand"](a, other)
        assert value == pytest.approx(nmi(a, other)) and joint.sum() == pytest.approx(1)


def test_the_solution_counts_the_two_nearest_as_scikit_learn_does() -> None:
    names: dict[str, Any] = {"np": np}
    exec(_cells(f"solutions/{CHAPTER}", "top_two")[0], names)
    values, right = rng.random((200, 8)), rng.integers(0, 8, 200)
    expected = top_k_accuracy_score(right, values, k=2, labels=range(8))
    assert names["top_two"](values, right) == pytest.approx(expected)


def _entry(value: float) -> dict:
    return {"value": value, "mean": value, "sd": 0.1, "ci95": [value - 0.01, value + 0.01], "n": 500}


def _report(value: float) -> dict[str, Any]:
    row = {RANDOM: _entry(0.1), GT: _entry(0.9), PREDICTION: _entry(value), "ldm": _entry(0.5)}
    kinds = ("modality", "idh", "both", "idh_of_sequence")
    sides = ("agreeing", "follows_prompt", "follows_mask", "word_effect")
    return {
        "table2": {f: row for f in ("ssim", "nmi", "ncc")} | {"closeness": {"ssim": value}},
        "table3": {"retrieval": {"ours": {k: _entry(value) for k in kinds}}},
        "prompt_against_mask": {"ours": {k: _entry(value) for k in sides}},
        **{"count": 500, "seed": 0, "commit": "abc"},
    }


@pytest.mark.parametrize("measured", [True, False])
def test_the_whole_run_is_read_or_its_lack_is_said(
    measured: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plt.switch_backend("Agg")
    file, plotted = tmp_path / "evaluation.json", []
    if measured:
        file.write_text(json.dumps(_report(0.8)))
    small = _report(0.2)
    names: dict[str, Any] = {
        "evaluation_file": str(file),
        "plot_bounds": lambda table, *_: plotted.append(table),
        **{"alike": small["table2"], "verdict": small["table3"], "report": small["prompt_against_mask"]},
        **{"order": [RANDOM, GT, PREDICTION, "ldm", "copies"], "kinds": ("modality", "idh", "both", "idh_of_sequence")},
        "sides": ("agreeing", "follows_prompt", "follows_mask", "word_effect"),
        **{"json": json, "Path": Path, "pd": pd, "GT": GT, "data_root": data_root},
    }
    cells = _cells(CHAPTER, "whole")
    assert len(cells) == 4
    for source in cells:
        exec(source, names)
    said = capsys.readouterr().out
    assert ("NOT MEASURED" in said) is not measured
    assert (said.count("*** NOT MEASURED") == 6) is not measured
    assert plotted == [names["evaluation"]["table2"] if measured else small["table2"]]
    assert (
        names["retrieved"]["ours"]["idh"]["value"]
        == names["tug"]["ours"]["agreeing"]["value"]
        == (0.8 if measured else 0.2)
    )
