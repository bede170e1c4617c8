"""Chapter 01: what it writes in plain torch equals the package, and its section on real cases runs on real layouts."""

import ast
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from cohorts import write_tiny_cohort
from subjects import REAL, needs_real_cases, tiny_subject, write_case

from mrtutor.data.growth import RHO_PER_DAY, grow

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = ROOT / "notebooks/01_prepare_data.ipynb"
SOLUTIONS = ROOT / "notebooks/solutions/01_prepare_data.ipynb"


def code(path: Path, tag: str | None = None) -> list[str]:
    """Code cells of a notebook, all or those with a tag."""
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return [c.source for c in cells if tag is None or tag in c.metadata.get("tags", [])]


def imports(path: Path) -> str:
    """The cell of imports: the first after parameters and setup."""
    return code(path)[2]


def functions(path: Path) -> dict[str, Any]:
    """Every function that a notebook defines, with its imports, without running anything else."""
    names: dict[str, Any] = {}
    exec("\n".join(line for line in imports(path).splitlines() if line.startswith(("import", "from"))), names)
    for source in code(path):
        defined = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        exec(compile(ast.Module(defined, []), str(path), "exec"), names)
    return names


@pytest.fixture(scope="module")
def chapter() -> dict[str, Any]:
    return functions(CHAPTER)


@pytest.mark.parametrize("width", [0.8, 2.0, 3.5])
def test_the_plain_growth_step_is_the_packages(chapter: dict[str, Any], width: float) -> None:
    frames, rod = [], torch.ones(60, 1, 1)
    keep = frames.append
    grow(rod, 0 * rod, (20, 0, 0), width_mm=width, volume_mm3=240, snapshot=lambda days, u: keep((days, u[:, 0, 0])))
    assert len(frames) > 5
    dt, u = frames[1][0] - frames[0][0], frames[0][1]
    for _ in frames[1:]:
        u = chapter["grow_one_step"](u, RHO_PER_DAY * width**2, RHO_PER_DAY, dt, 2)
    assert torch.allclose(u, frames[-1][1], atol=1e-5)


def test_without_division_the_plain_step_loses_no_cell(chapter: dict[str, Any]) -> None:
    u = torch.rand(50, generator=torch.Generator().manual_seed(0))
    later = chapter["grow_one_step"](u, 0.05, 0.0, 10.0, 2.0)
    assert later.sum() == pytest.approx(u.sum()) and not torch.equal(u, later)


def test_the_cell_of_the_growth_step_runs_alone() -> None:
    names: dict[str, Any] = {}
    for source in (imports(CHAPTER), *code(CHAPTER, "fisher-step")):
        exec(source, names)
    assert 0 <= names["difference"] < 1e-5


@pytest.mark.parametrize("path", [CHAPTER, SOLUTIONS], ids=["chapter", "solutions"])
def test_outline_found_on_a_square(path: Path) -> None:
    outline_found = functions(path)["outline_found"]
    mask, edges = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
    mask[100:150, 100:150] = 4
    assert outline_found(mask, edges) == 0.0
    edges[100:150, 101] = 255  # a line one pixel inside the left side: it finds that side and the corners
    assert outline_found(mask, edges) == pytest.approx((50 + 2 * 3) / (4 * 50 - 4))
    assert outline_found(mask[:, ::-1], edges) < 0.1


def test_nearest_known_slice_is_looked_up_among_known_ones_only(chapter: dict[str, Any]) -> None:
    distance = np.array([[0, 1, 5, 9], [1, 0, 4, 9], [5, 4, 0, 2], [9, 9, 2, 0]], float)
    chapter |= {
        "distance": distance,
        "who": np.array(list("aabb")),
        "types": np.array(["wild", "wild", "wild", "mutant"]),
    }
    table = chapter["look_up"](np.array([True, False, False, True]))
    assert table["found"].tolist() == [0, 3]
    assert table["right"].tolist() == [True, False] and table["rms"].tolist() == [1, 2]


def compare_with_real(folder: Path, tiny: Path) -> dict[str, Any]:
    """Names after the cells on real cases ran on a folder, beside a tiny cohort."""
    matplotlib.use("Agg")
    names: dict[str, Any] = {
        "preset": "smoke",
        "seed": 0,
        "real_folder": str(folder),
        "cohort": write_tiny_cohort(tiny),
    }
    for source in (imports(CHAPTER), *code(CHAPTER, "real")):
        exec(source, names)
    assert all(np.isfinite(list(figures.values())).all() for figures in names["portraits"].values())
    return names


def test_the_section_on_real_cases_runs(tmp_path: Path) -> None:
    for number in (1, 2):
        write_case(tmp_path / "real" / f"P{number}", subject=tiny_subject(number))
    (tmp_path / "real/notes").mkdir()
    names = compare_with_real(tmp_path / "real", tmp_path / "tiny")
    assert set(names["sets"]) == set(names["contrast"]) == {"simulated", "P1", "P2"}


@needs_real_cases
def test_what_the_chapter_says_of_the_two_real_cases(tmp_path: Path) -> None:
    names = compare_with_real(REAL, tmp_path / "tiny")
    stated = {
        "TCGA-DU-7294": [2.7, 4.4, 5.0, 3.2, 0.83, 0.53, 0.86],
        "TCGA-FG-6692": [5.1, 4.1, 3.3, 5.2, 0.71, 0.45, 0.90],
    }
    for case, figures in stated.items():
        assert list(names["portraits"][case].values()) == pytest.approx(figures, abs=0.06)
        table = names["contrast"][case]
        assert table.loc["FLAIR"].idxmax() == "tumour" and table.loc["FLAIR"].idxmin() == "fluid-like"
        assert list(table.loc["T2"].drop("tumour").sort_values().index) == ["white-like", "grey-like", "fluid-like"]
