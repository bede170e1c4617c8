"""The log survives a kill at any step; the process's peak memory, on every system."""

import builtins
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from mrtutor.training.logs import EVERY, Log, peak_memory_mib


def in_its_own_process(code: str) -> str:
    command = [sys.executable, "-c", f"import sys\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows(folder: Path) -> list[str]:
    return (folder / "log.csv").read_bytes().decode().split("\r\n")


def test_kept_rows_are_on_disk_before_the_first_new_one(tmp_path):
    """A kill between a resume and the next row of averages leaves all rows up to the checkpoint."""
    with Log(tmp_path, 0) as log:
        for step in range(1, 3 * EVERY + 1):
            log.add(step, {"loss": step})
    whole = rows(tmp_path)
    assert len(whole) == 1 + 3 + 1  # header, rows, the end of the last line
    with Log(tmp_path, 2 * EVERY) as log:
        log.add(2 * EVERY + 1, {"loss": 0.0})
        assert rows(tmp_path) == [*whole[:3], ""]
        for step in range(2 * EVERY + 2, 3 * EVERY + 1):
            log.add(step, {"loss": 0.0})
        assert rows(tmp_path) == [*whole[:3], f"{3 * EVERY},train,loss,0", ""]


def test_peak_memory_grows_with_what_was_held():
    code = "import torch\nfrom mrtutor.training.logs import peak_memory_mib\nbefore = peak_memory_mib()\n"
    grown = in_its_own_process(code + "held = torch.ones(64 * 2**20)\nprint(peak_memory_mib() - before)")
    assert 200 < float(grown) < 400  # 256 MiB


def test_a_child_does_not_count_what_its_parent_holds():
    held = torch.ones(256 * 2**20)  # 1 GiB
    peak = in_its_own_process("from mrtutor.training.logs import peak_memory_mib\nprint(peak_memory_mib())")
    assert float(peak) < 900
    assert held.sum() > 0


def test_windows_has_no_module_resource(monkeypatch: pytest.MonkeyPatch):
    in_its_own_process("sys.modules['resource'] = None\nimport mrtutor.training.logs")
    load = builtins.__import__
    refused = {"resource": ImportError("No module named 'resource'")}

    def without(name, *rest, **options):
        if name in refused:
            raise refused[name]
        return load(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(sys, "platform", "win32")
    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))
    monkeypatch.setattr(psutil, "Process", lambda: windows)
    assert peak_memory_mib() == 300


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_ru_maxrss_is_in_bytes_on_a_mac_and_in_kib_elsewhere(monkeypatch, platform, unit):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "is_file", lambda _: False)  # no /proc there
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=300 * 2**20 // unit))
    assert peak_memory_mib() == 300
