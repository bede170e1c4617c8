"""No torchvision is needed; a broken one is named before a library fails over it."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mrtutor import _environment

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A pyproject.toml with one dependency that is here, one that is absent, and one of a version yet to come."""
    text = '[project]\ndependencies = ["packaging>=20", "no-such-package-of-mrtutor>=1", "numpy>=99"]\n'
    (tmp_path / "pyproject.toml").write_text(text)
    return tmp_path / "pyproject.toml"


def test_nothing_is_installed_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment.subprocess, "run", lambda *a, **k: pytest.fail("pip was called"))
    assert _environment.install_missing() == []


def test_only_what_is_missing_is_installed_and_torch_and_numpy_stay(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def pip(command: list[str]) -> subprocess.CompletedProcess:
        at = command.index("--constraint")
        seen["kept"] = Path(command[at + 1]).read_text().split()
        seen["asked"] = command[at + 2 :]
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(_environment.subprocess, "run", pip)
    assert _environment.install_missing(project) == ["no-such-package-of-mrtutor>=1", "numpy>=99"]
    assert seen["asked"] == ["no-such-package-of-mrtutor>=1", "numpy>=99"]
    assert {f"{name}=={version(name)}" for name in ("torch", "numpy")} <= set(seen["kept"])


def test_a_failed_installation_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_environment.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    with pytest.raises(RuntimeError, match="could not install no-such-package-of-mrtutor"):
        _environment.install_missing(project)


def test_an_installed_wheel_has_nothing_to_look_at(tmp_path: Path) -> None:
    assert _environment.missing_requirements(tmp_path / "pyproject.toml") == []


def _setup(folder: Path, path: tuple[Path, ...] = (ROOT,), **variables: str) -> subprocess.CompletedProcess:
    """Run the setup cell of every chapter in a folder, then print where it ended."""
    code = (ROOT / "notebooks/_setup_cell.py").read_text() + "\nprint(os.getcwd())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | variables
    command = [sys.executable, "-S", "-c", code] if not path else [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)


def test_the_setup_cell_goes_to_the_root_of_the_course() -> None:
    done = _setup(ROOT / "tests/notebooks")
    assert done.stdout.strip() == str(ROOT), done.stderr


def test_the_setup_cell_leaves_a_folder_elsewhere_alone(tmp_path: Path) -> None:
    done = _setup(tmp_path)
    assert done.stdout.strip() == str(tmp_path), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_notebook_that_came_alone_asks_for_the_address(tmp_path: Path) -> None:
    done = _setup(tmp_path, path=(), MRTUTOR_REPOSITORY="")  # -S hides the installed package
    assert done.stderr.strip().splitlines()[-1].startswith("FileNotFoundError: Put `%env MRTUTOR_REPOSITORY=")


def test_a_notebook_that_came_alone_fetches_the_course_once(tmp_path: Path) -> None:
    (tmp_path / "origin/mrtutor").mkdir(parents=True)
    (tmp_path / "origin/mrtutor/__init__.py").touch()
    (tmp_path / "origin/mrtutor/_environment.py").write_text("def install_missing(): print('looked')\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path / "origin")]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "course"]):
        subprocess.run([*git, *words], check=True)
    here = tmp_path / "content"
    here.mkdir()
    for _ in range(2):  # the second time the clone is there already
        done = _setup(here, path=(), MRTUTOR_REPOSITORY=f"file://{tmp_path}/origin")
        assert done.stdout.split() == ["looked", str(here / "mrtutor-course")], done.stderr
