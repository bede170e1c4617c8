"""What is handed out: students get clean chapters, lecturers get everything, nobody's work is overwritten."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from experiments.handout import ROOT, blank, chapters, main


def _chapter(path: Path) -> None:
    ran = new_code_cell("print(1)", execution_count=1, metadata={"execution": {"iopub.execute_input": "today"}})
    ran.outputs = [new_output("stream", text="1\n")]
    exercises = "## Exercises\nAnswers are in [solutions/03_noise.ipynb](solutions/03_noise.ipynb).\n\n1. One.\n2. Two."
    cells = [new_markdown_cell("# 3 · Noise"), ran, new_markdown_cell(exercises), new_code_cell("level = 0.5  # yours")]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"duration": 1}}), path)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course of one chapter with a solution, a figure and a page for lecturers."""
    _chapter(tmp_path / "notebooks/03_noise.ipynb")
    _chapter(tmp_path / "notebooks/solutions/03_noise.ipynb")
    (tmp_path / "notebooks/figures").mkdir()
    (tmp_path / "notebooks/figures/03_noise.svg").write_text("<svg/>")
    (tmp_path / "notebooks/README.md").write_text("# For lecturers\n")
    return tmp_path


def test_students_get_clean_chapters_and_no_solutions(course: Path) -> None:
    before = (course / "notebooks/03_noise.ipynb").read_bytes()
    assert main(["student"], course) == 0
    out = course / "outputs/student"
    assert {p.name for p in out.iterdir()} == {"03_noise.ipynb", "figures", "SHA256SUMS"}
    book = nbformat.read(out / "03_noise.ipynb", as_version=4)
    assert all(not c.outputs and c.execution_count is None for c in book.cells if c.cell_type == "code")
    assert "papermill" not in book.metadata and "execution" not in book.cells[1].metadata
    assert "solutions/" not in str(book) and "level = 0.5" in book.cells[3].source, "stubs stay"
    assert (out / "figures/03_noise.svg").is_file()
    assert (course / "notebooks/03_noise.ipynb").read_bytes() == before


def test_lecturers_get_outputs_and_solutions(course: Path) -> None:
    assert main(["instructor"], course) == 0
    out = course / "outputs/instructor"
    assert nbformat.read(out / "03_noise.ipynb", as_version=4).cells[1].outputs
    assert (out / "solutions/03_noise.ipynb").is_file() and (out / "README.md").is_file()


@pytest.mark.parametrize("whom", ["student", "instructor"])
def test_no_link_of_a_real_copy_leads_nowhere(whom: str, tmp_path: Path) -> None:
    assert main([whom, "--out", str(tmp_path / whom)]) == 0
    for path in (tmp_path / whom).rglob("*.ipynb"):
        text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
        links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if not link.startswith("https:")]
        assert not [link for link in links if not (path.parent / link).exists()], path.name


def test_a_second_time_replaces_the_first(course: Path) -> None:
    main(["student"], course)
    _chapter(course / "notebooks/04_more.ipynb")
    assert main(["student"], course) == 0
    assert (course / "outputs/student/04_more.ipynb").is_file()


@pytest.mark.parametrize("name", ["03_noise.ipynb", "own_notes.txt"])
def test_a_folder_with_somebodys_work_is_refused(course: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    main(["student"], course)
    (course / "outputs/student" / name).write_text("mine")
    assert main(["student"], course) == 2
    assert (course / "outputs/student" / name).read_text() == "mine" and name in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(course: Path) -> None:
    (course / "else").mkdir()
    (course / "else/thesis.tex").write_text("years of work")
    assert main(["instructor", "--out", str(course / "else")], course) == 2
    assert (course / "else/thesis.tex").read_text() == "years of work"


def test_without_chapters_nothing_is_written(tmp_path: Path) -> None:
    assert main(["student"], tmp_path) == 2 and not (tmp_path / "outputs/student").exists()


def test_no_real_chapter_keeps_a_link_to_the_solutions() -> None:
    for path in chapters(ROOT):
        text = nbformat.writes(blank(nbformat.read(path, as_version=4)))
        assert not re.search(r"\]\([^)]*solutions/", text), path.name
