"""The number format: decided by a race, float32 where bfloat16 buys nothing."""

import time

import pytest
import torch

from mrtutor.sampling import precision


@pytest.fixture(autouse=True)
def fresh_probe():
    precision.probe.cache_clear()
    yield
    precision.probe.cache_clear()


@pytest.mark.parametrize(("seconds", "winner"), [((1.0, 0.5), torch.bfloat16), ((1.0, 0.9), torch.float32)])
def test_the_race_decides(monkeypatch: pytest.MonkeyPatch, seconds: tuple, winner: torch.dtype) -> None:
    monkeypatch.setattr(
        precision, "_race", lambda runners: dict(zip((torch.float32, torch.bfloat16), seconds, strict=True))
    )
    assert precision.autocast_dtype("cpu") is winner


def test_the_probe_puts_the_threads_back_and_takes_one_of_two() -> None:
    threads = torch.get_num_threads()
    assert precision.probe() in (torch.float32, torch.bfloat16)
    assert torch.get_num_threads() == threads


def test_the_probe_needs_no_fine_clock_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows counts it in ticks of 15.6 ms, in which a run takes 0 s; here in ticks of 0.3 s, longer than the race."""
    fine = time.process_time
    assert precision._clock() is fine
    monkeypatch.setattr(time, "process_time", lambda: fine() // 0.3 * 0.3)
    assert precision._clock() is time.perf_counter
    assert precision.probe() in (torch.float32, torch.bfloat16)


def test_float32_means_no_autocast_even_inside_one() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with precision.autocast("cpu", torch.float32):
            assert (x @ x).dtype == torch.float32
