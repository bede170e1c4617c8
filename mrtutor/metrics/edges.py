"""Does a picture follow its structure map? Edge F1 with a tolerance in pixels.

The tolerance is that of boundary detection (Martin et al., IEEE TPAMI 2004): an edge pixel counts as found if the
other map has one within `tolerance` pixels.
"""

import cv2
import numpy as np

TOLERANCE = 2


def edge_f1(found: np.ndarray, wanted: np.ndarray, tolerance: int = TOLERANCE) -> float:
    """F1 of two edge maps (H, W), any non-zero value being an edge; in [0, 1].

    Raises:
        ValueError: different sizes.
    """
    if found.shape != wanted.shape or found.ndim != 2:
        raise ValueError(f"Expected two edge maps (H, W) of one size, got {found.shape} and {wanted.shape}.")
    found, wanted = (np.ascontiguousarray(x != 0).astype(np.uint8) for x in (found, wanted))
    kernel = np.ones((2 * tolerance + 1,) * 2, np.uint8)
    precision = (found & cv2.dilate(wanted, kernel)).sum() / max(1, found.sum())
    recall = (wanted & cv2.dilate(found, kernel)).sum() / max(1, wanted.sum())
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
