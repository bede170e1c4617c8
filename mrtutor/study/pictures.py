"""What a reader gets to see: pictures that give away nothing but what they show.

A file can betray its origin without a look at the picture: by its name, its size, its metadata, by a background of
exactly 0 beside one of 0.4, by a brain that is cut off sharply beside one that fades. So every picture, of the cohort
or synthetic, goes through one rule that looks at that picture alone:

1. the brain is what is brighter than `THRESHOLD`, its largest connected part, holes filled, `RIM` pixels taken off
   all around (there the cohort is cut by a mask and the autoencoder blurs that cut);
2. everything else becomes exactly 0, and what is dark inside the brain at least `FLOOR` (the eye sees no difference,
   but a histogram would: decoded ventricles reach lower than the cohort's);
3. an 8-bit grey PNG is written with the least that a PNG must have, *not* compressed: noise compresses worse than
   smooth paint, so a compressed size would tell the two apart. All pictures have the same number of bytes.

Axes: H, W image pixels (256). Pictures are uint8, 0…255.
"""

import struct
import zlib

import cv2
import numpy as np
from scipy.ndimage import binary_erosion, binary_fill_holes

THRESHOLD = 20  # of 255: above the noise of the background, below all tissue
RIM = 3  # pixels
FLOOR = 8  # of 255
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def brain_support(image: np.ndarray) -> np.ndarray:
    """Where the picture shows brain, (H, W) bool; all False for an empty picture.

    Args:
        image: (H, W) uint8.
    """
    bright = cv2.morphologyEx((image > THRESHOLD).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    if len(stats) == 1:  # background only
        return np.zeros(image.shape, bool)
    largest = parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return binary_erosion(binary_fill_holes(largest), iterations=RIM)


def clean(image: np.ndarray) -> np.ndarray:
    """The picture with a background of exactly 0 and a brain of `FLOOR`…255, by the rule above; (H, W) uint8.

    Raises:
        ValueError: not one slice of uint8.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"Expected one slice (H, W) of uint8, got {image.shape} of {image.dtype}: quantise it first.")
    return np.where(brain_support(image), np.maximum(image, FLOOR), 0).astype(np.uint8)


def encode(picture: np.ndarray) -> bytes:
    """A grey PNG of IHDR, one stored IDAT and IEND: its size depends on the shape alone.

    Raises:
        ValueError: not one slice of uint8.
    """
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise ValueError(f"Expected one slice (H, W) of uint8, got {picture.shape} of {picture.dtype}.")
    height, width = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey, not interlaced
    rows = np.pad(picture, ((0, 0), (1, 0)))  # each row begins with its filter, 0 for none
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 0)) + _chunk(b"IEND")


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def served(image: np.ndarray) -> bytes:
    """The PNG that a reader gets of a slice (H, W) uint8 (ValueError as `clean`)."""
    return encode(clean(image))
