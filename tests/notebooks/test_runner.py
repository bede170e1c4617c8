"""The notebook runner: it refuses what papermill would let pass, and it always ends what it started."""

import base64
import io
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from tests.notebooks.runner import (
    Run,
    chapter_name,
    check_parameters,
    keep_outputs,
    keep_results,
    main,
    run_chapter,
    table,
)


def _notebook(path: Path, *sources: str, tagged: tuple[int, ...] = (0,)) -> Path:
    tags = [{"tags": ["parameters"]} if i in tagged else {} for i in range(len(sources))]
    cells = [new_code_cell(source, metadata=tag) for source, tag in zip(sources, tags, strict=True)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.mark.parametrize(("tagged", "count"), [((), 0), ((0, 1), 2)])
def test_missing_or_doubled_parameters_cell_is_refused(tmp_path: Path, tagged: tuple[int, ...], count: int) -> None:
    path = _notebook(tmp_path / "a.ipynb", "seed = 0", "seed = 1", tagged=tagged)
    with pytest.raises(ValueError, match=f"exactly one cell tagged 'parameters', found {count}"):
        check_parameters(path, ["seed"])


def test_unknown_parameter_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = _notebook(tmp_path / "a.ipynb", "seed = 0", "open('ran', 'w')")
    with pytest.raises(ValueError, match=r"a.ipynb has no parameter sed: it knows seed"):
        run_chapter(path, tmp_path / "copy.ipynb", {"sed": 1}, 60, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_chapter_runs_in_its_own_folder_with_the_values_given(tmp_path: Path) -> None:
    look = "import os, pathlib\nassert not os.listdir()\npathlib.Path(out).write_text(str(seed))"
    fill = "import time\nblob = bytearray(200 * 2**20)\ntime.sleep(0.5)"
    path = _notebook(tmp_path / "a.ipynb", "seed = 0\nout = ''", look, fill)
    before = path.read_bytes()
    run = run_chapter(path, tmp_path / "copies/a.ipynb", {"seed": 7, "out": str(tmp_path / "seed")}, 120)
    assert run.error is None and run.name == "a"
    assert (tmp_path / "seed").read_text() == "7"
    assert run.peak_mib > 200 and run.seconds > 0.5
    assert path.read_bytes() == before and (tmp_path / "copies/a.ipynb").is_file()


def test_a_failure_is_reported_with_its_message_and_copy(tmp_path: Path) -> None:
    path = _notebook(tmp_path / "a.ipynb", "seed = 0", "raise ValueError(f'seed {seed} is bad')")
    run = run_chapter(path, tmp_path / "copy.ipynb", {"seed": 3}, 120)
    assert "seed 3 is bad" in run.error and "copy.ipynb" in run.error


def test_the_limit_is_for_the_whole_chapter_and_leaves_no_kernel(tmp_path: Path) -> None:
    cells = [
        "pid = ''",
        "import os, pathlib\npathlib.Path(pid).write_text(str(os.getpid()))",
        *["import time; time.sleep(9)"] * 9,
    ]
    path = _notebook(tmp_path / "a.ipynb", *cells)
    start = time.monotonic()
    run = run_chapter(path, tmp_path / "copy.ipynb", {"pid": str(tmp_path / "pid")}, 12)
    assert "limit of 12 s" in run.error
    assert time.monotonic() - start < 60
    if (tmp_path / "pid").exists():  # on a very busy machine the kernel may not have come so far
        assert not _alive(int((tmp_path / "pid").read_text()))


def _alive(pid: int) -> bool:
    """Whether a process still runs; one that was killed but not yet collected by its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_kept_outputs_carry_no_papermill_and_no_widgets(tmp_path: Path) -> None:
    cell = new_code_cell("1 + 1", execution_count=1, outputs=[new_output("stream", text="2")])
    cell.metadata = {"papermill": {"duration": 1}, "tags": []}
    tagged = new_code_cell("seed = 0", metadata={"tags": ["parameters"], "papermill": {}})
    book = new_notebook(cells=[tagged, cell], metadata={"papermill": {"input_path": "/a"}, "widgets": {}, "x": 1})
    nbformat.write(book, tmp_path / "executed.ipynb")
    keep_outputs(tmp_path / "executed.ipynb", tmp_path / "kept.ipynb")
    kept = nbformat.read(tmp_path / "kept.ipynb", as_version=4)
    assert dict(kept.metadata) == {"x": 1}
    assert [dict(c.metadata) for c in kept.cells] == [{"tags": ["parameters"]}, {}]
    assert kept.cells[1].outputs[0].text == "2"


def test_kept_pictures_are_smaller_and_alike(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    noisy = np.stack([ramp] * 3, axis=-1) ^ np.random.default_rng(0).integers(0, 4, (256, 256, 3), np.uint8)
    png = io.BytesIO()
    Image.fromarray(noisy).save(png, "PNG")
    data = {"image/png": base64.b64encode(png.getvalue()).decode()}
    cell = new_code_cell("show()", execution_count=1, outputs=[new_output("display_data", data=data)])
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "executed.ipynb")
    keep_outputs(tmp_path / "executed.ipynb", tmp_path / "kept.ipynb")
    kept = nbformat.read(tmp_path / "kept.ipynb", as_version=4).cells[0].outputs[0].data["image/png"]
    assert len(kept) < 0.7 * len(data["image/png"])
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(kept))).convert("RGB")).astype(int)
    assert np.abs(again - noisy).mean() < 3


def test_the_command_line_runs_in_place_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check = "import pathlib\nout = pathlib.Path(output_dir)\nout.mkdir(parents=True)\n"
    check += "(out / 'results.json').write_text('{\"n\": 1}')\nprint(seed + 1)"
    path = _notebook(tmp_path / "notebooks/09_test_only.ipynb", "seed = 0\noutput_dir = 'outputs/09'", check)
    assert main(["--in-place"], root=tmp_path) == 0
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "1\n"
    assert (tmp_path / "data/results/09_test_only.json").read_text() == '{"n": 1}'
    shown = capsys.readouterr().out
    assert "09_test_only" in shown and "peak MiB" in shown


def test_a_chapter_without_results_is_refused(tmp_path: Path) -> None:
    path = _notebook(tmp_path / "09_a.ipynb", "output_dir = 'outputs/09'")
    with pytest.raises(FileNotFoundError, match=r"09_a.ipynb wrote no .*results.json"):
        keep_results(path, tmp_path, tmp_path / "results")


def test_a_preset_goes_into_copies_only_and_a_failure_shows_in_the_status(tmp_path: Path) -> None:
    path = _notebook(
        tmp_path / "notebooks/09_a.ipynb", "preset = 'laptop'\noutput_dir = ''", "assert preset != 'smoke'"
    )
    before = path.read_bytes()
    assert main(["--preset", "smoke"], root=tmp_path) == 1
    assert path.read_bytes() == before and (tmp_path / "outputs/notebooks/09_a.ipynb").is_file()


def test_the_table_names_failures() -> None:
    rows = table([Run("00_a", 1.25, 300, None), Run("solutions/00_a", 2, 10, "boom")]).splitlines()
    assert rows[1].split() == ["00_a", "1.2", "300", "ok"]
    assert rows[2].split() == ["solutions/00_a", "2.0", "10", "FAILED"]


def test_solutions_have_a_name_of_their_own() -> None:
    assert chapter_name(Path("notebooks/solutions/00_a.ipynb")) == "solutions/00_a"
