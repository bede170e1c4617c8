"""Every chapter and every solution runs in the smoke preset: same code path, tiny models, no network, no GPU."""

from pathlib import Path

import pytest

from tests.notebooks.runner import SMOKE_LIMIT_S, chapter_name, chapters, run_chapter


@pytest.mark.parametrize("path", chapters(), ids=chapter_name)
def test_runs_in_smoke(path: Path, tmp_path: Path, record_property: pytest.FixtureRequest) -> None:
    parameters = {"preset": "smoke", "output_dir": str(tmp_path / "out")}
    run = run_chapter(path, tmp_path / path.name, parameters, SMOKE_LIMIT_S)
    record_property("chapter", [run.name, run.seconds, run.peak_mib, run.error])
    assert run.error is None, run.error


def test_there_are_chapters() -> None:
    assert chapters(), "no notebook found: nothing would be tested"
