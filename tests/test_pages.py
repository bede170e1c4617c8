"""Pages: fresh figures, no measured number typed by hand, links that lead somewhere, a README that is read."""

import re
from pathlib import Path

import nbformat
import pytest

from experiments.chapters import chapters
from experiments.pages import PAGES, page_text

ROOT = Path(__file__).resolve().parents[1]
# What looks measured: two decimals or more, or a number with a unit of measurement of ours.
MEASURED = re.compile(r"(?<![\w.])\d*\.\d{2,}\b|(?<![\w.])\d+(?:\.\d+)? (?:dB|MiB|GiB|seconds|s)\b")
SOURCE = re.compile(
    r"paper|theirs|Python|Table \d|§|Eq\.|Fig\.|et al\.|19\d\d|20\d\d|exact|default|by definition|literature",
    flags=re.I,
)
PRINTED = (
    r"<!-- table \w+ -->.*?<!-- /table -->",
    r"<!-- f [^>]+ -->.*?<!-- /f -->",
    r"```.*?```",
    r"`[^`\n]*`",
    r"\$\$.*?\$\$",
    r"\$[^$\n]*\$",
    r"\]\([^)]*\)",
    r"https?://\S+",
)


def typed_numbers(text: str) -> list[str]:
    """Sentences and table rows with a number that looks measured, is not printed by a script and names no source."""
    for pattern in PRINTED:
        text = re.sub(pattern, " ", text, flags=re.S)
    pieces = re.split(r"\n\s*\n|\n(?=[|\-#])|(?<=[.?!])\s+(?=[A-Z])", text)
    pieces = [row for piece in pieces for row in ([piece] if "|" in piece else re.split(r"(?<=[.?!])\s+", piece))]
    return [" ".join(piece.split()) for piece in pieces if MEASURED.search(piece) and not SOURCE.search(piece)]


def test_the_rule_sees_a_typed_number() -> None:
    assert typed_numbers("The distance is 3.30 for ours.")
    assert not typed_numbers("The paper reports 41.35. Ours: <!-- f a b c -->3.30<!-- /f --> and `x = 0.25`.")


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_printed_from_the_figures(name: str) -> None:
    old, new = page_text(name)
    assert old == new, f"run `make pages`: {name} is stale"
    assert typed_numbers(old) == []


@pytest.mark.parametrize("path", chapters(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_measured_number_is_typed_in_a_chapter(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    typed = [found for cell in cells if cell.cell_type == "markdown" for found in typed_numbers(cell.source)]
    assert typed == []


@pytest.mark.parametrize("name", [*PAGES, *(p.relative_to(ROOT).as_posix() for p in chapters())])
def test_local_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(
            cell.source for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "markdown"
        )
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http", "#", "attachment:")):
            assert (path.parent / link.split("#")[0]).exists(), f"{name} links to {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700
