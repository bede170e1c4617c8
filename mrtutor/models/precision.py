"""Which device, and which number format the denoiser computes in: measured on a CPU, known on a GPU.

CPUs with AVX-512-bf16 or AMX multiply bfloat16 about twice as fast as float32; others emulate it, several times slower.
No flag says so portably, so a short race decides.
"""

from contextlib import AbstractContextManager
from functools import cache

import torch
from torch.utils.benchmark import Timer

ROUNDS, SECONDS = 4, 0.02
MARGIN = 0.85  # bfloat16 must take less than this share of float32's time: rounding should buy something


@cache
def probe() -> torch.dtype:
    """`torch.bfloat16` or `torch.float32`: the faster one on one core of this CPU, raced once a process.

    The task is what a U-Net spends its time on, a 3 × 3 convolution. The two take turns, and the least time of each
    counts, so that other programs on the machine do not decide.
    """
    timers, times = {}, {torch.float32: [], torch.bfloat16: []}
    for kind in times:
        shapes = {"x": (4, 96, 32, 32), "weight": (96, 96, 3, 3)}
        operands = {name: torch.randn(s).to(kind, memory_format=torch.channels_last) for name, s in shapes.items()}
        timers[kind] = Timer("conv2d(x, weight, padding=1)", globals={"conv2d": torch.conv2d, **operands})
    for _ in range(ROUNDS):
        for kind, timer in timers.items():
            times[kind] += timer.blocked_autorange(min_run_time=SECONDS).times
    return torch.bfloat16 if min(times[torch.bfloat16]) < MARGIN * min(times[torch.float32]) else torch.float32


def autocast_dtype(device: torch.device | str) -> torch.dtype:
    """Fastest format on `device`: CUDA has bfloat16 from Ampere on and float16 before (T4); float32 is no autocast."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return probe() if kind == "cpu" else torch.float32


def autocast(device: torch.device | str, dtype: torch.dtype) -> AbstractContextManager:
    """`torch.autocast` in `dtype`; float32 means none, also inside an outer autocast."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def best_device() -> torch.device:
    """CUDA where there is some, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(dtype: torch.dtype) -> str:
    """accelerate's name of a number format: "bf16", "fp16" or "no"."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "no")
