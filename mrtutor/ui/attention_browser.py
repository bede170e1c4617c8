"""A browser for attention: word × layer × step over the picture, in core ipywidgets, with a static sheet beside it.

Axes: H, W image pixels (256). Pictures are synthetic; none serves a diagnosis.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from mrtutor.sampling.heat_maps import Trace
from mrtutor.ui import panel
from mrtutor.vocabulary import Modality

COLOURS = "inferno"
ALL = "all"
FALLBACK_TEXT = "The browser is a panel for a running kernel; the sheet below shows what it shows."


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """A grey picture under a coloured map.

    Args:
        image: (H, W) in [0, 1].
        heat: (H, W) in [0, 1].
        strength: share of the map where it is 1; where it is 0 the picture alone is seen.

    Returns:
        (H, W, 3) in [0, 1].

    Raises:
        ValueError: shapes that differ.
    """
    image, heat = np.asarray(image, np.float64), np.asarray(heat, np.float64).clip(0, 1)
    if image.shape != heat.shape or image.ndim != 2:
        raise ValueError(f"Expected picture and map of one shape (H, W), got {image.shape} and {heat.shape}.")
    share = strength * heat[..., None]
    return ((1 - share) * image[..., None] + share * colormaps[COLOURS](heat)[..., :3]).clip(0, 1)


def stretched(heat: np.ndarray) -> np.ndarray:
    """A map (H, W) from its smallest value to its largest as [0, 1]: maps of a small model are nearly flat."""
    heat = np.asarray(heat, np.float64)
    return (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)


class AttentionBrowser:
    """Panel over a trace.

    Args:
        trace: of a sequence; its kept steps can be chosen.
        images: modality -> (H, W) in [0, 1], what was drawn under the trace.

    Raises:
        ValueError: nothing traced, or a picture whose modality no sentence names.
    """

    def __init__(self, trace: Trace, images: Mapping[Modality, Any]) -> None:
        self.trace = trace
        self.images = {Modality(m): np.asarray(image) for m, image in images.items()}
        first = next(iter(self.images))
        layers = [ALL, "down", "middle", "up", *map(str, trace.layers)]
        steps = [(ALL, ALL), *((f"step {s}", s) for s in trace.kept_steps)]
        self.modality = w.ToggleButtons(options=list(self.images), description="picture")
        self.word = w.Dropdown(options=self.words(first), value=self.words(first)[-2], description="word")
        self.layer = w.Dropdown(options=layers, description="layer")
        self.step = w.SelectionSlider(options=steps, description="step", continuous_update=False)
        self.stretch = w.Checkbox(value=True, description="smallest value as 0")
        self.shown, self.status = w.HTML(), w.HTML()
        choices = [self.modality, self.word, self.layer, self.step, self.stretch]
        left = w.VBox([*choices, self.status], layout=w.Layout(width="380px", min_width="300px"))
        self.view = w.Box([left, self.shown], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))
        self.modality.observe(self._other_picture, "value")
        for choice in choices[1:]:
            choice.observe(self.show, "value")
        self.show()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The panel where widgets work, one sentence where they do not."""
        shown = self.view._repr_mimebundle_(**options)
        data, meta = shown if isinstance(shown, tuple) else (shown, {})
        return data | {"text/plain": FALLBACK_TEXT}, meta

    def words(self, modality: Modality) -> list[str]:
        """Words of the sentence that drew a picture.

        Raises:
            ValueError: no sentence names the modality.
        """
        return self.trace.words(self.trace.row_of(modality))

    def heat(self, word: str) -> np.ndarray:
        """Map (H, W) of a word as the panel stands, in [0, 1]."""
        layer, step = (None if choice.value == ALL else choice.value for choice in (self.layer, self.step))
        found = self.trace.heat_map(word, modality=self.modality.value, layer=layer, step=step).numpy()
        return stretched(found) if self.stretch.value else found

    def show(self, *_: object) -> None:
        """Draw what the panel stands at."""
        modality, word = self.modality.value, self.word.value
        picture = overlay(self.images[modality], self.heat(word))
        words = f"“{word}”, {self._where()}"
        self.shown.value = panel.picture(picture, words, f"Attention of {words}, over the synthetic {modality}")
        self.status.value = panel.said(f"{modality}: {words}.")

    def figure(self, words: Sequence[str] | None = None) -> Figure:
        """Static sheet: the picture, then the map of each word at the panel's layer and step.

        Args:
            words: which; default all of the sentence.
        """
        modality = self.modality.value
        words = list(words or self.words(modality))
        columns = 1 + (len(words) + 1) // 2
        figure = Figure(figsize=(1.7 * columns, 4.1), dpi=80, layout="constrained")
        axes = figure.subplots(2, columns)
        for ax in axes.flat:
            ax.set_axis_off()
        axes[0, 0].imshow(self.images[modality], cmap="gray", vmin=0, vmax=1)
        axes[0, 0].set_title(f"{modality}, synthetic", fontsize=9)
        for ax, word in zip(axes[:, 1:].flat, words, strict=False):
            ax.imshow(overlay(self.images[modality], self.heat(word)))
            ax.set_title(word, fontsize=9, fontweight="bold" if word == self.word.value else "normal")
        figure.suptitle(f"{self.trace.prompts[self.trace.row_of(modality)]}; {self._where()}", fontsize=9)
        return figure

    def _where(self) -> str:
        layer = "all layers" if self.layer.value == ALL else f"layer {self.layer.value}"
        return f"{layer}, " + ("all steps" if self.step.value == ALL else f"step {self.step.value}")

    def _other_picture(self, *_: object) -> None:
        """Its sentence has another modality word; the others stay."""
        words, before = self.words(self.modality.value), self.word.index
        self.word.options = words
        self.word.index = min(before or 0, len(words) - 1)
        self.show()
