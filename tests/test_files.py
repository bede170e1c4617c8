"""Writing that is all or nothing, locks, and the table of results."""

import subprocess
import sys
from dataclasses import replace

import pytest

from mrtutor.figures import Figure, figure, load_figures, record
from mrtutor.files import atomic_path, locked, replace_folder, verify_checksums, write_checksums, write_json, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path) -> None:
    with replace_folder(tmp_path / "run") as temporary:
        (temporary / "weights").write_text("1")
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "run") as temporary:
        (temporary / "weights").write_text("2")
        raise RuntimeError
    assert (tmp_path / "run" / "weights").read_text() == "1"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_refuses_nan(tmp_path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("change", ["truncate", "alter", "remove"])
def test_checksums_notice(tmp_path, change: str) -> None:
    (tmp_path / "weights.bin").write_bytes(b"0123456789")
    write_checksums(tmp_path)
    verify_checksums(tmp_path)
    if change == "remove":
        (tmp_path / "weights.bin").unlink()
    else:
        (tmp_path / "weights.bin").write_bytes(b"01234" if change == "truncate" else b"012345678X")
    with pytest.raises((ValueError, FileNotFoundError), match=r"weights\.bin"):
        verify_checksums(tmp_path)


def test_a_lock_is_held_against_others_and_freed_by_a_kill(tmp_path) -> None:
    hold = f"import time\nfrom mrtutor.files import locked\nwith locked({str(tmp_path / 'lock')!r}):\n"
    hold += "    print('held', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait_seconds=0):
            pass
        holder.kill()
    with locked(tmp_path / "lock", wait_seconds=5):
        pass


def test_figures_are_recorded_replaced_and_found(tmp_path) -> None:
    path = tmp_path / "figures.csv"
    first = Figure("tables", "D", "fd_mr", 3.5, low=2.1, high=4.9, n=500, weights="abc")
    record([first, replace(first, model="A", value=21.0)], path)
    record([replace(first, value=3.25)], path)
    assert len(load_figures(path)) == 2
    found = figure("tables", "D", "fd_mr", path=path)
    assert found.value == 3.25 and found.n == 500 and str(found) == "3.25 [2.10, 4.90]"
    with pytest.raises(ValueError, match="fd_mr"):
        figure("tables", "D", "fid", path=path)


def test_a_figure_without_an_interval_stays_without_one(tmp_path) -> None:
    record([Figure("cost", "D", "seconds", 3.8, unit="s")], tmp_path / "f.csv")
    assert str(figure("cost", "D", "seconds", path=tmp_path / "f.csv")) == "3.80 s"
