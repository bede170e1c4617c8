"""The README's tables are those of the results and notebooks beside it."""

import json
from pathlib import Path

import pytest

from tools.readme_tables import ROOT, chapters, figures, rewritten


def test_tables_are_up_to_date() -> None:
    text = (ROOT / "README.md").read_text()
    assert rewritten(text) == text, "run: python tools/readme_tables.py"


def test_every_chapter_has_a_row() -> None:
    names = {path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    assert all(f"notebooks/{name}" in chapters() for name in names)


def test_figures_come_from_the_results_file(tmp_path: Path) -> None:
    assert "Not measured yet" in figures(tmp_path)
    (tmp_path / "data/results").mkdir(parents=True)
    one = {"value": 33.25, "ci95": [33.0, 33.5], "n": 400}
    results = {"autoencoder": {"psnr_db": one, "ceiling_psnr_db": one | {"value": 39.0}}}
    (tmp_path / "data/results/weights.json").write_text(json.dumps(results))
    assert "| 33.2 | 33 … 33.5 | 400 | noise alone 39 |" in figures(tmp_path)


def test_missing_marks_are_named() -> None:
    with pytest.raises(ValueError, match=r"README.md lacks <!-- figures -->"):
        rewritten("# mrtutor")
