"""A browser for attention: word × layer × step over a synthetic picture (H, W); not for diagnosis."""

import base64
import html
from collections.abc import Mapping
from typing import Any

import cv2
import ipywidgets as w
import numpy as np

from mrtutor.data.structure import SIZE
from mrtutor.pipeline.attention import Trace
from mrtutor.plot import heat
from mrtutor.vocabulary import Modality

ALL = "all"


def stretched(weights: Any) -> np.ndarray:
    """A map (H, W) from its smallest value to its largest as [0, 1]: maps of a small model are nearly flat."""
    weights = np.asarray(weights, np.float64)
    return (weights - weights.min()) / max(float(np.ptp(weights)), 1e-12)


def picture(image: np.ndarray, caption: str, alt: str) -> str:
    """A picture (H, W, 3) in [0, 1] as an HTML figure."""
    png = cv2.imencode(".png", np.round(image[..., ::-1] * 255).astype(np.uint8))[1]
    source = base64.b64encode(png.tobytes()).decode()
    shown = f'<img src="data:image/png;base64,{source}" alt="{html.escape(alt)}" width="{SIZE}" height="{SIZE}">'
    return f'<figure style="margin:4px">{shown}<figcaption>{html.escape(caption)}</figcaption></figure>'


class AttentionBrowser(w.Box):
    """Panel over a trace and the `images`, modality -> (H, W) in [0, 1], that were drawn under it.

    ValueError: nothing traced, or an image whose modality no sentence names.
    """

    def __init__(self, trace: Trace, images: Mapping[Modality, Any]) -> None:
        self.trace = trace
        self.images = {Modality(modality): np.asarray(image) for modality, image in images.items()}
        self.words = {modality: trace.words(trace.row_of(modality)) for modality in self.images}
        layers = [ALL, "down", "middle", "up", *map(str, trace.layers)]
        self.modality = w.ToggleButtons(options=list(self.images), description="picture")
        words = self.words[self.modality.value]
        self.word = w.Dropdown(options=words, value=words[-2], description="word")
        self.layer = w.Dropdown(options=layers, description="layer")
        self.step = w.Dropdown(options=[ALL, *trace.kept_steps], description="step")
        self.stretch = w.Checkbox(value=True, description="smallest value as 0")
        self.shown = w.HTML()
        choices = [self.modality, self.word, self.layer, self.step, self.stretch]
        super().__init__([w.VBox(choices), self.shown], layout={"flex_flow": "row wrap"})
        self.modality.observe(self._other_picture, "value")
        for choice in choices[1:]:
            choice.observe(self.show, "value")
        self.show()

    def __repr__(self) -> str:
        return "The attention browser, a panel for a running kernel."

    def map_of(self, word: str) -> np.ndarray:
        """Map (H, W) of a word in [0, 1], at the panel's picture, layer and step."""
        layer, step = (None if choice.value == ALL else choice.value for choice in (self.layer, self.step))
        found = self.trace.heat_map(word, modality=self.modality.value, layer=layer, step=step).numpy()
        return stretched(found) if self.stretch.value else found

    def show(self, *_: object) -> None:
        """Draw what the panel asks for."""
        modality, word = self.modality.value, self.word.value
        words = f"“{word}”, layer {self.layer.value}, step {self.step.value}"
        drawn = heat(self.images[modality], self.map_of(word))
        self.shown.value = picture(drawn, words, f"Attention of {words}, over the synthetic {modality}")

    def _other_picture(self, *_: object) -> None:
        """Its sentence has another modality word; the others stay."""
        words, index = self.words[self.modality.value], self.word.index
        self.word.options = words
        self.word.index = min(index, len(words) - 1)
        self.show()
