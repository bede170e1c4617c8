"""Every chapter has the anatomy of a chapter, and every rule of it fires on a chapter that breaks it."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import anatomy
from tests.notebooks.anatomy import COMMON, RULES, SETUP_CELL, Chapter
from tests.notebooks.runner import chapter_name, chapters

Change = Callable[[NotebookNode], None]


def _code(source: str, count: int, **metadata: object) -> NotebookNode:
    return new_code_cell(source, execution_count=count, metadata=metadata)


def good_book() -> NotebookNode:
    """The smallest chapter without a fault."""
    parameters = 'preset = "laptop"  # sizes\nseed = 0  # of the noise\noutput_dir = "outputs/03"  # for files'
    figure = _code("show()", 3)
    figure.outputs = [new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})]
    cells = [
        new_markdown_cell("# 3 · Noise\n\nWhat is left of a picture?\n\n`chapter 03` `simulated images`"),
        new_markdown_cell(
            "| fact | |\n|---|---|\n| Paper | §3 |\n| **Needs** | – |\n| Time | 1 s |\n| Writes | a file |"
        ),
        new_markdown_cell("## You will be able to\n- add noise"),
        _code(parameters, 1, tags=["parameters"]),
        _code(SETUP_CELL.read_text().rstrip("\n"), 2),
        new_markdown_cell("## A free section\n![noise over a brain](figures/noise.svg)"),
        figure,
        new_markdown_cell("Noise covers the brain."),
        new_markdown_cell("## Checks"),
        _code("assert 1 + 1 == 2\nwrite_json(f'{output_dir}/results.json', {})", 4),
        new_markdown_cell("## What can go wrong"),
        new_markdown_cell("## Exercises\nAnswers: [solutions](solutions/03_noise.ipynb)"),
        _code("level = 0.5  # yours", 5),
        new_markdown_cell("## Summary and next"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _findings(tmp_path: Path, book: NotebookNode) -> list[tuple[str, str]]:
    path = tmp_path / "03_noise.ipynb"
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions/03_noise.ipynb").touch()
    nbformat.write(book, path)
    chapter = Chapter.read(path)
    return [(rule.__name__, finding) for rule in RULES for finding in rule(chapter)]


def test_the_good_chapter_passes(tmp_path: Path) -> None:
    assert _findings(tmp_path, good_book()) == []


def _set(place: int, source: str) -> Change:
    return lambda book: book.cells[place].update(source=source)


def _swap(old: str, new: str) -> Change:
    def change(book: NotebookNode) -> None:
        touched = [cell for cell in book.cells if old in cell.source]
        assert touched, f"the good chapter has no {old!r}"
        for cell in touched:
            cell.source = cell.source.replace(old, new)

    return change


def _append_code(source: str, **metadata: object) -> Change:
    return lambda book: book.cells.append(_code(source, 6, **metadata))


def _fail(book: NotebookNode) -> None:
    book.cells[4].outputs = [new_output("error", ename="ValueError", evalue="", traceback=[])]


def _say(text: str) -> Change:
    return lambda book: book.cells[4].update(outputs=[new_output("stream", text=text)])


BAD: list[tuple[str, str, Change]] = [
    ("title", "the title '# 3 · …'", _swap("# 3 ·", "# 4 ·")),
    ("title", "the chapter's question", _swap("?", ".")),
    ("title", "a line of badges", _swap("`chapter 03` `simulated images`", "")),
    ("facts", "lacks Needs", _swap("**Needs**", "Wants")),
    ("sections", "in this order", _swap("## Checks", "## Tests")),
    ("sections", "in this order", lambda book: book.cells.insert(0, book.cells.pop())),
    ("parameters", "found 0", lambda book: book.cells[3].metadata.clear()),
    ("parameters", "found 2", lambda book: book.cells[4].metadata.update(tags=["parameters"])),
    ("parameters", "first code cell", lambda book: book.cells.insert(0, _code("1", 0))),
    ("parameters", "only `name = literal`", _swap("seed = 0", "seed = int(0)")),
    ("parameters", "only `name = literal`", _swap("seed = 0", "import os")),
    ("parameters", "no comment beside 'seed = 0'", _swap("seed = 0  # of the noise", "seed = 0")),
    ("parameters", "missing parameters seed", _swap("seed = 0", "sed = 0")),
    ("setup", "byte for byte", lambda book: book.cells[4].update(source=book.cells[4].source + " ")),
    ("checks", "at least one assert", _swap("assert 1 + 1 == 2", "1 + 1")),
    ("checks", "results.json", _swap("results.json", "other.json")),
    ("exercises", "at least one stub", lambda book: book.cells.pop(12)),
    ("exercises", "link to solutions/03_noise.ipynb", _swap("(solutions/03", "(03")),
    ("sizes", "62 cells", lambda book: book.cells.extend(new_markdown_cell("text") for _ in range(48))),
    ("sizes", "31 lines of code", _set(6, "\n".join(["x = 1"] * 31))),
    (
        "sizes",
        "median code cell has 9",
        lambda book: [c.update(source="x = 1\n" * 9) for c in (book.cells[6], book.cells[9], book.cells[12])],
    ),
    ("sizes", "expected at most 1000000", _set(0, "# 3 · Noise?\n\n`a` `b`\n\n" + "x" * 1_000_001)),
    ("portable", "absolute path", _set(6, 'open("/home/anna/brain.nii")')),
    ("portable", "absolute path", _set(6, r'open("C:\\brain.nii")')),
    ("portable", "absolute path", _say("saved in /tmp/x/brain.png")),
    ("portable", "hard-coded 'cuda'", _set(6, 'model.to("cuda:0")')),
    ("portable", "core ipywidgets", _set(6, "import ipycanvas")),
    ("portable", "no other notebook", _set(6, "%run 02_cohort.ipynb")),
    ("metadata", "kernelspec python3", lambda book: book.metadata.kernelspec.update(name="venv")),
    ("metadata", "kernelspec python3", lambda book: book.metadata.kernelspec.pop("language")),
    ("metadata", "widgets must not be saved", lambda book: book.metadata.update(widgets={})),
    ("metadata", "papermill must not be saved", lambda book: book.metadata.update(papermill={})),
    ("metadata", "cell 5: saved by papermill", lambda book: book.cells[4].metadata.update(papermill={})),
    ("metadata", "injected by papermill", _append_code("seed = 1", tags=["injected-parameters"])),
    ("pictures", "without alt text", _swap("![noise over a brain]", "![]")),
    ("pictures", "without alt text", _set(7, '<img src="figures/noise.svg">')),
    ("pictures", "no sentence after it", lambda book: book.cells.insert(7, _code("1", 4))),
    ("executed", "run `make notebooks`", lambda book: book.cells[6].update(execution_count=None)),
    ("executed", "run `make notebooks`", lambda book: book.cells[6].update(execution_count=9)),
    ("executed", "its output is an error", _fail),
]


@pytest.mark.parametrize(("rule", "words", "change"), BAD, ids=[f"{r}-{w}" for r, w, _ in BAD])
def test_each_rule_fires(tmp_path: Path, rule: str, words: str, change: Change) -> None:
    book = good_book()
    change(book)
    found = _findings(tmp_path, book)
    assert any(name == rule and words in finding for name, finding in found), found


def test_every_rule_is_tested() -> None:
    assert {rule for rule, _, _ in BAD} == {rule.__name__ for rule in RULES}


def test_missing_solutions_are_named(tmp_path: Path) -> None:
    nbformat.write(good_book(), tmp_path / "03_noise.ipynb")
    assert any("solutions/03_noise.ipynb" in f for f in anatomy.exercises(Chapter.read(tmp_path / "03_noise.ipynb")))


def test_an_expected_error_is_no_fault(tmp_path: Path) -> None:
    book = good_book()
    _fail(book)
    book.cells[4].metadata["tags"] = ["raises-exception"]
    assert _findings(tmp_path, book) == []


@pytest.mark.parametrize("path", chapters(), ids=chapter_name)
def test_chapter(path: Path) -> None:
    rules = COMMON if path.parent.name == "solutions" else RULES
    assert [finding for rule in rules for finding in rule(Chapter.read(path))] == []
