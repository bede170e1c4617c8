"""The setup cell on a machine like Colab: a real pip, no network, and everything preinstalled stays as it was.

A virtual environment without anything of the course gets hollow packages with Colab's names, versions and files, among
them a torch of a CUDA build and a `google.colab`. An index on disk offers what is missing, and, as a temptation, newer
versions of everything that must not move. Then the setup cell of the chapters runs in it, as Colab runs it.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
CELL = (ROOT / "notebooks/_setup_cell.py").read_text()
MISSING = {"torchio": "1.0.0", "nilearn": "0.13.0", "nibabel": "5.3.2", "torchmetrics": "1.8.2"}
COLAB = {  # what a runtime brings along; the numbers are those of a build of 2026, only their being there matters
    "torch": "2.9.0+cu126",
    "torchvision": "0.24.0+cu126",
    "torchaudio": "2.9.0+cu126",
    "numpy": "2.0.2",
    "scipy": "1.16.3",
    "pandas": "2.2.2",
    "diffusers": "0.35.2",
    "transformers": "5.0.0",
    "accelerate": "1.11.0",
    "safetensors": "0.6.2",
    "tokenizers": "0.22.1",
    "opencv-python": "4.12.0.88",
    "pillow": "11.3.0",
    "scikit-image": "0.25.2",
    "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "tensorboard": "2.19.0",
    "ipywidgets": "8.1.7",
    "tqdm": "4.67.1",
    "typer": "0.20.0",
}
MODULES = {"opencv-python": "cv2", "pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
NEVER = ("torch", "torchvision", "torchaudio", "numpy")  # `mrtutor._environment.KEEP`


def package_files(name: str, version: str, needs: list[str]) -> dict[str, str]:
    """A hollow package: one module and the metadata of an installed distribution."""
    module, info = MODULES.get(name, name.replace("-", "_")), f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}")
    return files | {f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"}


def offer(index: Path, name: str, version: str, needs: list[str]) -> None:
    """Put a wheel into an index on disk."""
    index.mkdir(exist_ok=True)
    with zipfile.ZipFile(index / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in package_files(name, version, needs).items():
            wheel.writestr(path, text)


class Runtime:
    """A fresh Python with Colab's packages, in `home`; `content` is its working folder."""

    def __init__(self, home: Path, installed: Mapping[str, str]):
        self.home, self.content, self.index = home, home / "content", home / "index"
        venv.create(home / "python", symlinks=True)
        self.python = home / "python/bin/python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = home / "python/lib" / version / "site-packages"
        (self.site / "google/colab").mkdir(parents=True)
        (self.site / "google/colab/__init__.py").write_text("# stands for Colab's own package\n")
        for name in ("pip", "packaging"):  # this Python's own: making a new pip takes longer than the test
            (self.site / name).symlink_to(Path(find_spec(name).origin).parent)
        for name, number in installed.items():
            for path, text in package_files(name, number, []).items():
                (self.site / path).parent.mkdir(parents=True, exist_ok=True)
                (self.site / path).write_text(text)
            offer(self.index, name, "99.0", [])  # the temptation
        for name, number in MISSING.items():
            offer(self.index, name, number, ["torch>=2.6", "numpy>=2"])
        self.content.mkdir()
        course = self.content / "mrtutor-course"  # as `git clone` leaves it
        shutil.copytree(ROOT / "mrtutor", course / "mrtutor", ignore=shutil.ignore_patterns("__pycache__", ".tmp-*"))
        shutil.copy(ROOT / "pyproject.toml", course)

    def run(self, code: str) -> subprocess.CompletedProcess:
        """Run code as a cell; pip sees the index on disk and no network."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PIP_NO_COMPILE": "1"}  # a cache file is no change
        command = [str(self.python), "-c", code]
        return subprocess.run(command, cwd=self.content, env=environment, capture_output=True, text=True, timeout=300)

    def versions(self) -> dict[str, str]:
        """Version of each distribution, by name."""
        found = (re.fullmatch(r"(.+?)-([^-]+)\.dist-info", path.name) for path in self.site.glob("*.dist-info"))
        return {match[1].replace("_", "-"): match[2] for match in found}

    def files(self) -> dict[str, bytes]:
        """Content of every file, by path; links are left out."""
        return {
            str(path.relative_to(self.site)): path.read_bytes()
            for path in self.site.rglob("*")
            if path.is_file() and not {"pip", "packaging"} & set(path.relative_to(self.site).parts)
        }


def test_colabs_own_packages_stay_to_the_last_byte(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, COLAB)
    before = runtime.files()
    done = runtime.run(CELL + "\nprint(missing)\nprint(os.getcwd())")
    assert done.returncode == 0, done.stderr
    after = runtime.files()
    assert {path: after.get(path) for path in before} == before
    assert runtime.versions() == COLAB | MISSING
    assert done.stdout.splitlines()[-1] == str(runtime.content / "mrtutor-course")
    names = {re.match(r"[a-z]+", one)[0] for one in json.loads(done.stdout.splitlines()[-2].replace("'", '"'))}
    assert names == set(MISSING)
    again = runtime.run(CELL + "\nprint(missing)")
    assert again.stdout.splitlines()[-1] == "[]" and runtime.files() == after


def test_a_package_out_of_range_moves_alone(tmp_path: Path) -> None:
    """An older transformers must go up, and takes neither torch nor numpy nor torchvision with it."""
    runtime = Runtime(tmp_path, COLAB | {"transformers": "4.57.1"})
    (runtime.index / "transformers-99.0-py3-none-any.whl").unlink()
    offer(runtime.index, "transformers", "5.1.0", ["numpy>=1.17", "torch>=2.2", "tokenizers>=0.21"])
    done = runtime.run(CELL)
    assert done.returncode == 0, done.stderr
    assert runtime.versions() == COLAB | MISSING | {"transformers": "5.1.0"}


def test_a_package_that_needs_another_torch_is_refused_not_obeyed(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, COLAB)
    (runtime.index / "torchio-1.0.0-py3-none-any.whl").unlink()
    offer(runtime.index, "torchio", "1.0.0", ["torch>=3"])
    before = runtime.versions()
    done = runtime.run(CELL)
    assert done.returncode != 0
    assert "RuntimeError: pip could not install" in done.stderr and "torch==2.9.0+cu126" in done.stderr
    assert {name: runtime.versions()[name] for name in NEVER} == {name: before[name] for name in NEVER}


def test_the_mock_runtime_knows_every_dependency() -> None:
    """Each is either preinstalled here or missing here: a new dependency must be thought about."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[A-Za-z0-9-]+", line)[0] for line in wanted} - {"opencv-python-headless"}
    assert names <= COLAB.keys() | MISSING.keys()
    assert not names & {"torchvision", "torchaudio"}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), ids=lambda p: p.stem)
def test_no_chapter_installs_or_names_a_device_by_itself(path: Path) -> None:
    """The setup cell alone calls pip, and nothing needs Colab to be there."""
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    others = "\n".join(source for source in code if source.strip() != CELL.strip())
    assert not re.search(r"pip install|google\.colab|apt-get|!git clone", others)
    assert sum(source.strip() == CELL.strip() for source in code) == 1
