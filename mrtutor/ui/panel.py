"""The studio's parts: which controls there are, how they stand together, how a picture becomes HTML.

Core ipywidgets only. Pictures are `<img>` with alt text in an HTML widget; every text from outside is escaped.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
import numpy as np
from PIL import Image

from mrtutor.data.compose import Ellipse
from mrtutor.data.export import NOTICE
from mrtutor.vocabulary import IDH, Modality, prompt

MENUS, SENTENCE = "menus", "sentence"
CHOSEN, UPLOADED, COMPOSED = "example", "upload", "compose"
_SIDE = 180  # pixels on the screen; the pictures themselves have 256
_ELLIPSE = {  # name -> label, least, most, step
    "x": ("across", 40, 215, 1),
    "y": ("down", 30, 225, 1),
    "width": ("width", 8, 120, 1),
    "height": ("height", 8, 120, 1),
    "angle": ("turn °", -90, 90, 5),
    "core": ("core", 0, 0.9, 0.1),
}


class Controls:
    """Every widget that the studio reads or writes.

    Args:
        names: of the examples.
        defaults: the pipeline's config: `num_inference_steps`, `guidance_scale`.
    """

    def __init__(self, names: Sequence[str], defaults: Mapping[str, Any]) -> None:
        self.words = w.ToggleButtons(options=[MENUS, SENTENCE], description="words", tooltips=["IDH by menu", "free"])
        self.idh = w.ToggleButtons(options=[(f"IDH {i}", i) for i in IDH], value=IDH.WILD, description="type")
        self.sentence = w.Text(
            value=prompt(Modality.T1GD, IDH.WILD), description="sentence", layout=w.Layout(width="95%")
        )
        self.source = w.ToggleButtons(options=[CHOSEN, UPLOADED, COMPOSED], description="mask")
        self.source.style.button_width = "94px"
        self.example = w.Dropdown(options=list(names), description="of example")
        self.upload = w.FileUpload(accept="image/png,image/bmp,image/tiff,image/gif", description="Upload a mask")
        self.ellipse = _ellipse_sliders()
        steps, scale = int(defaults["num_inference_steps"]), float(defaults["guidance_scale"])
        self.seed = w.BoundedIntText(value=0, min=0, max=2**31 - 1, description="seed")
        self.steps = w.IntSlider(value=steps, min=1, max=100, description="steps", continuous_update=False)
        self.guidance = w.FloatSlider(
            value=scale, min=0, max=8, step=0.5, description="guidance", continuous_update=False
        )
        self.draw = w.Button(description="Draw", button_style="primary", icon="paint-brush")
        self.save = w.Button(
            description="Save PNG and NIfTI", icon="save", disabled=True, layout=w.Layout(width="auto")
        )
        self.progress = w.IntProgress(value=0, min=0, max=steps, description="drawing", layout=w.Layout(width="95%"))
        self.status, self.error = w.HTML(said("Press Draw.")), w.HTML()
        self.mask = w.HTML(placeholder("no mask yet"))
        self.pictures = {m: w.HTML(placeholder(f"{m}: not drawn yet")) for m in Modality}

    @property
    def of_the_mask(self) -> list[w.Widget]:
        """Those that change the mask."""
        return [self.source, self.example, self.upload, *self.ellipse.values()]


def _ellipse_sliders() -> dict[str, w.FloatSlider]:
    start = Ellipse()
    return {
        name: w.FloatSlider(
            value=getattr(start, name), min=low, max=high, step=step, description=label, readout_format=".3g"
        )
        for name, (label, low, high, step) in _ELLIPSE.items()
    }


def build(controls: Controls) -> w.Box:
    """Put the controls into their places; what a choice makes useless is hidden."""
    upload = w.VBox([controls.upload, w.HTML("<small>256 × 256 pixels, white lines on black</small>")])
    composed = w.VBox(list(controls.ellipse.values()))
    parts = {MENUS: [controls.idh], SENTENCE: [controls.sentence]}
    parts |= {CHOSEN: [], UPLOADED: [upload], COMPOSED: [composed]}

    def arrange(*_: object) -> None:
        for choice in (controls.words, controls.source):
            for option in choice.options:
                for part in parts[option]:
                    part.layout.display = None if option == choice.value else "none"
        controls.example.layout.display = "none" if controls.source.value == UPLOADED else None

    for choice in (controls.words, controls.source):
        choice.observe(arrange, "value")
    arrange()
    asked = [controls.words, controls.idh, controls.sentence, controls.source, controls.example, upload, composed]
    asked += [controls.seed, controls.steps, controls.guidance, w.HBox([controls.draw, controls.save])]
    left = w.VBox(asked, layout=w.Layout(width="420px", min_width="330px"))
    pictures = w.Box(list(controls.pictures.values()), layout=w.Layout(flex_flow="row wrap"))
    news = w.VBox([controls.progress, controls.error, controls.status], layout=w.Layout(flex="1 1 240px"))
    answers = [pictures, w.Box([controls.mask, news], layout=w.Layout(flex_flow="row wrap"))]
    right = w.VBox(answers, layout=w.Layout(flex="1 1 420px"))
    return w.Box([left, right], layout=w.Layout(flex_flow="row wrap", align_items="flex-start"))


def picture(image: np.ndarray, caption: str, alt: str | None = None) -> str:
    """An image (H, W) in [0, 1] as an HTML figure."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(np.asarray(image) * 255).astype(np.uint8)).save(buffer, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    words = html.escape(f"{alt} ({NOTICE})" if alt else caption, quote=True)
    return _figure(f'<img src="{source}" alt="{words}" width="{_SIDE}" height="{_SIDE}">', caption)


def placeholder(caption: str) -> str:
    """An empty place of the size of a picture."""
    return _figure(f'<div style="width:{_SIDE}px;height:{_SIDE}px;background:#f0f0f0"></div>', caption)


def _figure(content: str, caption: str) -> str:
    words = f'<figcaption style="max-width:{_SIDE}px;line-height:1.2">{html.escape(caption)}</figcaption>'
    return f'<figure style="margin:4px">{content}{words}</figure>'


def error(text: str) -> str:
    """A message in the panel that a screen reader announces."""
    style = "border-left:4px solid #d9822b;background:#fbeedd;padding:6px 10px;line-height:1.3"
    return f'<div role="alert" style="{style}"><b>Not possible.</b> {html.escape(text)}</div>'


def said(text: str) -> str:
    """A line of what happened."""
    return f'<div role="status" style="line-height:1.3">{html.escape(text)}</div>'
