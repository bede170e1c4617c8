"""Closing table of the chapters that ran, with time and peak memory (also under pytest-xdist)."""

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what `tests/notebooks/test_run.py` measured."""
    from tests.notebooks.runner import Run, table

    reports = [r for group in ("passed", "failed") for r in terminalreporter.stats.get(group, [])]
    runs = [Run(*value) for r in reports for key, value in getattr(r, "user_properties", []) if key == "chapter"]
    if runs:
        terminalreporter.section("chapters in the smoke preset")
        terminalreporter.write_line(table(sorted(runs, key=lambda run: run.name)))
