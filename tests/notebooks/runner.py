"""Run chapters through papermill, each in a process, a folder and a time limit of its own.

Three traps of papermill that are closed here: a notebook without a tagged cell gets its parameters at the top, where
later lines overwrite them; an unknown name only warns; time limits are per cell. So names are compared first.

    python tests/notebooks/runner.py --preset smoke                 every chapter, as in CI, copies in outputs/notebooks
    python tests/notebooks/runner.py --in-place notebooks/00_*.ipynb  with its own parameters, outputs kept (long)
"""

import argparse
import ast
import base64
import io
import json
import os
import signal
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

ROOT = Path(__file__).resolve().parents[2]
SMOKE_LIMIT_S = 300.0
FULL_LIMIT_S = 3 * 3600.0


@dataclass(frozen=True)
class Run:
    """What one chapter took.

    Attributes:
        name: file name without suffix; solutions as ``solutions/…``.
        seconds: wall-clock time of the whole process.
        peak_mib: largest resident memory of its process tree, MiB, looked at 5 times a second.
        error: None, or the end of what the chapter said before it failed.
    """

    name: str
    seconds: float
    peak_mib: float
    error: str | None


def chapters(root: Path = ROOT) -> list[Path]:
    """Chapters and their solutions, in order; the solutions last."""
    folder = root / "notebooks"
    return sorted(folder.glob("[0-9][0-9]_*.ipynb")) + sorted((folder / "solutions").glob("*.ipynb"))


def chapter_name(path: Path) -> str:
    """``00_quickstart`` or ``solutions/00_quickstart``."""
    return f"solutions/{path.stem}" if path.parent.name == "solutions" else path.stem


def check_parameters(path: Path, wanted: Sequence[str]) -> None:
    """Compare parameter names with those of the notebook before anything runs.

    Raises:
        ValueError: no ``parameters`` cell, two of them, or a name that the notebook does not have.
    """
    cells = nbformat.read(path, as_version=4).cells
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(
            f"{path.name}: expected exactly one cell tagged 'parameters', found {len(tagged)} "
            f"(cells {tagged}): papermill would put the values in the wrong place."
        )
    known = papermill.inspect_notebook(str(path))
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(f"{path.name} has no parameter {', '.join(unknown)}: it knows {', '.join(known) or 'none'}.")


def run_chapter(path: Path, copy: Path, parameters: dict[str, Any], limit_s: float, cwd: Path | None = None) -> Run:
    """Run one notebook and keep the executed copy, also of a failed run.

    Args:
        path: the notebook; it is not changed.
        copy: where the executed copy goes.
        parameters: values to inject, by name.
        limit_s: wall-clock limit in seconds, of the chapter as a whole.
        cwd: working folder; default a fresh temporary one.

    Raises:
        ValueError: as `check_parameters`; nothing has run then.
    """
    check_parameters(path, list(parameters))
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chapter-") as scratch, tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "papermill", str(path), str(copy.resolve()), "-k", "python3"]
        command += ["--cwd", str(cwd or scratch), "--no-progress-bar", "-y", json.dumps(parameters)]
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        start = time.monotonic()
        environment = os.environ | {"PYTHONPATH": search}
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        peak, in_time = _watch(process, limit_s)
        seconds = time.monotonic() - start
        log.seek(0)
        said = log.read()[-3000:]
    error = None
    if not in_time:
        error = f"stopped after its limit of {limit_s:g} s; executed copy in {copy}"
    elif process.returncode:
        error = f"failed; executed copy in {copy}\n{said}"
    return Run(chapter_name(path), seconds, peak, error)


def _watch(process: subprocess.Popen, limit_s: float) -> tuple[float, bool]:
    """Wait for a process; return the peak memory of its tree in MiB and whether it kept the limit."""
    end, peak, tree = time.monotonic() + limit_s, 0.0, []
    try:
        while process.poll() is None and time.monotonic() < end:
            tree = _tree(process.pid)
            peak = max(peak, sum(map(_resident, tree)) / 2**20)
            time.sleep(0.2)
        return peak, process.poll() is not None
    finally:
        if process.poll() is None:  # out of time, or Ctrl-C: the kernel is a grandchild in a session of its own
            members = {*tree, *_tree(process.pid)}
            for member in members:
                _kill(member)
            process.wait()
            psutil.wait_procs(members, timeout=5)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it ended between the listing and the look
        return 0


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
    except psutil.Error:
        return  # already gone


def keep_outputs(executed: Path, notebook: Path) -> None:
    """Put the outputs of an executed copy into the notebook, without what papermill and widgets leave behind.

    papermill writes local paths and times into the metadata, and GitHub refuses to draw some widget states.
    """
    from mrtutor.files import write_text

    book = nbformat.read(executed, as_version=4)
    for key in ("papermill", "widgets"):
        book.metadata.pop(key, None)
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
        for key in ("papermill", "execution", "tags"):
            if key != "tags" or not cell.metadata.get("tags"):
                cell.metadata.pop(key, None)
    write_text(notebook, nbformat.writes(book) + "\n")


def _smaller(png: str) -> str:
    """A figure in base64 with a palette of at most 256 colours: about a third of the size, alike to the eye."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    picture.save(packed, "PNG", optimize=True)
    small = base64.b64encode(packed.getvalue()).decode() + "\n"
    return small if len(small) < len(png) else png


def keep_results(notebook: Path, cwd: Path, folder: Path) -> None:
    """Copy the chapter's ``results.json`` to ``folder/NN_name.json``.

    Raises:
        FileNotFoundError: the chapter wrote none into its ``output_dir``.
    """
    from mrtutor.files import write_text

    output_dir = ast.literal_eval(papermill.inspect_notebook(str(notebook))["output_dir"]["default"])
    results = cwd / output_dir / "results.json"
    if not results.is_file():
        raise FileNotFoundError(f"{notebook.name} wrote no {results}: its checks must write what they found there.")
    write_text(folder / f"{notebook.stem}.json", results.read_text())


def table(runs: Sequence[Run]) -> str:
    """Closing table: chapter, seconds, peak memory, how it ended."""
    width = max([len("chapter"), *(len(run.name) for run in runs)])
    rows = [f"{'chapter':<{width}}  seconds  peak MiB  result"]
    rows += [f"{r.name:<{width}}  {r.seconds:7.1f}  {r.peak_mib:8.0f}  {'FAILED' if r.error else 'ok'}" for r in runs]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status: 1 if any chapter failed."""
    parser = argparse.ArgumentParser(description="Run chapters through papermill.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every chapter")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--preset", help="inject this preset, into copies in outputs/notebooks")
    how.add_argument("--in-place", action="store_true", help="run with the chapter's own parameters, keep the outputs")
    parser.add_argument("--limit", type=float, help="seconds for each chapter")
    options = parser.parse_args(arguments)
    limit = options.limit or (FULL_LIMIT_S if options.in_place else SMOKE_LIMIT_S)
    runs = []
    for path in options.notebooks or chapters(root):
        print(f"running {chapter_name(path)} …", flush=True)
        copy = root / "outputs/notebooks" / f"{chapter_name(path)}.ipynb"
        extra = {} if options.in_place else {"preset": options.preset, "output_dir": str(copy.with_suffix(""))}
        runs.append(run_chapter(path, copy, extra, limit, root if options.in_place else None))
        if runs[-1].error:
            print(runs[-1].error, file=sys.stderr)
        elif options.in_place:
            keep_outputs(copy, path)
            if path.parent.name != "solutions":
                keep_results(path, root, root / "data/results")
    print(table(runs))
    return int(any(run.error for run in runs))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
