"""What a report says of the code that wrote it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mrtutor.metrics import record


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_changed_package_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "package" / "module.py"
    module.parent.mkdir()
    module.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "PACKAGE", module.parent)
    clean = record.commit()
    (tmp_path / "report.json").write_text("{}")  # what a run writes does not count
    assert record.commit() == clean and clean.isalnum()
    module.write_text("a = 2\n")
    assert record.commit() == f"{clean}-dirty"


def test_outside_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert record.commit() == "unknown"
