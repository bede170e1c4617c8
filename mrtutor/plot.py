"""One look for all chapters: `show` a few pictures, a `sheet` of many, a `heat` map on top of one.

Colours are told apart by colour-blind readers too. Pictures are cropped to the brain, so that it fills its frame.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from mrtutor.files import atomic_path

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe & Ito
DPI = 120
MARGIN = 6  # pixels left around the brain
DARK = 0.02  # a picture is background below it


def use_style() -> None:
    """Set fonts, colours and resolution of every plot that follows."""
    sns.set_theme(style="ticks", context="notebook", palette=PALETTE)
    plt.rcParams.update({"figure.dpi": DPI, "axes.spines.top": False, "axes.spines.right": False})


def as_image(picture: Any) -> np.ndarray:
    """Array, tensor or PIL picture of (H, W), (1, H, W) or, in colour, (H, W, 3) as a float or bool array."""
    if hasattr(picture, "detach"):
        picture = picture.detach().float().cpu()
    image = np.squeeze(np.asarray(picture))
    if image.ndim != 2 and image.shape[2:] != (3,):
        raise ValueError(f"Expected one picture (H, W), got shape {image.shape}: pick one slice and one channel.")
    return image / 255 if image.dtype == np.uint8 else image


def crop_box(pictures: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Rows and columns of the smallest square that holds what any of equal-sized pictures (H, W) shows."""
    pictures = [picture.max(axis=-1) if picture.ndim == 3 else picture for picture in pictures]
    shape = pictures[0].shape
    if any(picture.shape != shape for picture in pictures):
        return slice(None), slice(None)
    rows, columns = np.nonzero(np.max([np.abs(picture) for picture in pictures], axis=0) > DARK)
    if not len(rows):
        return slice(None), slice(None)
    side = max(np.ptp(rows), np.ptp(columns)) + 1 + 2 * MARGIN
    return _centred(rows, side, shape[0]), _centred(columns, side, shape[1])


def _centred(places: np.ndarray, side: int, length: int) -> slice:
    side = min(side, length)
    start = (int(places.min()) + int(places.max()) + 1 - side) // 2
    start = min(max(start, 0), length - side)
    return slice(start, start + side)


def show(
    pictures: Mapping[str, Any] | Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    width: float = 3.0,
    masks: Sequence[Any] | None = None,
    cmap: str = "gray",
    limits: tuple[float, float] | None = (0, 1),
    crop: bool = True,
) -> None:
    """Draw pictures in a row, or in a grid of `columns`.

    Args:
        pictures: {title: picture}, or pictures alone: (H, W) arrays or tensors in [0, 1], or uint8.
        titles: of pictures that come alone.
        columns: pictures in a row; default all of them.
        width: of one picture, inches.
        masks: a tumour mask (H, W) for each picture, drawn as an outline; None for none.
        cmap: of matplotlib.
        limits: grey values of black and white; None for each picture's own.
        crop: cut to the brain, all pictures alike.
    """
    if isinstance(pictures, Mapping):
        titles, pictures = list(pictures), list(pictures.values())
    images = [as_image(picture) for picture in pictures]
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    _figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, (width + 0.3) * rows), squeeze=False, layout="constrained", dpi=DPI
    )
    box = crop_box(images) if crop else (slice(None), slice(None))
    black, white = limits or (None, None)
    for number, ax in enumerate(axes.flat):
        ax.axis("off")
        if number >= len(images):
            continue
        ax.imshow(images[number][box], cmap=cmap, vmin=black, vmax=white)
        if titles is not None:
            ax.set_title(titles[number], fontsize=10)
        if masks is not None:
            _outline(ax, images[number], masks[number], box)
    plt.show()


def _outline(ax: Any, image: np.ndarray, mask: Any, box: tuple[slice, slice]) -> None:
    """Draw a tumour mask's outline, if there is one: orange on grey, blue on the warm colours of `heat`."""
    if mask is not None and as_image(mask).any():
        colour = PALETTE[1] if image.ndim == 2 else PALETTE[4]
        ax.contour(as_image(mask)[box] > 0, levels=[0.5], colors=colour, linewidths=1)


def sheet(
    rows: Mapping[str, Sequence[Any]],
    columns: Sequence[str],
    *,
    path: str | Path | None = None,
    width: float = 2.0,
    cmap: str = "gray",
    title: str | None = None,
    masks: Sequence[Any] | None = None,
) -> None:
    """A labelled grid: a row for each entry, its name at the left, the columns' names on top.

    Args:
        rows: name -> pictures (H, W) in [0, 1], or uint8; None leaves a place empty.
        columns: a name for each column.
        path: also save it there, as PNG; then it is not shown.
        width: of one picture, inches.
        cmap: of matplotlib.
        title: above all.
        masks: a tumour mask (H, W) for each row, drawn as an outline; None for none.
    """
    figure = Figure(dpi=DPI) if path else plt.figure(dpi=DPI)
    figure.set_size_inches(width * len(columns) + 0.4, width * len(rows) + (0.5 if title else 0.3))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    masks = [None] * len(rows) if masks is None else masks
    for line, mask, (name, pictures) in zip(axes, masks, rows.items(), strict=True):
        images = [None if picture is None else as_image(picture) for picture in pictures]
        drawn = [image for image in images if image is not None]
        box = crop_box(drawn) if drawn else (slice(None), slice(None))
        for ax, image in zip(line, images, strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if image is not None:
                ax.imshow(image[box], cmap=cmap, vmin=0, vmax=1)
                _outline(ax, image, mask, box)
        line[0].set_ylabel(name, fontsize=9)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    if path:
        with atomic_path(path) as temporary:
            figure.savefig(temporary)
    else:
        plt.show()


def heat(picture: Any, weights: Any, strength: float = 0.65) -> np.ndarray:
    """A picture (H, W) in [0, 1] with a heat map (H, W) from 0 up on top, (H, W, 3) in [0, 1].

    The largest weight gets the strongest colour, of which the picture lets through 1 - `strength`.
    """
    image, weights = as_image(picture), as_image(weights)
    relative = weights / max(float(weights.max()), 1e-12)
    colour = plt.get_cmap("inferno")(relative)[..., :3]
    share = (strength * relative)[..., None]
    return (1 - share) * image[..., None] + share * colour
