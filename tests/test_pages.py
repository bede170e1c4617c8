"""The pages PAPER.md and SCALE.md: every link leads somewhere, every command and option exists."""

import re
from pathlib import Path

import pytest

from mrtutor.data.public_layouts import LAYOUTS
from mrtutor.presets import PRESETS
from tests.commands import commands_in, unknown_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "notebooks/PAPER.md", ROOT / "notebooks/SCALE.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert targets and not [t for t in targets if not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_paths_and_modules_exist(page: Path) -> None:
    text = page.read_text()
    for module in re.findall(r"-m (mrtutor[\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    for path in re.findall(r"(?<![\w/])(?:notebooks|tests|data)/[\w/]+\.(?:yaml|py)", text):
        assert (ROOT / path).is_file(), path


def test_commands_know_their_options() -> None:
    text = PAGES[0].read_text()
    assert [name for name, _ in commands_in(text)] == ["prepare", "train", "pack"] and not unknown_options(text)
    assert re.search(r"--preset (\w+)", text)[1] in PRESETS
    assert all(f"`{name}`" in text or name in text for name in LAYOUTS)


def test_scale_multiplies_right() -> None:
    text = PAGES[1].read_text()
    joined, parts = 4 * 256 * 256, 88_000
    assert f"{joined:,}" in text and f"{parts:,}" in text
    assert f"= {100_000 * (joined + parts) / 1e9:.0f} GB" in text and f"; {100_000 * joined / 1e9:.0f} GB" in text
    assert f"{100_000 * 3.5 / 3600:.0f} hours" in text
