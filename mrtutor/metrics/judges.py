"""Where the shipped networks that judge pictures lie: feature network and scoring CLIP."""

from pathlib import Path

from mrtutor.files import verify_checksums
from mrtutor.sampling.pretrained import data_root


def shipped(name: str) -> Path:
    """Folder of a shipped judge."""
    return data_root() / "pretrained" / name


def checked_folder(folder: str | Path | None, name: str, what: str, remedy: str) -> Path:
    """The folder of a judge, `shipped(name)` unless another is given, with its checksums verified.

    Args:
        what: the judge in words, for the message.
        remedy: the call that makes one.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: a file was truncated or altered.
    """
    folder = Path(folder or shipped(name))
    if not folder.is_dir():
        raise FileNotFoundError(f"No {what} in {folder}: clone the repository, or make one with `{remedy}`.")
    verify_checksums(folder)
    return folder
