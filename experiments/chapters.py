"""Run chapters through papermill, each in a process and a folder of its own, with a time limit.

    python -m experiments.chapters --preset smoke                    every chapter, as in CI
    python -m experiments.chapters --in-place notebooks/00_*.ipynb   with its own parameters; keeps the outputs

papermill has two traps, closed here: a name that the notebook does not know only warns, and its time limit is per cell.
jupyter has a third: a kernel's ports are chosen before they are taken, so that two chapters at once may get the same
and wait for ever. Where sockets have file names, each kernel gets its own.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from PIL import Image

from mrtutor.figures import Figure, record
from mrtutor.files import write_text

ROOT = Path(__file__).resolve().parents[1]
EXECUTE = """import json, os, sys
from papermill import execute_notebook
from traitlets.config import Config
source, copy, folder, parameters = sys.argv[1:]
sockets = Config({"KernelManager": {"transport": "ipc" if os.name == "posix" else "tcp"}})
options = {"cwd": folder, "kernel_name": "python3", "progress_bar": False, "config": sockets}
execute_notebook(source, copy, json.loads(parameters), **options)
"""
SMOKE_LIMIT_S = 900.0  # a minute on a quiet core; other programs may leave a small share of one
FULL_LIMIT_S = 3 * 3600.0


def setup(address: str) -> str:
    """Source of every chapter's setup cell; `make publish` writes the address of the course's repository into it."""
    return f"""import importlib.util

# Where the course is not installed, as on Colab: the https address of its repository.
address = "{address}"
if importlib.util.find_spec("mrtutor") is None:
    assert address, "Set address, above, to the https address of this course's repository."
    %pip install -q git+{{address}}"""


def published(root: Path = ROOT) -> str:
    """Address that `make publish` stamped last; empty before."""
    found = re.search(r"^repository-code: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), flags=re.M)
    return found[1] if found else ""


SETUP = setup(published())


@dataclass(frozen=True)
class Run:
    """What one chapter took."""

    name: str  # file name without suffix; solutions as ``solutions/…``
    seconds: float  # of the whole process, by the clock on the wall
    cpu_seconds: float  # of it and its kernel, which other programs on the machine do not change much
    error: str | None  # the end of what the chapter said before it failed


def chapters(root: Path = ROOT) -> list[Path]:
    """Chapters in order, then their solutions."""
    folder = root / "notebooks"
    return sorted(folder.glob("[0-9][0-9]_*.ipynb")) + sorted((folder / "solutions").glob("*.ipynb"))


def chapter_name(path: Path) -> str:
    """``00_quickstart`` or ``solutions/00_quickstart``."""
    return f"solutions/{path.stem}" if path.parent.name == "solutions" else path.stem


def run_chapter(path: Path, copy: Path, parameters: dict[str, Any], limit_s: float, cwd: Path | None = None) -> Run:
    """Run the notebook `path` in the folder `cwd` (default a temporary one); `copy` gets it executed, or failed.

    `limit_s` is in seconds of the wall clock. A parameter that the notebook does not know is a ValueError.
    """
    known = papermill.inspect_notebook(str(path))
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}: it knows {', '.join(known) or 'none'}.")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chapter-") as scratch, tempfile.TemporaryFile("w+") as log:
        arguments = [str(path.resolve()), str(copy.resolve()), str(cwd or scratch), json.dumps(parameters)]
        command = [sys.executable, "-c", EXECUTE, *arguments]
        start, cpu = time.monotonic(), _cpu_of_children()
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            in_time = process.poll() is not None
            spent = _end(process)
        seconds = time.monotonic() - start
        log.seek(0)
        said = log.read()[-3000:]
    error = None
    if not in_time:
        error = f"stopped after its limit of {limit_s:g} s, {spent:.0f} of them at work, {_place(copy)}; copy in {copy}"
    elif process.returncode:
        error = f"failed; executed copy in {copy}\n{said}"
    return Run(chapter_name(path), seconds, _cpu_of_children() - cpu, error)


def _cpu_of_children() -> float:
    """Processor seconds of all ended child processes and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def _end(process: subprocess.Popen) -> float:
    """End a process with its children (a kernel is one, in a session of its own); processor seconds they had taken."""
    if process.poll() is not None:
        return 0.0
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    spent = sum(sum(member.cpu_times()[:2]) for member in family)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    return spent


def _place(copy: Path) -> str:
    """The cell in which a chapter that was stopped stood; papermill saves the copy as each one begins."""
    if not copy.is_file():
        return "before its first cell"
    states = [cell.metadata.get("papermill", {}).get("status") for cell in nbformat.read(copy, as_version=4).cells]
    return f"in cell {states.index('running')}" if "running" in states else "between two cells"


def keep_outputs(executed: Path, notebook: Path) -> None:
    """Put the outputs of an executed copy into the notebook, without what papermill and widgets leave behind."""
    book = nbformat.read(executed, as_version=4)
    for key in ("papermill", "widgets"):
        book.metadata.pop(key, None)
    book.cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data = _smaller(output.data)
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    write_text(notebook, nbformat.writes(book) + "\n")


def _smaller(data: dict[str, str]) -> dict[str, str]:
    """A cell's picture as JPEG where that is smaller: brains are photographs, and GitHub refuses large notebooks."""
    png = data["image/png"]
    packed = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(packed, "JPEG", quality=70, optimize=True)
    jpeg = base64.b64encode(packed.getvalue()).decode() + "\n"
    if len(jpeg) >= len(png):
        return data
    return {**{kind: value for kind, value in data.items() if kind != "image/png"}, "image/jpeg": jpeg}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if any chapter failed."""
    parser = argparse.ArgumentParser(description="Run chapters through papermill.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every chapter")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--preset", help="inject this preset, into copies in outputs/notebooks")
    how.add_argument("--in-place", action="store_true", help="run with the chapter's own parameters, keep the outputs")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.notebooks or chapters():
        copy = ROOT / "outputs/notebooks" / f"{chapter_name(path)}.ipynb"
        if options.in_place:
            run = run_chapter(path, copy, {}, FULL_LIMIT_S, ROOT)
        else:
            parameters = {"preset": options.preset, "output_dir": str(copy.with_suffix(""))}
            run = run_chapter(path, copy, parameters, SMOKE_LIMIT_S)
        print(f"{run.name:<45} {run.seconds:7.1f} s  {'FAILED' if run.error else 'ok'}", flush=True)
        if run.error:
            print(run.error, file=sys.stderr)
            failed = True
        elif options.in_place:
            keep_outputs(copy, path)
            record([Figure("chapters", run.name, "cpu_seconds", round(run.cpu_seconds, 1), unit="s")])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
