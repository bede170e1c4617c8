"""A lock between processes that no kill leaves shut: the operating system frees it with its holder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl

    def _lock(file: IO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

except ImportError:  # Windows
    import msvcrt

    def _lock(file: IO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # gives up after 10 s

    def _unlock(file: IO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until nobody else holds `path`, an empty file made for this and left there, and hold it for the block.

    Raises:
        OSError: no permission, or a file system without locks; on Windows also when 10 s were not enough.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        _lock(file)
        try:
            yield
        finally:
            _unlock(file)
