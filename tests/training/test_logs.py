"""The process's peak memory."""

import subprocess
import sys

import torch

from mrtutor.training.logs import peak_memory_mib


def test_peak_memory_grows_with_what_was_held():
    before = peak_memory_mib()
    held = torch.ones(64 * 2**20)  # 256 MiB
    assert peak_memory_mib() > before + 100 or before > 1000  # an earlier test may have held more
    assert held.sum() > 0


def test_a_child_does_not_count_what_its_parent_holds():
    held = torch.ones(256 * 2**20)  # 1 GiB
    code = "from mrtutor.training.logs import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 900
    assert held.sum() > 0
