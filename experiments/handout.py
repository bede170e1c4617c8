"""Copies of the chapters to hand out: for students without outputs and solutions, for lecturers with everything.

    python -m experiments.handout student      into outputs/student: clean chapters and their figures
    python -m experiments.handout instructor   into outputs/instructor: chapters with outputs, solutions

A folder is written anew each time, whole or not at all. One that holds somebody's work is refused.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mrtutor.files import CHECKSUMS, replace_folder, sha256, write_checksums, write_text

ROOT = Path(__file__).resolve().parents[1]
COURSE_LINK = re.compile(r"\[([^\[\]]*)\]\(\.\./mrtutor/[^)]*\)")  # leads nowhere from a copy
SOLUTION_LINK = re.compile(r"\[[^\]]*\]\((?:\.\./)?solutions/[^)]*\)")


def blank(book: NotebookNode) -> NotebookNode:
    """Copy of a notebook as a student gets it: nothing has run, no link leads to the solutions."""
    clean = nbformat.from_dict(book)
    for holder in (clean, *clean.cells):
        for key in ("papermill", "widgets", "execution"):
            holder.metadata.pop(key, None)
    for cell in clean.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif cell.cell_type == "markdown":
            cell.source = COURSE_LINK.sub(r"\1", SOLUTION_LINK.sub("your lecturer's copy", cell.source))
    return clean


def chapters(root: Path) -> list[Path]:
    """The chapters, in order (FileNotFoundError: there is none)."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"No chapters in {root / 'notebooks'}: run this from a clone of the course.")
    return found


def student(root: Path, folder: Path) -> None:
    """Write the students' copy into an empty folder."""
    for path in chapters(root):
        write_text(folder / path.name, nbformat.writes(blank(nbformat.read(path, as_version=4))) + "\n")
    _copy_folder(root / "notebooks/figures", folder / "figures")


def instructor(root: Path, folder: Path) -> None:
    """Write the lecturers' copy into an empty folder."""
    for path in [*chapters(root), *(root / "notebooks").glob("README.md")]:
        write_text(folder / path.name, COURSE_LINK.sub(r"\1", path.read_text(encoding="utf-8")))
    for name in ("figures", "solutions"):
        _copy_folder(root / "notebooks" / name, folder / name)


def changed_files(folder: Path) -> list[str]:
    """Files in a folder that are not as `write_checksums` found them: somebody's work."""
    listed = {}
    if (folder / CHECKSUMS).is_file():
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS]
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    return [path.name for path in paths if listed.get(path.relative_to(folder).as_posix()) != sha256(path)]


def _copy_folder(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whom", choices=("student", "instructor"))
    parser.add_argument("--out", type=Path, help="folder; default outputs/student or outputs/instructor")
    options = parser.parse_args(arguments)
    out = options.out or root / "outputs" / options.whom
    write = {"student": student, "instructor": instructor}[options.whom]
    try:
        if out.exists() and (work := changed_files(out)):
            raise ValueError(f"{out} holds somebody's work ({', '.join(work[:3])}): move it away, or choose --out.")
        with replace_folder(out) as folder:
            write(root, folder)
            write_checksums(folder)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"Done: {len(chapters(root))} chapters in {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
