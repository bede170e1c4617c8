"""Writing that is all or nothing, and reading that is checked.

Every file of the course is written to a temporary name in its own folder and then renamed, so that a
half-written file never bears the final name: not after Ctrl-C, a full disk or a kill.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

CHECKSUMS = "SHA256SUMS"
DATA_VARIABLE = "MRTUTOR_DATA"


def data_root() -> Path:
    """The course's `data` folder, or the one that the environment variable ``MRTUTOR_DATA`` names."""
    if chosen := os.environ.get(DATA_VARIABLE):
        return Path(chosen)
    package = Path(__file__).resolve().parent
    clone = package.parent / "data"
    return clone if clone.is_dir() else package / "course_data"  # a wheel brings it inside the package


@contextmanager
def locked(path: str | Path, wait_seconds: float = -1) -> Iterator[None]:
    """Hold the lock file `path` for the block; the operating system frees it when its holder dies.

    The file stays there. Another holder is waited for, -1 for as long as it takes; then it is a BlockingIOError.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=wait_seconds):
            yield
    except Timeout as error:
        raise BlockingIOError(f"{path} is in use by another process: wait for it, or choose another folder.") from error


@contextmanager
def atomic_path(final: str | Path) -> Iterator[Path]:
    """Give the path of a new file beside ``final``; rename it to ``final`` only if the block succeeds.

    Otherwise the new file is removed and ``final`` is untouched. The temporary name keeps the suffixes of ``final``,
    for writers that choose a format by suffix.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".tmp-{uuid4().hex}{''.join(final.suffixes)}")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def writable_folder(path: str | Path) -> Path:
    """Make a folder and try whether it can be written to, before any work is done for it."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"Expected a folder for the output, got the file {error.filename}: choose another.") from error
    tempfile.TemporaryFile(dir=path).close()
    return Path(path)


def write_text(final: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8, lines end in LF on every system) atomically."""
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(final: str | Path, value: object) -> None:
    """Write ``value`` as indented JSON atomically; NaN and infinity are refused."""
    write_text(final, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: str | Path) -> None:
    """Write ``SHA256SUMS`` (the format of ``sha256sum``) over all files below ``folder``."""
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    write_text(folder / CHECKSUMS, "".join(f"{sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files))


def verify_checksums(folder: str | Path) -> None:
    """Compare every file with ``SHA256SUMS``.

    FileNotFoundError: one is missing. ValueError: one was altered, or a weight or a config was added.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS).is_file():
        raise FileNotFoundError(f"No {CHECKSUMS} in {folder}: expected a folder of weights as shipped or saved.")
    lines = (folder / CHECKSUMS).read_text().splitlines()
    listed = {folder / name: expected for expected, name in (line.split("  ", 1) for line in lines)}
    if added := [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json") and path not in listed]:
        raise ValueError(f"{added[0]} is not in {CHECKSUMS}: restore the folder (git checkout).")
    for path, expected in listed.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: restore it (git checkout) or download the weights again.")
        if sha256(path) != expected:
            raise ValueError(
                f"{path} does not match its SHA-256 in {CHECKSUMS} ({path.stat().st_size} bytes on disk): "
                "it was truncated or altered; restore it (git checkout) or download the weights again."
            )


@contextmanager
def replace_folder(final: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``final``; swap it in for ``final`` only if the block succeeds.

    A folder cannot be renamed onto a full one, so the old one steps aside first, to ``.NAME-old``. A kill at that very
    moment leaves it there, and the next call puts it back.
    """
    final = Path(final)
    old, temporary = final.with_name(f".{final.name}-old"), final.with_name(f".tmp-{uuid4().hex}")
    temporary.mkdir(parents=True)
    _put_back(old, final)
    try:
        yield temporary
        if final.exists():
            os.replace(final, old)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(old, final)


def _put_back(old: Path, final: Path) -> None:
    """End a swap: ``old`` goes where ``final`` has come, and takes its place where it has not."""
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, final)
