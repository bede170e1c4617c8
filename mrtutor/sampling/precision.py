"""Which number format the denoiser computes in, measured on a CPU, known on a GPU; and float16, for storage.

CPUs with AVX-512-bf16 or AMX multiply bfloat16 about twice as fast as float32; others emulate it, several times
slower. No flag says so portably, so a short race decides.
"""

import copy
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

PROBE_SECONDS = 0.2  # of computing; a format that loses by far is tried once only
TICK_SECONDS = 1e-3  # a clock that moves in longer steps cannot time one run
MARGIN = 0.85  # bfloat16 must take less than this share of float32's time: rounding should buy something
_logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def probe() -> torch.dtype:
    """Race float32 against bfloat16 on this CPU, once a process, and log the winner (level INFO).

    The task is what a U-Net spends its time on: a 3 × 3 convolution of 96 channels at 32 × 32, batch 4. Processor
    time of one thread is compared, not the clock on the wall, so that other programs on the machine do not decide
    (several threads burn processor time while they wait for each other).

    Returns:
        `torch.bfloat16` or `torch.float32`.
    """
    x = torch.randn(4, 96, 32, 32).contiguous(memory_format=torch.channels_last)
    w = torch.randn(96, 96, 3, 3).contiguous(memory_format=torch.channels_last)
    formats = (torch.float32, torch.bfloat16)
    operands = {dtype: (x.to(dtype), w.to(dtype)) for dtype in formats}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            seconds = _race({dtype: lambda pair=pair: F.conv2d(*pair, padding=1) for dtype, pair in operands.items()})
    finally:
        torch.set_num_threads(threads)
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    winner = torch.bfloat16 if ratio * MARGIN > 1 else torch.float32
    _logger.info("%s taken on this CPU: bfloat16 runs at %.1f x the speed of float32", winner, ratio)
    return winner


def _race(runners: dict[torch.dtype, Callable[[], object]]) -> dict[torch.dtype, float]:
    """Least time of each runner by `_clock`, in seconds; they take turns until the time is up."""
    best = {}
    for name, run in runners.items():
        run()  # the first call sets up kernels and buffers
        best[name] = float("inf")
    clock = _clock()
    deadline = clock() + PROBE_SECONDS
    while True:
        for name, run in runners.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
        if clock() > deadline:
            return best


def _clock() -> Callable[[], float]:
    """Processor time, unless its tick is too long for a race (15.6 ms on Windows): then the clock on the wall."""
    start = now = time.process_time()
    while now == start:
        now = time.process_time()
    return time.process_time if now - start < TICK_SECONDS else time.perf_counter


def autocast_dtype(device: torch.device | str) -> torch.dtype:
    """Fastest number format for autocast on ``device``: one of float32 (no autocast), bfloat16 and float16.

    CUDA takes bfloat16 where the hardware has it (from Ampere on) and float16 elsewhere (T4); other accelerators
    stay with float32.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return probe()
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float32


def autocast(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager:
    """`torch.autocast` in ``dtype``; float32 means none, also inside an outer autocast."""
    kind = torch.device(device).type
    if dtype == torch.float32:
        return torch.autocast(kind, enabled=False)
    return torch.autocast(kind, dtype)


def best_device() -> torch.device:
    """CUDA where there is some, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(dtype: torch.dtype) -> str:
    """accelerate's name of a number format: "bf16", "fp16" or "no"."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")


def halved(name: str, module: nn.Module) -> nn.Module:
    """Copy of a network in float16 on the CPU, for storage.

    Raises:
        ValueError: a weight that is not finite in float16; `name` stands in the message.
    """
    halved = copy.deepcopy(module).cpu().half()
    bad = [key for key, value in halved.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"{len(bad)} weight(s) of {name} are NaN or beyond float16's ±65504 (first: {bad[0]}): the training "
            "diverged; go back to an earlier checkpoint."
        )
    return halved
