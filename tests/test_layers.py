"""Imports point one way: see LAYERS, from the bottom up."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrtutor"
LAYERS = [
    {"vocabulary", "files", "lock", "presets", "_environment", "precision"},
    {"data"},
    {"models"},
    {"training", "sampling"},
    {"metrics", "baselines"},
    {"study", "ui"},
    {"cli", "cli_models", "cli_weights", "__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """First part below mrtutor of every import, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "mrtutor" else [f"mrtutor.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mrtutor.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    mine = LEVEL[part(path)]
    wrong = {name for name in imports(ast.parse(path.read_text())) if LEVEL.get(name, -1) > mine}
    assert not wrong, f"{path.name} imports {wrong}, which stand above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 260, "split it: a file has one reason to exist"


def test_the_linter_sees_an_upward_import():
    assert imports(ast.parse("def f():\n    from mrtutor.cli import app")) == {"cli"}
    assert LEVEL["cli"] > LEVEL["data"]
