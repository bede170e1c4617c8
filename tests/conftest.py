"""For all tests: MKL's rounding, and a closing table of the chapters that ran (also under pytest-xdist)."""

import os
from typing import Any

# `mrtutor simulate` sets this where it is unset. MKL reads it once, at its first sum: left to the tests' order, a
# process would round otherwise than the processes that its later tests start.
os.environ.setdefault("MKL_CBWR", "AUTO")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what `tests/notebooks/test_run.py` measured."""
    from tests.notebooks.runner import Run, table

    reports = [r for group in ("passed", "failed") for r in terminalreporter.stats.get(group, [])]
    runs = [Run(*value) for r in reports for key, value in getattr(r, "user_properties", []) if key == "chapter"]
    if runs:
        terminalreporter.section("chapters in the smoke preset")
        terminalreporter.write_line(table(sorted(runs, key=lambda run: run.name)))
