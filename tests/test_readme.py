"""The README's tables are those of the results and notebooks beside it."""

import json
import re
from pathlib import Path

import pytest

from tests.commands import commands_in, unknown_options
from tools.readme_results import results
from tools.readme_tables import ROOT, chapters, figures, rewritten


def test_tables_are_up_to_date() -> None:
    text = (ROOT / "README.md").read_text()
    assert rewritten(text) == text, "run: python -m tools.readme_tables"


def test_every_chapter_has_a_row() -> None:
    names = {path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert all(f"notebooks/{name}" in chapters() for name in names)


def test_weights_are_packed_again_once_they_are_measured() -> None:
    commands = re.findall(r"^\.venv/bin/mrtutor (\w+)", (ROOT / "README.md").read_text(), flags=re.M)
    assert commands[:7] == ["train", "train", "train", "train", "pack", "evaluate", "pack"]


def test_commands_know_their_options() -> None:
    text = (ROOT / "README.md").read_text()
    assert {"train", "unpack", "pack", "evaluate", "sample", "prepare"} <= {name for name, _ in commands_in(text)}
    assert not unknown_options(text)
    assert unknown_options(".venv/bin/mrtutor train all --step 2  # --none") == ["train --step"]


def test_figures_come_from_the_results_file(tmp_path: Path) -> None:
    assert "Not measured yet" in figures(tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    one = {"value": 33.25, "ci95": [33.0, 33.5], "n": 400}
    results = {"autoencoder": {"psnr_db": one, "ceiling_psnr_db": one | {"value": 39.0}}}
    results["structure"] = {"D": one, "attainable": one | {"value": 0.859}}
    (tmp_path / "data/results/weights.json").write_text(json.dumps(results))
    assert "| 33.2 | 33 … 33.5 | 400 | noise alone 39 |" in figures(tmp_path)
    assert "| 400 | true slices 0.859 |" in figures(tmp_path)


def test_results_come_from_the_evaluation_and_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    assert "Not measured yet" in results(tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    one = {"value": 6.0, "ci95": [5.0, 7.0], "n": 8}
    row = {"mean": 0.5, "sd": 0.1, "n": 8}
    figure = {"gt": row, "prediction": row, "random": row}
    report = {
        "count": 8,
        "seed": 3,
        "table1": {
            "fid_mr": {
                "ours": {"T1": one, "average": one | {"n": 32}},
                "ldm": {"T1": one | {"n": 6}, "average": one | {"n": 24}},
                "blurred real": {"average": one | {"value": 9.0}},
            }
        },
        "floor": {"fid_mr": {"average": one | {"value": 2.0}}},
        "table2": dict.fromkeys(("ssim", "nmi", "ncc"), figure) | {"closeness": {"ssim": 0.1, "nmi": 0.2, "ncc": 0.3}},
        "table3": {"judge": "a CLIP", "retrieval": {"ours": {"modality": one, "idh_of_sequence": one}}},
    }
    (tmp_path / "data/results/evaluation.json").write_text(json.dumps(report))
    text = results(tmp_path)
    assert "N = 8" in text and "| ours | 6.00 [5.00, 7.00] | 4.00 |" in text and "| 7.00 |" in text
    assert "| plain LDM: ours, structure left out, N = 6 | 6.00" in text, "a row of its own N"
    assert "| NMI | 0.500 ± 0.100 |" in text and "StyleGAN2" not in text


def test_missing_marks_are_named() -> None:
    with pytest.raises(ValueError, match=r"README.md lacks <!-- figures -->"):
        rewritten("# mrtutor")
