"""The order of the package: nothing imports what comes after it, and the face loads fast."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOTTOM = ("vocabulary", "presets", "files", "figures", "plot")
ORDER = (*BOTTOM, "simulate", "data", "models", "pipeline", "training", "metrics", "apps", "cli")


def test_imports_point_one_way() -> None:
    for path in sorted((ROOT / "mrtutor").rglob("*.py")):
        here = path.relative_to(ROOT / "mrtutor").with_suffix("").parts[0]
        if here not in ORDER:  # __init__ and __main__ see everything
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            parts = module.split(".")
            assert parts[0] != "experiments", path
            if parts[0] == "mrtutor" and len(parts) > 1:
                allowed = here in BOTTOM and parts[1] in BOTTOM
                assert allowed or ORDER.index(parts[1]) <= ORDER.index(here), f"{path} imports {module}"


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*[m for m in sys.modules if m.startswith('mrtutor') or m == 'torch'])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def test_importing_the_face_needs_no_torch() -> None:
    assert "torch" not in _loaded("import mrtutor")


def test_loading_weights_pulls_few_modules() -> None:
    packages = _loaded("from mrtutor.pipeline.weights import load_pretrained")
    assert not any(name.startswith(("mrtutor.training", "mrtutor.metrics", "mrtutor.apps")) for name in packages)
