"""Binder: its packages are enough for its chapters, and its chapters fit into its memory.

Every module of a package that Binder does not install is hidden while a chapter runs. In CI the chapters run in the
smoke preset; `MRTUTOR_BINDER_PRESET=laptop` runs them with the shipped weights, as a visitor does (minutes).
"""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.notebooks.runner import FULL_LIMIT_S, ROOT, SMOKE_LIMIT_S, run_chapter

LIMIT_MIB = 2048  # what mybinder.org gives a session
CHAPTERS = [line for line in (ROOT / "binder/chapters.txt").read_text().splitlines() if line and line[0] != "#"]
PRESET = os.environ.get("MRTUTOR_BINDER_PRESET", "smoke")
HIDE = """
import os, sys

class Hidden:
    names = frozenset(os.environ["MRTUTOR_HIDDEN"].split())

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r} on Binder", name=name)

sys.meta_path.insert(0, Hidden())
"""


def binder_packages() -> set[str]:
    """Names of all packages that `binder/postBuild` and `binder/environment.yml` bring, by what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["notebooks"]]
    found: set[str] = {"mrtutor", "pip"}
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        extras = one.extras or {""}
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            needs = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # a CUDA library, or for another system
            continue
        chosen = [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)]
        for need in chosen:
            need.marker = None
        todo += chosen
    return found


def test_the_list_is_slim_and_whole() -> None:
    packages = binder_packages()
    assert {"torch", "diffusers", "transformers", "jupyterlab", "ipykernel", "nilearn"} <= packages
    assert not {"pytest", "ruff", "pre-commit", "torchvision"} & packages
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    small = {name for name in packages if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert small - locked <= {"mrtutor", "pip", "setuptools", "uv"}, "not in the lock, so of any version"


def test_torch_comes_without_cuda_and_pip_leaves_it() -> None:
    listed = yaml.safe_load((ROOT / "binder/environment.yml").read_text())["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    range_of_torch = next(line for line in project["dependencies"] if line.startswith("torch>"))
    assert f"pytorch-cpu{range_of_torch.removeprefix('torch')}" in listed
    script = (ROOT / "binder/postBuild").read_text()
    assert "grep -v '^torch=='" in script and "-e '.[notebooks]'" in script
    assert not re.search(r"install.*torch==", script)


def test_the_chapters_exist_and_one_comes_first() -> None:
    assert CHAPTERS[0] == "00_quickstart" and len(set(CHAPTERS)) == len(CHAPTERS)
    assert all((ROOT / f"notebooks/{name}.ipynb").is_file() for name in CHAPTERS)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_with_binders_packages_in_binders_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = binder_packages()
    modules = packages_distributions()
    hidden = {m for m, owners in modules.items() if not {canonicalize_name(o) for o in owners} & packages}
    assert {"pytest", "xdist"} <= hidden and not {"torch", "numpy", "papermill"} & hidden
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hide"))
    monkeypatch.setenv("MRTUTOR_HIDDEN", " ".join(sorted(hidden)))
    blind = subprocess.run([sys.executable, "-c", "import pytest"], capture_output=True, text=True)
    assert "No module named 'pytest' on Binder" in blind.stderr
    parameters = {"preset": PRESET, "output_dir": str(tmp_path / "out")}
    limit = SMOKE_LIMIT_S if PRESET == "smoke" else FULL_LIMIT_S
    run = run_chapter(ROOT / f"notebooks/{name}.ipynb", tmp_path / "copy.ipynb", parameters, limit)
    print(f"{run.name} ({PRESET}): {run.seconds:.0f} s, peak {run.peak_mib:.0f} MiB")
    assert run.error is None, run.error
    assert run.peak_mib < LIMIT_MIB
