"""The commands that a page tells its reader to type, and what of them does not exist."""

import re

from typer.testing import CliRunner

import mrtutor.cli_models
import mrtutor.cli_weights  # noqa: F401 - and its
from mrtutor.cli import app


def commands_in(text: str) -> list[tuple[str, str]]:
    """(name, the rest of the line) of every `.venv/bin/mrtutor …`, in order; a comment is left out."""
    return re.findall(r"\.venv/bin/mrtutor (\w+)([^#\n]*)", text.replace("\\\n", " "))


def unknown_options(text: str) -> list[str]:
    """Options of these commands that `--help` does not list, as "train --stpes"."""
    unknown = []
    for name, rest in commands_in(text):
        known = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
        wanted = re.findall(r"--[\w-]+", rest)
        unknown += [f"{name} {option}" for option in wanted if not re.search(rf"{option}(?![\w-])", known)]
    return unknown
