"""Copies of the chapters to hand out: for students without outputs and solutions, for lecturers with everything.

    python tools/handout.py student      into outputs/student: clean chapters and their figures
    python tools/handout.py instructor   into outputs/instructor: chapters with outputs, solutions, times.md
    python tools/handout.py page         into notebooks/README.md: its table of chapters, from their fact tables

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
CHAPTERS = "[0-9][0-9]_*.ipynb"
SOLUTION_LINK = re.compile(r"\[[^\]]*\]\((?:\.\./)?solutions/[^)]*\)")
INSTEAD = "your lecturer's copy"  # of a link to the solutions
TIMES = "times.md"
PAGE = "notebooks/README.md"  # for lecturers
MARKED = re.compile(r"(<!-- chapters -->\n).*?(<!-- /chapters -->)", flags=re.S)


def blank(book: NotebookNode) -> NotebookNode:
    """Copy of a notebook as a student gets it: nothing has run, no link leads to the solutions."""
    clean = nbformat.from_dict(book)
    for key in ("papermill", "widgets"):
        clean.metadata.pop(key, None)
    for cell in clean.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif cell.cell_type == "markdown":
            cell.source = SOLUTION_LINK.sub(INSTEAD, cell.source)
    return clean


def chapters(root: Path) -> list[Path]:
    """The chapters, in order.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted((root / "notebooks").glob(CHAPTERS))
    if not found:
        raise FileNotFoundError(f"No chapters in {root / 'notebooks'}: run this from a clone of the course.")
    return found


def student(root: Path, out: Path) -> int:
    """Write the students' copy; returns the number of chapters."""
    paths = chapters(root)
    with _new_folder(out) as folder:
        for path in paths:
            write_text(folder / path.name, nbformat.writes(blank(nbformat.read(path, as_version=4))) + "\n")
        _copy_folder(root / "notebooks/figures", folder / "figures")
        write_checksums(folder)
    return len(paths)


def instructor(root: Path, out: Path) -> int:
    """Write the lecturers' copy; returns the number of chapters."""
    paths = chapters(root)
    with _new_folder(out) as folder:
        for path in [*paths, root / PAGE]:
            if path.is_file():
                shutil.copy(path, folder / path.name)
        for name in ("figures", "solutions"):
            _copy_folder(root / "notebooks" / name, folder / name)
        write_text(folder / TIMES, times(root))
        write_checksums(folder)
    return len(paths)


def times(root: Path) -> str:
    """Markdown table: what each chapter says it takes, and what its last run on this machine took."""
    lines = [
        "# Times",
        "",
        "*Stated* is the chapter's own fact table. *Last run here* is the last one by `make notebooks` or the runner,",
        "whose copy lies in `outputs/notebooks`, with the preset it ran in.",
        "",
        "| chapter | exercises | stated | last run here | last run of the solutions |",
        "|---|---|---|---|---|",
    ]
    for path in chapters(root):
        book = nbformat.read(path, as_version=4)
        exercises = next((c.source for c in book.cells if c.source.startswith("## Exercises")), "")
        count = len(re.findall(r"^\d+\. ", exercises, flags=re.M))
        copies = root / "outputs/notebooks"
        ran, solved = last_run(copies / path.name), last_run(copies / "solutions" / path.name)
        lines.append(f"| {path.stem} | {count} | {stated_time(book)} | {ran} | {solved} |")
    return "\n".join(lines) + "\n"


def facts(book: NotebookNode) -> dict[str, str]:
    """The rows of a chapter's fact table by their names, in one line each."""
    source = "\n".join(c.source for c in book.cells[:2])
    return dict(re.findall(r"^\| *\**(\w+)\** *\| *(.*?) *\|$", source, flags=re.M))


def stated_time(book: NotebookNode) -> str:
    """What a chapter says it takes; "not measured" for a part where nobody has measured it yet."""
    return re.sub(r"TODO-?\w*", "not measured", facts(book).get("Time", "not measured"))


def page(root: Path) -> int:
    """Renew the table of chapters in the lecturers' page; returns the number of chapters.

    Raises:
        ValueError: the page lacks the two marks.
    """
    write_text(root / PAGE, page_text(root))
    return len(chapters(root))


def page_text(root: Path) -> str:
    """The lecturers' page with its table of chapters made anew.

    Raises:
        ValueError: the page lacks the two marks.
    """
    lines = ["| chapter | teaches, in `mrtutor` | paper | needs | time |", "|---|---|---|---|---|"]
    for path in chapters(root):
        book = nbformat.read(path, as_version=4)
        code = "\n".join(c.source for c in book.cells if c.cell_type == "code")
        used = sorted(set(re.findall(r"^from mrtutor\.(\w+)", code, flags=re.M)) - {"files", "_environment"})
        modules = ", ".join(f"`{name}`" for name in used)
        rows, link = facts(book), f"[{path.stem}]({path.name})"
        paper, needs = rows.get("Paper", ""), rows.get("Needs", "")
        lines.append(f"| {link} | {modules} | {paper} | {needs} | {stated_time(book)} |")
    text = (root / PAGE).read_text()
    if not MARKED.search(text):
        raise ValueError(f"{root / PAGE} lacks <!-- chapters --> … <!-- /chapters -->: put the two marks back.")
    return MARKED.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text)


def last_run(executed: Path) -> str:
    """Seconds and preset of an executed copy; "not run" without one, "failed" where it ended in an error."""
    if not executed.is_file():
        return "not run"
    book = nbformat.read(executed, as_version=4)
    ran = book.metadata.get("papermill", {})
    if ran.get("exception") or ran.get("duration") is None:
        return "failed"
    preset = ran.get("parameters", {}).get("preset", "its own parameters")
    return f"{ran['duration']:.0f} s ({preset})"


def _new_folder(out: Path):
    """`replace_folder`, after a look at what stands there.

    Raises:
        ValueError: the folder holds files that this tool did not write, or that were changed since.
    """
    if out.exists() and (strange := _changed(out)):
        raise ValueError(
            f"{out} holds work of somebody ({', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}): "
            "move it away, or choose another --out."
        )
    return replace_folder(out)


def _changed(out: Path) -> list[str]:
    """Files that are not as `write_checksums` found them."""
    listed = {}
    if (out / CHECKSUMS).is_file():
        lines = (out / CHECKSUMS).read_text().splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and ".ipynb_checkpoints" not in p.parts]
    names = {p.relative_to(out).as_posix(): p for p in files if p.name != CHECKSUMS}
    return [name for name, path in names.items() if listed.get(name) != sha256(path)]


def _copy_folder(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whom", choices=("student", "instructor", "page"))
    parser.add_argument("--out", type=Path, help="folder; default outputs/student or outputs/instructor")
    options = parser.parse_args(arguments)
    out = options.out or root / "outputs" / options.whom
    try:
        if options.whom == "page":
            print(f"Done: {page(root)} chapters in the table of {PAGE}.")
            return 0
        count = {"student": student, "instructor": instructor}[options.whom](root, out)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    shown = out.relative_to(root) if out.is_relative_to(root) else out
    extra = "without outputs and solutions" if options.whom == "student" else f"with outputs, solutions and {TIMES}"
    print(f"Done: {count} chapters {extra} in {shown}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
