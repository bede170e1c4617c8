"""Checkpoints from which a run goes on as if it had never stopped."""

from pathlib import Path

import torch

from mrtutor.files import atomic_path

NAME = "checkpoint.pt"
VERSION = 1


def save_checkpoint(folder: str | Path, state: dict, fingerprint: str, inputs: dict[str, str] | None = None) -> None:
    """Write `state` (tensors, numbers, nested dicts and lists) atomically to `folder`/checkpoint.pt.

    Args:
        fingerprint: text that names stage, preset and seed; `load_checkpoint` refuses another.
        inputs: keys of what the stage reads, by name; others are refused too.
    """
    content = {"version": VERSION, "fingerprint": fingerprint, "inputs": inputs or {}, "state": state}
    with atomic_path(Path(folder) / NAME) as temporary:
        torch.save(content, temporary)


def load_checkpoint(folder: str | Path, fingerprint: str, inputs: dict[str, str] | None = None) -> dict | None:
    """State saved in `folder`, or None if there is none yet.

    An input of which the checkpoint says nothing (an old one says nothing of any) is not compared.

    Raises:
        ValueError: a truncated file, another version, or a checkpoint of another stage, preset, seed or input.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types for a damaged archive
        raise ValueError(f"{path} cannot be read ({error}): delete it and start the stage anew.") from error
    if content.get("version") != VERSION:
        raise ValueError(f"{path} has version {content.get('version')}, expected {VERSION}: delete it and start anew.")
    if content["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} belongs to another run.\n  expected: {fingerprint}\n  found:    {content['fingerprint']}\n"
            "Choose another --out, or start anew without --resume."
        )
    old = content.get("inputs", {})
    if other := [f"{k} was {old[k]}, now {v}" for k, v in (inputs or {}).items() if old.get(k, v) != v]:
        raise ValueError(
            f"{path} was trained from something else ({'; '.join(other)}): restore it, choose another --out, or start "
            "anew without --resume."
        )
    return content["state"]
