"""Stamp the public address of the repository: setup cells, badges of the chapters and the README, CITATION.cff.

    python -m experiments.publish https://github.com/OWNER/mrtutor

A second stamp replaces the first. The test of the setup cell reads the address from CITATION.cff.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import nbformat

from experiments.chapters import ROOT, chapters, setup
from mrtutor.files import write_text

BADGES = re.compile(r"^\[`open in (?:Colab|Binder)`\]\(.*\n\n", flags=re.M)
GITHUB = "https://github.com/"


def badges(address: str, path: str) -> str:
    """One line of links that open a notebook elsewhere. Colab reads from GitHub alone. No picture to load."""
    links = {"Binder": f"https://mybinder.org/v2/git/{quote(address, safe='')}/HEAD?labpath={quote(path, safe='')}"}
    if address.startswith(GITHUB):
        links = {"Colab": f"https://colab.research.google.com/github/{address[len(GITHUB) :]}/blob/main/{path}"} | links
    return " ".join(f"[`open in {where}`]({link})" for where, link in links.items())


def stamped(text: str, line: str) -> str:
    """A page with this line of badges under its title, in place of those that it had."""
    title, rest = BADGES.sub("", text).split("\n\n", 1)
    return f"{title}\n\n{line}\n\n{rest}"


def publish(address: str, root: Path = ROOT) -> None:
    """Write the address into everything that names it; outputs and counts of the chapters stay.

    Raises:
        ValueError: no https address of a repository.
    """
    address = address.strip().rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://[\w.-]+(?:/[\w.~-]+)+", address):
        advice = "make publish ADDRESS=https://github.com/OWNER/mrtutor"
        raise ValueError(f"Expected the public address of the repository, got {address or 'nothing'}: {advice}")
    for path in chapters(root):
        book = nbformat.read(path, as_version=4)
        book.cells[0].source = stamped(book.cells[0].source, badges(address, path.relative_to(root).as_posix()))
        [cell for cell in book.cells if cell.cell_type == "code"][1].source = setup(address)
        write_text(path, nbformat.writes(book) + "\n")
    readme, citation = root / "README.md", root / "CITATION.cff"
    first = badges(address, "notebooks/00_quickstart.ipynb")
    write_text(readme, stamped(readme.read_text(encoding="utf-8"), first))
    kept = re.sub(r"^repository-code:.*\n", "", citation.read_text(encoding="utf-8"), flags=re.M)
    write_text(citation, re.sub(r"^(license: .*\n)", rf"\1repository-code: {address}\n", kept, flags=re.M))


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit status."""
    try:
        publish(" ".join(arguments))
    except ValueError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print("Stamped: chapters, README.md and CITATION.cff. Commit and push them.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
