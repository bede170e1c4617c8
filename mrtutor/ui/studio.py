"""The studio: a panel of core ipywidgets that asks for a sequence, shows it, and saves it.

`Studio(pipe)` in the last line of a cell shows the panel; the same object drives Voilà's page and the tests. What is
asked for is checked by `mrtutor.ui.request`, masks are composed by `mrtutor.data.compose`, the panel's parts are built
by `mrtutor.ui.panel`. Images are (256, 256) floats in [0, 1]. Every picture is synthetic; none serves a diagnosis.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mrtutor.data.compose import Ellipse, compose_structure
from mrtutor.data.examples import Example, example_names, load_example
from mrtutor.data.export import NOTICE, save_nifti_slice, save_png
from mrtutor.data.structure import SIZE, validate_structure
from mrtutor.lock import locked
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.ui import panel
from mrtutor.ui.request import four_sentences, read_upload
from mrtutor.vocabulary import Modality, prompt

FALLBACK_TEXT = "The studio is a panel for a running kernel; what it drew stands in the picture below it."


@dataclass(frozen=True)
class Drawing:
    """A sequence and what it was asked for."""

    images: dict[Modality, np.ndarray]
    sentences: dict[Modality, str]
    structure: np.ndarray  # (256, 256) float32 of 0 and 1
    asked: dict[str, str]  # seed, steps, … in words: the text chunks of a saved PNG


class Studio:
    """Panel over a pipeline.

    Args:
        pipe: draws the pictures; its progress bar in the terminal is switched off.
        examples: masks and anatomies to choose from, by name; default all that ship.
        output_dir: where "save" writes to. File names are counted up, never taken from a reader.

    Raises:
        FileNotFoundError, ValueError: as `load_example`; no example at all.
    """

    def __init__(
        self,
        pipe: MRPipeline,
        examples: Mapping[str, Example] | None = None,
        output_dir: str | Path = "outputs/studio",
    ) -> None:
        self.pipe = pipe
        self.examples = dict(examples) if examples is not None else {n: load_example(n) for n in example_names()}
        if not self.examples:
            raise ValueError("Expected at least one example to take a mask from: see mrtutor.data.examples.")
        self.output_dir = Path(output_dir)
        self.drawing: Drawing | None = None
        pipe.set_progress_bar_config(disable=True)
        self.controls = panel.Controls(list(self.examples), pipe.config)
        self.view = panel.build(self.controls)
        self.controls.draw.on_click(lambda _: self._told(self.draw))
        self.controls.save.on_click(lambda _: self._told(self.save))
        for part in self.controls.of_the_mask:
            part.observe(lambda _: self._told(self.show_mask), "value")
        self._told(self.show_mask)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The panel where widgets work, one sentence where they do not."""
        shown = self.view._repr_mimebundle_(**options)
        data, meta = shown if isinstance(shown, tuple) else (shown, {})
        return data | {"text/plain": FALLBACK_TEXT}, meta

    def structure(self) -> Tensor:
        """The mask that the panel stands at, (1, 1, 256, 256) float32 of 0 and 1.

        Raises:
            ValueError: nothing uploaded yet, a wrong upload, or an ellipse outside the brain.
        """
        controls = self.controls
        if controls.source.value == panel.UPLOADED:
            if not controls.upload.value:
                raise ValueError(f"No mask uploaded yet: choose a picture of {SIZE} x {SIZE} pixels, white on black.")
            return read_upload(controls.upload.value[0]["content"])
        example = self.examples[controls.example.value]
        if controls.source.value == panel.CHOSEN:
            return validate_structure(example.structure)
        return validate_structure(compose_structure(example.structure, example.mask, self.ellipse()))

    def ellipse(self) -> Ellipse:
        """The ellipse that the sliders stand at."""
        return Ellipse(**{name: float(slider.value) for name, slider in self.controls.ellipse.items()})

    def sentences(self) -> dict[Modality, str]:
        """Modality -> sentence, from the menus or from the text.

        Raises:
            ValueError: a text without a place for the modality.
        """
        if self.controls.words.value == panel.MENUS:
            return {m: prompt(m, self.controls.idh.value) for m in Modality}
        return four_sentences(self.controls.sentence.value)

    def show_mask(self) -> None:
        """Redraw the mask in the panel (ValueError as `structure`, but for an upload that is still to come)."""
        self.controls.mask.value = panel.placeholder("no mask yet")
        if self.controls.source.value == panel.UPLOADED and not self.controls.upload.value:
            return
        mask = self.structure()[0, 0].numpy()
        self.controls.mask.value = panel.picture(mask, "the mask: white lines that the model sees")

    def draw(self) -> Drawing:
        """Draw the four modalities that the panel asks for, all from the same noise; the pictures change at the end.

        Raises:
            ValueError: as `structure` and `sentences`; a sentence too long for the text encoder.
        """
        controls = self.controls
        structure, sentences = self.structure(), self.sentences()
        seed, steps, scale = controls.seed.value, controls.steps.value, controls.guidance.value
        controls.progress.value, controls.progress.max = 0, steps
        images = self.pipe(
            list(sentences.values()),
            structure,
            generator=[torch.Generator().manual_seed(seed) for _ in sentences],
            num_inference_steps=steps,
            guidance_scale=scale,
            callback_on_step_end=self._step,
            output_type="np",
        ).images
        asked = {"Seed": str(seed), "Steps": str(steps), "Guidance scale": f"{scale:g}", "Mask": self._mask_words()}
        drawn = dict(zip(sentences, images, strict=True))
        self.drawing = Drawing(drawn, sentences, structure[0, 0].numpy(), asked)
        for modality, image in drawn.items():
            controls.pictures[modality].value = panel.picture(image, f"{modality}, synthetic", sentences[modality])
        words = ", ".join(f"{name.lower()} {value}" for name, value in asked.items())
        controls.status.value = panel.said(f"Drawn: {words}. {NOTICE.capitalize()}.")
        controls.save.disabled = False
        return self.drawing

    def save(self) -> list[Path]:
        """Write PNG and NIfTI of the four pictures last drawn, marked as synthetic.

        Raises:
            ValueError: nothing drawn yet.
            OSError: no permission or a full disk; no file is left half-written.
        """
        if self.drawing is None:
            raise ValueError("Nothing to save yet: press Draw first.")
        files = []
        with locked(self.output_dir / ".lock"):  # another panel on this folder would take the same number
            taken = (int(p.name[:4]) for p in self.output_dir.glob("[0-9][0-9][0-9][0-9]_*.png"))
            number = f"{1 + max(taken, default=0):04d}"
            for modality, image in self.drawing.images.items():
                stem = self.output_dir / f"{number}_{modality}_synthetic"
                text = {"Prompt": self.drawing.sentences[modality], **self.drawing.asked}
                files += [save_png(image, f"{stem}.png", **text), save_nifti_slice(image, f"{stem}.nii.gz")]
        self.controls.status.value = panel.said(f"Saved {len(files)} files, {number}_*, in {self.output_dir}.")
        return files

    def figure(self) -> Figure:
        """Static picture of what was drawn last: the mask and the four modalities.

        Raises:
            ValueError: nothing drawn yet.
        """
        if self.drawing is None:
            raise ValueError("Nothing to show yet: press Draw, or call draw().")
        figure = Figure(figsize=(11, 2.7), dpi=80, layout="constrained")
        shown = {"mask": self.drawing.structure} | {f"{m}, synthetic": i for m, i in self.drawing.images.items()}
        for ax, (title, image) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")
            ax.set(title=title, xticks=[], yticks=[])
        words = [self.drawing.sentences[Modality.T1GD], *(f"{k} {v}".lower() for k, v in self.drawing.asked.items())]
        figure.suptitle("; ".join(words), fontsize=9)
        return figure

    def _step(self, _pipe: MRPipeline, step: int, _t: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.controls.progress.value = step + 1
        return state

    def _mask_words(self) -> str:
        source, name = self.controls.source.value, self.controls.example.value
        if source == panel.UPLOADED:
            return "uploaded"
        if source == panel.CHOSEN:
            return f"example {name}"
        return f"ellipse {', '.join(f'{k} {s.value:g}' for k, s in self.controls.ellipse.items())} over example {name}"

    def _told(self, task: Callable[[], object]) -> None:
        """Run a task of the panel; a mistake of the reader's is said in the panel, not thrown."""
        controls = self.controls
        controls.draw.disabled, controls.error.value = True, ""
        try:
            task()
        except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory on a GPU
            controls.error.value = panel.error(str(error))
        finally:
            controls.draw.disabled = False
