"""Rounds of variant D: training may go on from a finished U-Net, and each round keeps its folder and its log."""

import re
from pathlib import Path

FIRST = "unet-D"
LATER = re.compile(r"unet-D-further(?:-(\d+))?")


def next_round(start: str) -> str:
    """Folder of the round that starts from folder `start`: unet-D-further, then unet-D-further-2, …"""
    before = _number(start)
    return f"{FIRST}-further" if not before else f"{FIRST}-further-{before + 1}"


def finished_rounds(run: Path) -> list[str]:
    """Folders of a run's rounds after the first, in order."""
    return sorted((p.name for p in run.glob(f"{FIRST}-further*") if _number(p.name)), key=_number)


def stage_of(folder: str) -> str:
    """Name of the stage that made such a folder, as logs and the model card call it: guidance-D-further."""
    return folder.replace("unet", "guidance", 1)


def _number(folder: str) -> int:
    """1 for the first further round; 0 for what is none."""
    found = LATER.fullmatch(folder)
    return int(found[1] or 1) if found else 0
