"""What a word's attention *does*: silence it, swap it, and measure the change inside and outside the tumour.

A map shows where the model looks; only an intervention shows whether looking there matters.

Axes: M = 4 modalities in the order of `Modality` · H, W image pixels (256).

Source: Hertz et al., ICLR 2023 (prompt-to-prompt); Kim et al., WACV 2024, §4.4.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.prompt_edit import maps_from, reweighted
from mrtutor.vocabulary import IDH, Modality, prompt

CONTROL = "image"  # a word without medical content
INTERVENTIONS = (
    "another seed",
    f"silence '{CONTROL}'",
    "silence 'glioma'",
    "silence the type",
    "silence all that read the type",
    "other type",
    "other type, own maps",
)


def other(idh: IDH) -> IDH:
    """The other type."""
    return IDH.WILD if idh is IDH.MUTANT else IDH.MUTANT


def draw(pipeline: MRPipeline, sentences: Sequence[str], structure: object, seed: int, **options: object) -> np.ndarray:
    """One picture per sentence, all from the same noise, (len(sentences), 256, 256) float32."""
    generators = [torch.Generator().manual_seed(seed) for _ in sentences]
    return pipeline(list(sentences), structure, generator=generators, output_type="np", **options).images


@contextmanager
def in_float32(pipeline: MRPipeline) -> Iterator[None]:
    """Draw in float32 inside the block: bfloat16 alone moves a picture by 6e-4, as much as a silenced word does."""
    own, pipeline.precision = pipeline.precision, torch.float32
    try:
        yield
    finally:
        pipeline.precision = own


def intervene(
    pipeline: MRPipeline, idh: IDH, structure: object, seed: int = 0, **options: object
) -> dict[str, np.ndarray]:
    """A sequence as it is, and under each of `INTERVENTIONS`: nothing else changes, noise and structure least.

    "own maps" is prompt-to-prompt: the other type's words, spoken into the places where the first type's stood. All
    are drawn in float32, so that no difference comes from the number format.

    Returns:
        {"as it is": (4, 256, 256), each intervention: (4, 256, 256)}, float32 in [0, 1].
    """
    own, swapped = ([prompt(m, i) for m in Modality] for i in (idh, other(idh)))

    def silenced(*words: str) -> np.ndarray:
        with reweighted(pipeline, dict.fromkeys(words, 0.0)):
            return draw(pipeline, own, structure, seed, **options)

    count = len(Modality)
    with in_float32(pipeline):
        with maps_from(pipeline, [*range(count)] * 2):
            both = draw(pipeline, own + swapped, structure, seed, **options)
        return {
            "as it is": both[:count],
            "another seed": draw(pipeline, own, structure, seed + 1, **options),
            f"silence '{CONTROL}'": silenced(CONTROL),
            "silence 'glioma'": silenced("glioma"),
            "silence the type": silenced(str(idh)),
            "silence all that read the type": silenced(str(idh), "glioma", "<end>"),
            "other type": draw(pipeline, swapped, structure, seed, **options),
            "other type, own maps": both[count:],
        }


def change(images: np.ndarray, reference: np.ndarray, tumour: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Mean absolute difference inside the tumour and in the rest of the brain, over the modalities.

    Args:
        images: (M, H, W).
        reference: (M, H, W).
        tumour: (H, W) non-zero inside.
        brain: (H, W) non-zero inside.

    Raises:
        ValueError: no pixel of tumour, or none of the brain outside it.
    """
    inside = np.asarray(tumour) != 0
    outside = (np.asarray(brain) != 0) & ~inside
    if not inside.any() or not outside.any():
        raise ValueError("Expected pixels of tumour and of brain around it: take a slice with a tumour.")
    difference = np.abs(np.asarray(images, np.float64) - reference).mean(axis=0)
    return {"inside": float(difference[inside].mean()), "outside": float(difference[outside].mean())}
