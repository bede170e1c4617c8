"""Facts about the repository's files that a fresh machine depends on."""

import importlib
import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
SHIPPED = [
    "pyproject.toml",
    "requirements.lock",
    "environment.yml",
    "Makefile",
    ".ci/run",
    ".pre-commit-config.yaml",
    "binder/environment.yml",
    "binder/postBuild",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _pins() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_lock_has_exact_versions_with_torch_first() -> None:
    lines = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "torch==2.13.0"
    loose = [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert not loose, f"not an exact public version: {loose}"
    names = [line.split("==")[0] for line in lines]
    assert names[1:] == sorted(names[1:]) and len(set(names)) == len(names)


def test_lock_holds_no_torchvision_and_no_opencv_with_windows() -> None:
    assert not {"torchvision", "timm", "lpips", "torch-fidelity", "opencv-python"} & set(_pins())


def _requirements() -> list[Requirement]:
    extras = [one for group in PROJECT["optional-dependencies"].values() for one in group]
    return [Requirement(one) for one in PROJECT["dependencies"] + extras if not one.startswith("mrtutor[")]


@pytest.mark.parametrize("requirement", _requirements(), ids=str)
def test_lock_satisfies_every_range_of_pyproject(requirement: Requirement) -> None:
    pins = _pins()
    name = canonicalize_name(requirement.name)
    assert name in pins, f"{name} is required by pyproject.toml but missing in requirements.lock"
    assert requirement.specifier.contains(pins[name])


def test_every_requirement_of_a_locked_package_is_locked() -> None:
    from importlib.metadata import PackageNotFoundError, requires

    pins, missing = _pins(), []
    for name in pins:
        try:
            needed = [Requirement(one) for one in requires(name) or []]
        except PackageNotFoundError:  # an environment made from the ranges instead of the lock
            continue
        missing += [
            f"{name} needs {one.name}"
            for one in needed
            if (one.marker is None or one.marker.evaluate({"extra": ""}))
            and canonicalize_name(one.name) not in pins
            and not one.name.startswith(("nvidia-", "cuda-", "triton"))  # torch brings these along on its CUDA builds
        ]
    assert not missing


@pytest.mark.parametrize("name", SHIPPED)
def test_no_host_and_no_local_path(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|file:|--index-url|--find-links|--extra-index", text)
    assert not re.search(r"(?<![\w.$}])/(home|root|opt|tmp|Users|mnt)/", text)


@pytest.mark.parametrize("name", ["environment.yml", "binder/environment.yml"])
def test_every_line_of_the_conda_files_says_what_it_is_for(name: str) -> None:
    text = (ROOT / name).read_text()
    silent = [line for line in text.splitlines() if line.strip() and not re.search(r"#\s*\S", line)]
    assert not silent
    assert "python=3.11" in yaml.safe_load(text)["dependencies"]


def test_conda_installs_torch_before_the_lock() -> None:
    packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(one["pip"] for one in packages if isinstance(one, dict))
    assert pip == ["torch==2.13.0", "-r requirements.lock", "-e ."]


def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make (\S+)", shown.stdout, flags=re.M))
    declared = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)[1].split())
    assert listed == declared
    assert {"help", "run", "test", "simulate", "train", "notebooks", "lint", "clean"} <= listed
    assert {"studio", "student", "instructor"} <= listed


def test_make_train_goes_on_where_it_was_cut() -> None:
    shown = subprocess.run(["make", "-n", "train"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"mrtutor train all .*--resume$", shown.stdout, flags=re.M)


def test_make_refuses_a_python_outside_the_range(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    made = subprocess.run(["make", f"PYTHON={old}", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode != 0
    assert "Expected Python 3.11 to 3.13, got 3.9" in made.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", [".ci/run", "binder/postBuild"])
def test_scripts_are_executable_and_parse(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_ci_ends_in_make_test() -> None:
    assert (ROOT / ".ci/run").read_text().rstrip().splitlines()[-1] == "exec make test"
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["locked"]["steps"]]
    assert any("bash .ci/run" in command for command in commands)


def test_console_script_exists() -> None:
    module, name = PROJECT["scripts"]["mrtutor"].split(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_one_version_everywhere() -> None:
    from mrtutor import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__ == version("mrtutor")


def test_readme_names_the_two_commands_and_its_pictures_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make run" in text and "make test" in text
    for alt, target in re.findall(r"!\[(.*?)\]\(([^)]+)\)", text):
        assert alt, f"picture {target} has no alt text"
        assert (ROOT / target).is_file(), f"README shows {target}, which is missing"


def test_readme_leaves_no_number_unmeasured() -> None:
    assert "TODO" not in (ROOT / "README.md").read_text()
