"""Every chapter is built alike, says nothing that was typed by hand, and runs in the smoke preset."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

from experiments.chapters import SETUP, SMOKE_LIMIT_S, chapter_name, chapters, run_chapter

SECTIONS = ("You will be able to", "Checks", "What can go wrong", "Exercises", "Summary")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~<])/(?:home|root|Users|work|tmp|mnt|opt|content|usr|var)/|\b[A-Z]:\\\\?\w")
FIXED_GPU = re.compile(r"""["']cuda(?::\d+)?["']|\.cuda\(""")
MAX_LINES, MEDIAN_LINES, MAX_BYTES = 30, 8, 1_000_000

every_chapter = pytest.mark.parametrize("path", chapters(), ids=chapter_name)
every_lesson = pytest.mark.parametrize(
    "path", [p for p in chapters() if p.parent.name == "notebooks"], ids=chapter_name
)


def _code(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def _text(book):
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


@every_lesson
def test_a_lesson_has_its_parts(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    assert book.cells[0].source.startswith(f"# {int(path.name[:2])} · ")
    assert "?" in book.cells[0].source  # the chapter's question
    headings = re.findall(r"^#+ +(.+)$", _text(book), flags=re.M)
    places = [next((i for i, words in enumerate(headings) if words.startswith(s)), -1) for s in SECTIONS]
    assert -1 not in places and places == sorted(places)
    assert (path.parent / "solutions" / path.name).is_file()
    assert "assert " in "\n".join(cell.source for cell in _code(book))


@every_chapter
def test_parameters_and_setup_come_first(path: Path) -> None:
    code = _code(nbformat.read(path, as_version=4))
    assert code[0].metadata.get("tags") == ["parameters"]
    names = set()
    for statement in ast.parse(code[0].source).body:
        ast.literal_eval(statement.value)  # papermill can inject plain values only
        names |= {target.id for target in statement.targets}
    assert {"preset", "seed", "output_dir"} <= names
    assert code[1].source == SETUP


@every_chapter
def test_a_chapter_is_portable_and_small(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        assert not ABSOLUTE_PATH.search(cell.source + str(cell.get("outputs", "")))
        assert "papermill" not in cell.metadata
    code = [cell.source for cell in _code(book)]
    assert not FIXED_GPU.search("\n".join(code))
    lengths = [len(source.splitlines()) for source in code]
    assert max(lengths) <= MAX_LINES and median(lengths) <= MEDIAN_LINES
    assert path.stat().st_size <= MAX_BYTES
    assert "widgets" not in book.metadata and "papermill" not in book.metadata
    assert not re.search(r"!\[\s*\]\(", _text(book))  # a picture without alt text


@every_lesson
def test_outputs_come_from_one_run(path: Path) -> None:
    code = _code(nbformat.read(path, as_version=4))
    counts = [cell.execution_count for cell in code]
    assert counts in ([None] * len(code), list(range(1, len(code) + 1)))  # without outputs, or all of one run
    for cell in code:
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert not any(output.output_type == "error" for output in cell.outputs)


@every_chapter
def test_runs_in_smoke(path: Path, tmp_path: Path) -> None:
    parameters = {"preset": "smoke", "output_dir": str(tmp_path / "out")}
    run = run_chapter(path, tmp_path / path.name, parameters, SMOKE_LIMIT_S)
    assert run.error is None, run.error
