"""Random fields: smooth ones for anatomy, texture and coils, and the Rician noise of magnitude images.

Axes: X, Y, Z voxels of 1 mm unless said otherwise; C independent fields.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def patient_generator(seed: int, number: int, stream: str) -> torch.Generator:
    """A generator that depends on nothing but its arguments, so that patients can be drawn in any order.

    Args:
        seed: seed of the cohort.
        number: number of the patient.
        stream: what is drawn ("anatomy", "noise", …); streams of one patient are independent.
    """
    digest = hashlib.sha256(f"mrtutor/{seed}/{number}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one torch thread: sums split over threads round differently, and "bit for bit" would break."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def normal(mean: float, sd: float, low: float, high: float, generator: torch.Generator) -> float:
    """One number from a normal distribution, clamped to [low, high]."""
    return min(max(mean + sd * torch.randn((), generator=generator, dtype=torch.float64).item(), low), high)


def _spline_basis(n: int, spacing: float) -> Tensor:
    """Cubic B-spline weights (n, n_control) that lead control points ``spacing`` voxels apart to n voxels."""
    position = torch.arange(n, dtype=torch.float32) / spacing
    control = torch.arange(int((n - 1) / spacing) + 4, dtype=torch.float32) - 1
    t = (position[:, None] - control).abs()
    inner = 2 / 3 - t**2 + t**3 / 2
    outer = (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, inner, outer)


def smooth_field(shape: tuple[int, int, int], spacing: float, generator: torch.Generator, channels: int = 1) -> Tensor:
    """Random fields with no detail finer than about ``spacing``: cubic B-splines through normal control points.

    Args:
        shape: (X, Y, Z) of the wanted fields.
        spacing: distance of the control points, in voxels.
        generator: on the CPU; the numbers are the same for every device.
        channels: C, how many independent fields.

    Returns:
        (C, X, Y, Z) float32, mean 0, standard deviation 1 (over many draws).
    """
    bases = [_spline_basis(n, spacing) for n in shape]
    field = torch.randn(channels, *(b.shape[1] for b in bases), generator=generator)
    for axis, basis in enumerate(bases, start=1):
        # A B-spline average of unit normals has a variance below 1: bring it back, axis by axis.
        basis = basis / (basis**2).sum(dim=1).mean().sqrt()
        field = torch.tensordot(field, basis, dims=([axis], [1])).movedim(-1, axis)
    return field.contiguous()


def rician(signal: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Magnitude of a complex signal with normal noise of standard deviation ``sigma`` in both parts.

    Source: Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magn Reson Med 34:910-914 (1995).
    """
    real = torch.randn(signal.shape, generator=generator).to(signal.device)
    imaginary = torch.randn(signal.shape, generator=generator).to(signal.device)
    return torch.hypot(signal + sigma * real, sigma * imaginary)
