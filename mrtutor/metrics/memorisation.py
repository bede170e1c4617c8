"""Does the generator copy? Distances to the nearest training slice, beside those of held-out slices.

FID is blind to copying (Akbar et al., 2025), so this figure stands next to it.
"""

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 64  # pixels; anatomy, not noise, decides the neighbour


def embed(slices: np.ndarray) -> torch.Tensor:
    """Slices (n, H, W), uint8 or floats in [0, 1] -> (n, 64 · 64), block means in [0, 1]."""
    images = torch.from_numpy(np.ascontiguousarray(slices))
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return F.interpolate(images[:, None], size=(SIDE, SIDE), mode="area").flatten(1)


def nearest_distance(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root-mean-square distance of each query slice to its nearest reference, (n,), and that reference's row, (n,).

    Args:
        queries: (n, H, W), uint8 or floats in [0, 1].
        references: (m, H, W), likewise; slices of one modality should be compared with the same modality.
    """
    distances = torch.cdist(embed(queries), embed(references)) / SIDE
    nearest = distances.min(dim=1)
    return nearest.values.numpy(), nearest.indices.numpy()
