"""Does the generator copy? Distances to the nearest training slice, beside those of held-out slices.

FID is blind to copying (Akbar et al., 2025), so this figure stands next to it.
"""

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 64  # pixels; anatomy, not noise, decides the neighbour
CHUNK = 512  # queries at a time


def embed(slices: np.ndarray) -> torch.Tensor:
    """Slices (n, H, W), uint8 or floats in [0, 1] -> (n, 64 · 64), block means in [0, 1].

    Raises:
        ValueError: not a stack of slices.
    """
    if slices.ndim != 3 or len(slices) == 0:
        raise ValueError(f"Expected slices (n, H, W) of one modality, n at least 1, got {slices.shape}.")
    parts = []
    for start in range(0, len(slices), CHUNK):  # a cohort is a memory map: never all of it as floats at once
        images = torch.from_numpy(np.ascontiguousarray(slices[start : start + CHUNK]))
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        parts.append(F.interpolate(images[:, None], size=(SIDE, SIDE), mode="area").flatten(1))
    return torch.cat(parts)


def nearest(queries: torch.Tensor, references: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_distance`, of slices that were embedded already, (n, 64 · 64) and (m, 64 · 64)."""
    found = [torch.cdist(part, references).min(dim=1) for part in queries.split(CHUNK)]
    values, rows = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
    return (values / SIDE).numpy(), rows.numpy()


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root-mean-square distance of each query slice to its nearest reference, (n,), and that reference's row, (n,).

    Args:
        queries: (n, H, W), uint8 or floats in [0, 1].
        references: (m, H, W), likewise; slices of one modality should be compared with the same modality.
    """
    return nearest(embed(queries), embed(references))


def closest_pairs(distances: np.ndarray, neighbours: np.ndarray, count: int = 4) -> list[dict]:
    """The most suspicious queries first, each with another neighbour, to be looked at: numbers alone convict nobody.

    Args:
        distances: (n,) of `nearest_distance`.
        neighbours: (n,) rows of the nearest references.

    Returns:
        at most `count` of {"query", "reference", "distance"}.
    """
    order = np.argsort(distances, kind="stable")
    first = np.sort(np.unique(neighbours[order], return_index=True)[1])[:count]  # of each neighbour its closest query
    return [{"query": int(i), "reference": int(neighbours[i]), "distance": float(distances[i])} for i in order[first]]
