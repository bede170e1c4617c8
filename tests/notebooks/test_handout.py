"""What is handed out: students get clean chapters, lecturers get everything, nobody's work is overwritten."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.handout import PAGE, ROOT, TIMES, blank, chapters, main, page_text


def _chapter(path: Path, time: str = "40 s") -> None:
    ran = new_code_cell("print(1)", execution_count=1, metadata={"execution": {"iopub.execute_input": "today"}})
    ran.outputs = [new_output("stream", text="1\n")]
    cells = [
        new_markdown_cell("# 3 · Noise"),
        new_markdown_cell(f"| fact | |\n|---|---|\n| **Time** | {time} |"),
        ran,
        new_markdown_cell(
            "## Exercises\nAnswers stand in [solutions/03_noise.ipynb](solutions/03_noise.ipynb).\n\n1. One.\n2. Two."
        ),
        new_code_cell("level = 0.5  # yours"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {"duration": 1}}), path)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course of one chapter with a solution and a figure."""
    _chapter(tmp_path / "notebooks/03_noise.ipynb")
    _chapter(tmp_path / "notebooks/solutions/03_noise.ipynb")
    (tmp_path / "notebooks/figures").mkdir()
    (tmp_path / "notebooks/figures/03_noise.svg").write_text("<svg/>")
    (tmp_path / "notebooks/README.md").write_text("# For lecturers\n<!-- chapters -->\nold\n<!-- /chapters -->\n")
    return tmp_path


def test_students_get_clean_chapters_and_no_solutions(course: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["student"], course) == 0
    out = course / "outputs/student"
    assert {p.name for p in out.iterdir()} == {"03_noise.ipynb", "figures", "SHA256SUMS"}
    book = nbformat.read(out / "03_noise.ipynb", as_version=4)
    assert all(not c.outputs and c.execution_count is None for c in book.cells if c.cell_type == "code")
    assert "papermill" not in book.metadata and "execution" not in book.cells[2].metadata
    assert "solutions/" not in str(book) and "your lecturer's copy" in book.cells[3].source
    assert "level = 0.5" in book.cells[4].source, "stubs stay"
    assert (out / "figures/03_noise.svg").is_file()
    assert capsys.readouterr().out == "Done: 1 chapters without outputs and solutions in outputs/student.\n"


def test_the_chapter_itself_is_untouched(course: Path) -> None:
    path = course / "notebooks/03_noise.ipynb"
    before = path.read_bytes()
    main(["student"], course)
    main(["instructor"], course)
    assert path.read_bytes() == before


def test_lecturers_get_outputs_solutions_and_times(course: Path) -> None:
    executed = course / "outputs/notebooks/03_noise.ipynb"
    _chapter(executed)
    book = nbformat.read(executed, as_version=4)
    book.metadata["papermill"] = {"duration": 12.34, "parameters": {"preset": "smoke"}, "exception": None}
    nbformat.write(book, executed)
    assert main(["instructor"], course) == 0
    out = course / "outputs/instructor"
    assert nbformat.read(out / "03_noise.ipynb", as_version=4).cells[2].outputs
    assert (out / "solutions/03_noise.ipynb").is_file() and (out / "README.md").is_file()
    assert "| 03_noise | 2 | 40 s | 12 s (smoke) | not run |" in (out / TIMES).read_text()


def test_times_say_what_is_not_known(course: Path) -> None:
    _chapter(course / "notebooks/03_noise.ipynb", "TODO-measure on 2 CPU cores")
    executed = course / "outputs/notebooks/03_noise.ipynb"
    _chapter(executed)
    book = nbformat.read(executed, as_version=4)
    book.metadata["papermill"] = {"duration": None, "exception": True}
    nbformat.write(book, executed)
    main(["instructor"], course)
    assert (
        "| 03_noise | 2 | not measured on 2 CPU cores | failed | not run |"
        in (course / "outputs/instructor" / TIMES).read_text()
    )


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
    assert (course / "outputs/student" / name).read_text() == "mine"
    assert f"holds work of somebody ({name}): move it away" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(course: Path) -> None:
    (course / "else").mkdir()
    (course / "else/thesis.tex").write_text("years of work")
    assert main(["instructor", "--out", str(course / "else")], course) == 2
    assert (course / "else/thesis.tex").read_text() == "years of work"


def test_without_chapters_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["student"], tmp_path) == 2
    assert "run this from a clone" in capsys.readouterr().err


def test_the_lecturers_table_is_made_from_the_fact_tables(course: Path) -> None:
    readme = course / "notebooks/README.md"
    assert main(["page"], course) == 0
    assert "| [03_noise](03_noise.ipynb) |  |  |  | 40 s |" in readme.read_text() and "old" not in readme.read_text()
    before = readme.read_text()
    assert main(["page"], course) == 0 and readme.read_text() == before
    readme.write_text("# For lecturers\n")
    assert main(["page"], course) == 2 and readme.read_text() == "# For lecturers\n"


def test_the_lecturers_page_names_every_chapter() -> None:
    text = (ROOT / PAGE).read_text()
    missing = [path.name for path in chapters(ROOT) if f"({path.name})" not in text]
    assert not missing, f"run tools/handout.py page: {missing}"


def test_the_lecturers_page_is_up_to_date() -> None:
    """Its times are those of the fact tables, hence those of the README."""
    assert (ROOT / PAGE).read_text() == page_text(ROOT), "run: python tools/handout.py page"


def test_every_real_chapter_comes_out_clean() -> None:
    """No link to the solutions is left, whatever words an author wrapped it in."""
    for path in chapters(ROOT):
        text = nbformat.writes(blank(nbformat.read(path, as_version=4)))
        assert not re.search(r"\]\([^)]*solutions/", text), path.name
