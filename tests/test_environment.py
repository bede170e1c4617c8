"""No torchvision is needed; a broken one is named before a library fails over it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FACE = ("IDH", "Cohort", "MRPipeline", "Modality", "load_pretrained", "prompt")


def _python(code: str, *path: Path) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter whose path starts with the given folders."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a torchvision as torch sees one that was built for another torch."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    return tmp_path


@pytest.mark.parametrize("name", ["load_pretrained", "MRPipeline"])
def test_a_broken_torchvision_is_named_with_its_remedy(broken: Path, name: str) -> None:
    done = _python(f"import mrtutor; mrtutor.{name}", broken)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mrtutor._environment.BrokenTorchvisionError: Found torchvision")
    for part in ("operator torchvision::nms does not exist", str(broken), "pip uninstall torchvision", "torch 2."):
        assert part in last


def test_the_light_names_work_beside_a_broken_torchvision(broken: Path) -> None:
    done = _python("from mrtutor import IDH, Modality, prompt; print(prompt('t1ce', 'wt'))", broken)
    assert done.stdout.strip() == "A T1Gd modality MR image, type of IDH wild glioma", done.stderr


def test_a_working_torchvision_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("__version__ = '0.0'\n")
    done = _python("from mrtutor._environment import check_torchvision; check_torchvision(); print('fine')", tmp_path)
    assert done.stdout.strip() == "fine", done.stderr


def test_the_whole_face_imports_without_torchvision() -> None:
    if importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is installed here; CI has none")
    code = f"import mrtutor, sys; [getattr(mrtutor, n) for n in {FACE}]; print('torchvision' in sys.modules)"
    done = _python(code)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(not os.environ.get("CI"), reason="only CI promises an environment made from the lock")
def test_ci_has_no_torchvision() -> None:
    assert importlib.util.find_spec("torchvision") is None


def test_import_alone_loads_nothing_heavy() -> None:
    done = _python("import mrtutor, sys; print(sorted({'torch', 'diffusers', 'numpy', 'cv2'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_name_lists_the_face() -> None:
    import mrtutor

    with pytest.raises(AttributeError, match=r"no attribute 'Modalty'.*Modality"):
        _ = mrtutor.Modalty


def test_every_name_of_the_face_is_listed() -> None:
    import mrtutor

    assert set(FACE) <= set(mrtutor.__all__) <= set(dir(mrtutor))
