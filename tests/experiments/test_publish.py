"""One command writes the public address of the repository wherever a reader needs it."""

import ast
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from experiments.chapters import ROOT, chapters, published, setup
from experiments.publish import main, publish

ADDRESS = "https://github.com/someone/mrtutor"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of what the stamp touches."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns("figures", ".*"))
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _texts(root: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_address_stands_where_it_is_needed_and_nothing_else_changes(course: Path) -> None:
    before = {path: nbformat.read(path, as_version=4) for path in chapters(course)}
    publish(f"{ADDRESS}.git/", course)
    assert published(course) == ADDRESS
    for path, old in before.items():
        book, name = nbformat.read(path, as_version=4), path.relative_to(course).as_posix()
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert code[1].source == setup(ADDRESS) and "    %pip install -q git+{address}" in code[1].source
        ast.parse(TransformerManager().transform_cell(code[1].source))
        colab, binder = re.findall(r"\]\((https://[^)]+)\)", book.cells[0].source)[:2]
        assert colab.endswith(f"/someone/mrtutor/blob/main/{name}")
        assert unquote(binder) == f"https://mybinder.org/v2/git/{ADDRESS}/HEAD?labpath={name}"
        for now, was in zip(book.cells, old.cells, strict=True):
            assert {**now, "source": ""} == {**was, "source": ""}, "outputs, counts and metadata stay"
            assert now.source == was.source or now in (book.cells[0], code[1])
    assert "blob/main/notebooks/00_quickstart.ipynb" in (course / "README.md").read_text(encoding="utf-8")


def test_a_stamp_replaces_the_one_before(course: Path) -> None:
    publish(ADDRESS, course)
    once = _texts(course)
    publish("https://git.example.org/group/mrtutor", course)
    assert not any("someone" in text or "colab.research" in text for text in _texts(course).values())
    publish(ADDRESS, course)
    assert _texts(course) == once


@pytest.mark.parametrize(
    "address", ["", "http://github.com/a/b", "git@github.com:a/b", "https://github.com", 'https://a/b"']
)
def test_no_address_is_an_error_that_says_what_to_type(address: str, capsys: pytest.CaptureFixture) -> None:
    before = _texts(ROOT / "notebooks/solutions")
    assert main([address]) == 2
    assert "make publish ADDRESS=https://" in capsys.readouterr().err
    assert _texts(ROOT / "notebooks/solutions") == before


def test_the_setup_cell_says_what_to_set_until_then() -> None:
    with pytest.raises(AssertionError, match="https address"):
        exec(setup("").replace("%pip", "#").replace('find_spec("mrtutor")', 'find_spec("no_such_course")'), {})
