"""Chapter 8 where the smoke run does not go: a report that exists, and what the solutions define."""

import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from mrtutor.vocabulary import Modality

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAME = "08_evaluate_image_quality.ipynb"


def _tagged(path: Path, tag: str) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(c.source for c in cells if tag in c.metadata.get("tags", []))


def _leaf(value: float) -> dict[str, Any]:
    return {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 500}


def _run_report(path: Path) -> dict[str, Any]:
    source = _tagged(NOTEBOOKS / NAME, "report")
    names: dict[str, Any] = {"json": json, "Path": Path, "pd": pd, "Modality": Modality, "evaluation": str(path)}
    exec(source, names)
    return names


def test_without_a_report_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = _run_report(tmp_path / "none.json")
    said = capsys.readouterr().out
    assert "NOT MEASURED: ours, variant_A, ldm, ldm_alone, stylegan2" in said and said.count("NOT MEASURED") >= 6
    assert names["missing"] == ["ours", "variant_A", "ldm", "ldm_alone", "stylegan2"]


def test_a_report_with_one_model_missing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    columns = [*map(str, Modality), "average"]
    row = {c: _leaf(2.0 + i) for i, c in enumerate(columns)}
    report = {
        "table1": {"fid_mr": {name: row for name in ("ours", "variant_A", "ldm", "ldm_alone", "blurred real")}},
        "floor": {"fid_mr": {c: _leaf(1.5) for c in columns}},
        "two_sample": {"ours": {"features": _leaf(0.6), "pixels": _leaf(0.7)}, "cohort": {"features": _leaf(0.5)}},
        "memorisation": {"ours": {"near": {"average": _leaf(0.05)}, "closest": {"T1": []}}},
        "utility": {"cohort": _leaf(0.8), "ours": {"synthetic": _leaf(0.7), "synthetic_ratio": _leaf(0.9)}},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    names = _run_report(tmp_path / "evaluation.json")
    said = capsys.readouterr().out
    assert names["missing"] == ["stylegan2"] and "NOT MEASURED: stylegan2" in said
    assert names["measured"]["ours"]["x floor"] == 4.0 and "floor: held-out patients" in names["measured"]
    assert names["others_say"]["told by pixels"]["ours"].startswith("0.700 [0.600, 0.800], n = 500")
    assert names["others_say"]["Dice, synthetic only"].keys() == {"ours", "cohort"}


def test_solution_coarse_eyes() -> None:
    names: dict[str, Any] = {"np": np}
    exec(_tagged(NOTEBOOKS / "solutions" / NAME, "coarse"), names)
    picture = np.zeros((1, 4, 256, 256), np.uint8)
    picture[0, 2, 32:64, :32] = 255  # the block of row 1, column 0
    found = names["coarse_eyes"](picture)
    assert found.shape == (1, 4, 64) and found[0, 2, 8] == 1 and found.sum() == 1
