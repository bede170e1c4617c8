"""The anatomy of a chapter, as rules: each takes a notebook and yields what is wrong with it.

A rule speaks to the author of the chapter: it names the cell and says what is expected there.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
SETUP_CELL = ROOT / "notebooks/_setup_cell.py"
MAX_CELLS, MAX_LINES, MEDIAN_LINES, MAX_BYTES = 60, 30, 8, 1_000_000
REQUIRED_PARAMETERS = {"preset", "seed", "output_dir"}
FACTS = ("Paper", "Needs", "Time", "Writes")
SECTIONS = ("You will be able to", "Checks", "What can go wrong", "Exercises", "Summary")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~<])/(?:home|root|Users|work|tmp|mnt|opt|content|usr|var)/|\b[A-Z]:\\\\?\w")
HARD_CODED_CUDA = re.compile(r"""["']cuda(?::\d+)?["']|\.cuda\(""")
FOREIGN_WIDGETS = re.compile(r"\b(?:import|from)\s+(ipycanvas|ipympl|plotly|bqplot|ipyvolume|gradio)\b")
OTHER_NOTEBOOK = re.compile(r"%run\b.*\.ipynb|import_ipynb|nbimporter")


@dataclass(frozen=True)
class Chapter:
    """A notebook with the file it stands in."""

    path: Path
    book: NotebookNode

    @classmethod
    def read(cls, path: Path) -> "Chapter":
        """Open a notebook file."""
        return cls(path, nbformat.read(path, as_version=4))

    def cells(self, kind: str | None = None) -> list[tuple[int, NotebookNode]]:
        """Cells of a kind with their places, counted from 1."""
        return [(i, c) for i, c in enumerate(self.book.cells, 1) if kind in (None, c.cell_type)]

    def headings(self) -> list[tuple[int, str]]:
        """Place and words of every markdown heading."""
        found = [(i, re.findall(r"^#+ +(.+)$", c.source, flags=re.M)) for i, c in self.cells("markdown")]
        return [(i, words) for i, many in found for words in many]

    def section(self, title: str) -> list[NotebookNode]:
        """Cells from the one with this heading to the one before the next heading of `SECTIONS`."""
        places = [i for i, words in self.headings() if words.startswith(title)]
        if not places:
            return []
        later = [i for i, words in self.headings() if i > places[0] and words.startswith(SECTIONS)]
        return self.book.cells[places[0] - 1 : (later[0] - 1 if later else None)]

    def tagged(self, tag: str) -> list[tuple[int, NotebookNode]]:
        """Cells with a tag."""
        return [(i, c) for i, c in self.cells() if tag in c.metadata.get("tags", [])]


Rule = Callable[[Chapter], Iterator[str]]


def title(chapter: Chapter) -> Iterator[str]:
    """First cell: ``# N · Title``, a question, a line of badges such as `chapter 00` `simulated images`."""
    first = chapter.book.cells[0] if chapter.book.cells else nbformat.v4.new_markdown_cell()
    number = int(chapter.path.name[:2])
    if first.cell_type != "markdown" or not re.match(rf"# {number} · \S", first.source):
        yield f"cell 1: expected the title '# {number} · …'"
    if "?" not in first.source:
        yield "cell 1: expected the chapter's question"
    if not re.search(r"^(?:`[^`\n]+` ?){2,}$", first.source, flags=re.M):
        yield "cell 1: expected a line of badges, each in back-ticks"


def facts(chapter: Chapter) -> Iterator[str]:
    """Second cell: a table with the rows Paper, Needs, Time, Writes."""
    source = chapter.book.cells[1].source if len(chapter.book.cells) > 1 else ""
    rows = re.findall(r"^\| *\**(\w+)", source, flags=re.M)
    if missing := [fact for fact in FACTS if fact not in rows]:
        yield f"cell 2: the fact table lacks {', '.join(missing)}"


def sections(chapter: Chapter) -> Iterator[str]:
    """The fixed sections are all there, once, in order, around the free ones."""
    found = [s for _, words in chapter.headings() for s in SECTIONS if words.startswith(s)]
    if found != list(SECTIONS):
        yield f"expected the sections {', '.join(SECTIONS)} in this order, found {', '.join(found) or 'none'}"


def parameters(chapter: Chapter) -> Iterator[str]:
    """One tagged cell before all other code: literals only, a comment on each line, the three names all share."""
    tagged = chapter.tagged("parameters")
    if len(tagged) != 1:
        yield f"expected exactly one cell tagged 'parameters', found {len(tagged)}"
        return
    place, cell = tagged[0]
    if place != min(i for i, _ in chapter.cells("code")):
        yield f"cell {place}: the parameters must be the first code cell"
    names = set()
    for statement in ast.parse(cell.source).body:
        line = cell.source.splitlines()[(statement.end_lineno or 1) - 1]
        names |= {t.id for t in getattr(statement, "targets", []) if isinstance(t, ast.Name)}
        if not isinstance(statement, ast.Assign) or not _is_literal(statement.value):
            yield f"cell {place}: only `name = literal` is a parameter, got {line!r}"
        if "#" not in line:
            yield f"cell {place}: no comment beside {line!r}"
    if missing := REQUIRED_PARAMETERS - names:
        yield f"cell {place}: missing parameters {', '.join(sorted(missing))}"


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def setup(chapter: Chapter) -> Iterator[str]:
    """The second code cell is the setup cell, byte for byte."""
    code = chapter.cells("code")
    if len(code) < 2 or code[1][1].source != SETUP_CELL.read_text().rstrip("\n"):
        yield "the second code cell must be notebooks/_setup_cell.py, byte for byte"


def checks(chapter: Chapter) -> Iterator[str]:
    """The checks assert and write ``results.json``."""
    code = "\n".join(c.source for c in chapter.section("Checks") if c.cell_type == "code")
    if not re.search(r"^\s*assert ", code, flags=re.M):
        yield "Checks: expected at least one assert on a claim"
    if "results.json" not in code:
        yield "Checks: expected the values in output_dir/results.json"


def exercises(chapter: Chapter) -> Iterator[str]:
    """Stubs that run, and a notebook of solutions beside."""
    cells = chapter.section("Exercises")
    if not any(c.cell_type == "code" for c in cells):
        yield "Exercises: expected at least one stub, a code cell that runs as it is"
    solutions = chapter.path.parent / "solutions" / chapter.path.name
    if not any(f"solutions/{chapter.path.name}" in c.source for c in cells) or not solutions.is_file():
        yield f"Exercises: expected a link to solutions/{chapter.path.name}, and that file"


def sizes(chapter: Chapter) -> Iterator[str]:
    """Cells, lines and bytes."""
    count = len(chapter.book.cells)
    if count > MAX_CELLS:
        yield f"{count} cells: expected at most {MAX_CELLS}"
    lines = {i: len(c.source.splitlines()) for i, c in chapter.cells("code")}
    yield from (f"cell {i}: {n} lines of code, expected at most {MAX_LINES}" for i, n in lines.items() if n > MAX_LINES)
    if lines and median(lines.values()) > MEDIAN_LINES:
        yield f"the median code cell has {median(lines.values()):g} lines: expected at most {MEDIAN_LINES}"
    if (size := chapter.path.stat().st_size) > MAX_BYTES:
        yield f"{size} bytes: expected at most {MAX_BYTES}"


def portable(chapter: Chapter) -> Iterator[str]:
    """No path of one machine, no fixed GPU, no widgets but the core ones, no other notebook."""
    for i, cell in chapter.cells():
        if ABSOLUTE_PATH.search(cell.source + str(cell.get("outputs", ""))):
            yield f"cell {i}: an absolute path in its source or output"
        if cell.cell_type != "code":
            continue
        if HARD_CODED_CUDA.search(cell.source):
            yield f"cell {i}: a hard-coded 'cuda'; ask torch which device there is"
        if FOREIGN_WIDGETS.search(cell.source):
            yield f"cell {i}: only the core ipywidgets work everywhere"
        if OTHER_NOTEBOOK.search(cell.source):
            yield f"cell {i}: a chapter uses no other notebook; move what is shared into mrtutor"


def metadata(chapter: Chapter) -> Iterator[str]:
    """Kernel python3; nothing left behind by widgets or papermill."""
    meta = chapter.book.metadata
    kernel, language = meta.get("kernelspec", {}), meta.get("language_info", {})
    if kernel.get("name") != "python3" or "python" not in (kernel.get("language"), language.get("name")):
        yield "metadata: expected the kernelspec python3, language python"
    yield from (f"metadata: {key} must not be saved" for key in ("widgets", "papermill") if key in meta)
    yield from (f"cell {i}: saved by papermill" for i, c in chapter.cells() if "papermill" in c.metadata)
    yield from (f"cell {i}: parameters injected by papermill" for i, _ in chapter.tagged("injected-parameters"))


def pictures(chapter: Chapter) -> Iterator[str]:
    """Every picture in the text has alt text; every figure that a cell draws is read in the next cell."""
    for i, cell in chapter.cells("markdown"):
        if re.search(r"!\[\s*\]\(", cell.source) or re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", cell.source):
            yield f"cell {i}: a picture without alt text"
    for i, cell in chapter.cells("code"):
        drawn = any("image/png" in out.get("data", {}) for out in cell.outputs)
        if drawn and (i == len(chapter.book.cells) or chapter.book.cells[i].cell_type != "markdown"):
            yield f"cell {i}: a figure, but no sentence after it that reads it"


def executed(chapter: Chapter) -> Iterator[str]:
    """The committed outputs come from one run from top to bottom, without an unexpected error."""
    counts = [c.execution_count for _, c in chapter.cells("code")]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts {counts}: run `make notebooks`, which keeps the outputs of one whole run"
    for i, cell in chapter.cells("code"):
        failed = any(out.output_type == "error" for out in cell.outputs)
        if failed and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"cell {i}: its output is an error"


COMMON: tuple[Rule, ...] = (parameters, setup, sizes, portable, metadata, pictures)
RULES: tuple[Rule, ...] = (title, facts, sections, checks, exercises, executed, *COMMON)
