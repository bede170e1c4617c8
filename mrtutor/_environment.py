"""A look at what is installed, before a library fails with a riddle. Standard library only, until something is amiss.

The course needs no torchvision. diffusers and transformers use one where they find it, though, and one made for
another torch fails while they import it ("operator torchvision::nms does not exist"), far from the cause.
"""

import importlib
import subprocess
import sys
import tempfile
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
KEEP = ("torch", "torchvision", "torchaudio", "numpy")  # a hosted notebook's own builds fit its GPU: never touched


class BrokenTorchvisionError(ImportError):
    """An installed torchvision cannot be imported."""


@cache
def check_torchvision() -> None:
    """Pass where torchvision is absent or works; nothing is imported where it is absent.

    Raises:
        BrokenTorchvisionError: it is installed and fails on import; the message says what was found and what to do.
    """
    spec = find_spec("torchvision")
    if spec is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a mismatched build raises RuntimeError, OSError, AttributeError or ImportError
        raise BrokenTorchvisionError(
            f"Found torchvision {_version('torchvision') or 'of unknown version'} in {spec.origin}, which does not "
            f"work with torch {_version('torch')} ({type(error).__name__}: {error}). mrtutor needs no torchvision, "
            "but diffusers and transformers fail on a broken one. Remove it with `pip uninstall torchvision`, or "
            "install the torchvision that was made for your torch."
        ) from error


def install_missing(project: Path = PROJECT) -> list[str]:
    """Install what the course needs and this Python lacks, for notebooks on a hosted machine such as Colab.

    torch, torchvision, torchaudio and numpy stay as they are where they are installed. Where nothing is missing,
    nothing is run.

    Args:
        project: the course's ``pyproject.toml``; its dependencies are looked at.

    Returns:
        The requirements that were missing, now installed.

    Raises:
        RuntimeError: pip failed; its own words stand above the message.
    """
    missing = missing_requirements(project)
    if not missing:
        return []
    print(f"Installing {', '.join(missing)} …", flush=True)
    kept = [f"{name}=={found}" for name in KEEP if (found := _version(name))]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(kept) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *missing]
        if subprocess.run(command).returncode:
            raise RuntimeError(
                f"pip could not install {', '.join(missing)} beside {', '.join(kept)}: see its message above; "
                "a fresh runtime, or `make run` on your own machine, is the way round."
            )
    importlib.invalidate_caches()
    return missing


def missing_requirements(project: Path = PROJECT) -> list[str]:
    """Dependencies in ``pyproject.toml`` that are absent, or outside their range; [] for an installed wheel."""
    if not project.is_file():
        return []
    from packaging.requirements import Requirement  # comes with every Jupyter kernel

    wanted = [Requirement(line) for line in tomllib.loads(project.read_text())["project"]["dependencies"]]
    return [str(one) for one in wanted if not _satisfied(one.name, one.specifier)]


def _satisfied(name: str, specifier: object) -> bool:
    if name == "opencv-python-headless" and find_spec("cv2"):
        return True  # any of OpenCV's four packages will do; two of them overwrite each other
    found = _version(name)
    return found is not None and specifier.contains(found, prereleases=True)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
