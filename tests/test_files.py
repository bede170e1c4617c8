"""Files: all or nothing, also on a full disk, without permission, or after Ctrl-C."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mrtutor import files

ROOT = Path(__file__).resolve().parents[1]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_makes_parents(tmp_path):
    files.write_text(tmp_path / "a/b/text.txt", "ärger\n")
    assert (tmp_path / "a/b/text.txt").read_text(encoding="utf-8") == "ärger\n"
    assert names(tmp_path / "a/b") == ["text.txt"]


def test_lines_end_in_lf_on_windows_too(tmp_path, monkeypatch):
    def as_on_windows(path, text, encoding=None, errors=None, newline=None):
        return path.write_bytes(text.replace("\n", newline or "\r\n").encode(encoding))

    monkeypatch.setattr(Path, "write_text", as_on_windows)
    files.write_text(tmp_path / "SHA256SUMS", "a\nb\n")
    assert (tmp_path / "SHA256SUMS").read_bytes() == b"a\nb\n"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_no_checkout_turns_line_ends_of_data_and_scripts_into_crlf():
    names = ["data/pretrained/laptop/SHA256SUMS", "data/results/weights.json", ".ci/run", "binder/postBuild", "a/b.sh"]
    asked = ["git", "-c", "core.autocrlf=true", "check-attr", "text", "eol", "--", *names]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"{name}: text: unset" in said for name in names[:2])
    assert all(f"{name}: eol: lf" in said for name in names[2:])


def test_permissions_are_those_of_open(tmp_path):
    (tmp_path / "plain").touch()
    files.write_text(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_temporary_keeps_suffixes(tmp_path):
    with files.atomic_path(tmp_path / "image.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path


@pytest.mark.parametrize(
    "trouble", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()]
)
@pytest.mark.parametrize("existing", [True, False])
def test_trouble_while_writing_leaves_nothing(tmp_path, trouble, existing):
    final = tmp_path / "file.txt"
    if existing:
        final.write_text("old")
    with pytest.raises(type(trouble)), files.atomic_path(final) as temporary:
        temporary.write_text("half")
        raise trouble
    assert names(tmp_path) == (["file.txt"] if existing else [])
    assert not existing or final.read_text() == "old"


@pytest.mark.parametrize("where", [(tempfile, "mkstemp"), (os, "replace")])
def test_no_permission(tmp_path, monkeypatch, where):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "file.txt").write_text("old")
    monkeypatch.setattr(*where, refuse)
    with pytest.raises(PermissionError):
        files.write_text(tmp_path / "file.txt", "new")
    assert names(tmp_path) == ["file.txt"]
    assert (tmp_path / "file.txt").read_text() == "old"


def test_kill_leaves_no_final_name(tmp_path):
    code = (
        "import os, sys; from mrtutor.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file.txt")], cwd=os.path.dirname(files.__file__) + "/.."
    )
    assert done.returncode == -9
    assert not (tmp_path / "file.txt").exists()


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"value": float("nan")})
    assert names(tmp_path) == []
    files.write_json(tmp_path / "x.json", {"value": 1.5})
    assert json.loads((tmp_path / "x.json").read_text()) == {"value": 1.5}


def test_sha256_of_known_text(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert files.sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub/weights.bin").write_bytes(bytes(range(256)))
    files.write_checksums(tmp_path)
    return tmp_path


def test_checksums_agree(weights):
    files.verify_checksums(weights)
    assert "sub/weights.bin" in (weights / files.CHECKSUMS).read_text()


def test_truncated_altered_and_missing(weights):
    whole = (weights / "sub/weights.bin").read_bytes()
    for wrong in (whole[:100], b"\x01" + whole[1:]):
        (weights / "sub/weights.bin").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"weights\.bin does not match"):
            files.verify_checksums(weights)
    (weights / "sub/weights.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.bin is missing"):
        files.verify_checksums(weights)
    (weights / files.CHECKSUMS).unlink()
    with pytest.raises(FileNotFoundError, match="No SHA256SUMS"):
        files.verify_checksums(weights)


def test_replace_folder_swaps_or_leaves(tmp_path):
    final = tmp_path / "run"
    for text in ("first", "second"):
        with files.replace_folder(final) as temporary:
            (temporary / "a.txt").write_text(text)
        assert (final / "a.txt").read_text() == text
    with pytest.raises(KeyboardInterrupt), files.replace_folder(final) as temporary:
        (temporary / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert (final / "a.txt").read_text() == "second"
    assert names(tmp_path) == ["run"]


def test_replace_folder_puts_the_old_one_back(tmp_path, monkeypatch):
    """The second of its two renames fails: a virus scanner, a full quota."""
    final, rename, calls = tmp_path / "run", os.replace, []
    final.mkdir()
    (final / "a.txt").write_text("old")

    def refuse_the_second(*names):
        calls.append(names)
        if len(calls) == 2:
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(*names)

    monkeypatch.setattr(os, "replace", refuse_the_second)
    with pytest.raises(PermissionError), files.replace_folder(final) as temporary:
        (temporary / "a.txt").write_text("new")
    assert (final / "a.txt").read_text() == "old" and names(tmp_path) == ["run"]


def test_replace_folder_restores_what_a_kill_left_aside(tmp_path):
    """Killed between the two renames: the next call, even one that fails, puts the old folder back."""
    final = tmp_path / "run"
    final.mkdir()
    (final / "a.txt").write_text("old")
    code = (
        "import os, sys; from mrtutor import files; rename = os.replace\n"
        "os.replace = lambda *names: (rename(*names), os.kill(os.getpid(), 9))\n"
        "with files.replace_folder(sys.argv[1]): pass"
    )
    assert subprocess.run([sys.executable, "-c", code, str(final)], cwd=ROOT).returncode == -9
    assert not final.exists()
    with pytest.raises(KeyboardInterrupt), files.replace_folder(final):
        raise KeyboardInterrupt
    assert (final / "a.txt").read_text() == "old"
    with files.replace_folder(final) as temporary:
        (temporary / "a.txt").write_text("new")
    assert (final / "a.txt").read_text() == "new" and ".run-old" not in names(tmp_path)
