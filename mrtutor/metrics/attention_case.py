"""One structure, drawn under several sentences: which word's map finds the tumour, and what needs no word for it?

Every case is drawn four times from the same noise and the same structure: with its sentence, with the other type, with
the words of the sentence in another order, and with a meaningless word in place of "glioma".

Axes: M = 4 modalities in the order of `Modality` · H, W image pixels (256).

Source: Kim et al., WACV 2024, Eq. 6, Fig. 4 and Fig. 5; Adebayo et al., NeurIPS 2018 (maps need nulls).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrtutor.data.structure import canny
from mrtutor.metrics.interventions import change, draw, intervene, other
from mrtutor.metrics.localisation import FIGURES, average_precision, prevalence
from mrtutor.sampling.attention import Trace, trace_attention
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Modality, prompt

Extract = Callable[[Tensor], Tensor]  # (B, H, W) in [0, 1] -> (B, D)

MEANINGLESS = "zorbik"  # as many letters as "glioma", and in no vocabulary
BRAIN = 0.05  # a pixel is brain where some modality of the true slice is brighter
MODALITY, TYPE = "(modality)", "(type)"  # stand for the words that differ between sentences
WORDS = ("<start>", "A", MODALITY, "modality", "MR", "image", "type", "of", "IDH", TYPE, "glioma", "<end>")
PERMUTED, NONSENSE, EDGES, PLACE = "permuted prompt", "meaningless word", "structure alone", "average place"


@dataclass(frozen=True)
class Case:
    """One slice whose structure is drawn from.

    Attributes:
        number: of the case, unique in a study: the row of the cohort, for one.
        patient: intervals and tests keep a patient's slices together.
        idh: the patient's type.
        structure: (H, W) bool, the edges.
        mask: (H, W) bool, the tumour of the slice that gave the structure.
        brain: (H, W) bool; maps are judged inside it, since black background is no tumour for any map.
        seed: of the noise.
    """

    number: int
    patient: str
    idh: IDH
    structure: np.ndarray
    mask: np.ndarray
    brain: np.ndarray
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.patient}-{self.number:05d}"


def make_case(images: np.ndarray, mask: np.ndarray, idh: IDH, patient: str, number: int, seed: int = 0) -> Case:
    """A case from a slice (4, H, W) in [0, 1] and its tumour labels.

    Args:
        number: of the case; the modality that gives the edges goes round with it.
        seed: of the study; each case has its own noise.
    """
    edges = canny(images[number % len(Modality)]) > 0
    return Case(number, patient, IDH(idh), edges, mask > 0, images.max(axis=0) > BRAIN, seed * 100_003 + number)


def shuffled(sentences: list[str], seed: int) -> tuple[list[str], list[str]]:
    """The words of each sentence in another order, the same for all, and the word now at the place of the last.

    The last word, "glioma" in ours, never stays. Commas are dropped.

    Raises:
        ValueError: sentences of one word, or of different lengths.
    """
    words = [s.replace(",", "").split() for s in sentences]
    count = len(words[0])
    if count < 2 or any(len(w) != count for w in words):
        raise ValueError(f"Expected sentences of as many words, two at least, got {sentences!r}.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    while order[-1] == count - 1:
        order = rng.permutation(count)
    return [" ".join(w[i] for i in order) for w in words], [w[order[-1]] for w in words]


def traced(pipeline: MRPipeline, sentences: list[str], case: Case, **options: object) -> tuple[Trace, np.ndarray]:
    """Pictures (len(sentences), H, W) of a case and where their words were looked for."""
    with trace_attention(pipeline) as trace:
        images = draw(pipeline, sentences, case.structure, case.seed, **options)
    return trace, images


def word_maps(trace: Trace, idh: IDH) -> dict[str, np.ndarray]:
    """Map (H, W) of each of `WORDS`, averaged over the modalities; of the modality words each from its own sentence."""
    maps = {word: trace.heat_map(str(idh) if word == TYPE else word) for word in WORDS if word != MODALITY}
    own = torch.stack([trace.heat_map(str(m), modality=m, normalise=False) for m in Modality]).mean(dim=0)
    return {word: (own / own.max() if word == MODALITY else maps[word]).numpy() for word in WORDS}


def measure_case(
    pipeline: MRPipeline,
    case: Case,
    rivals: Mapping[str, np.ndarray],
    elsewhere: np.ndarray,
    features: Extract | None = None,
    causal: bool = False,
    **options: object,
) -> dict:
    """All figures of one case, as plain numbers.

    Args:
        rivals: maps (H, W) that need no word at all: further nulls by name.
        elsewhere: another patient's tumour mask (H, W), which the map should not find.
        features: of Fig. 5; None leaves it out.
        causal: also silence and swap words (eight more sequences).
        options: of the pipeline.
    """
    own, swapped = ([prompt(m, idh) for m in Modality] for idh in (case.idh, other(case.idh)))
    trace, images = traced(pipeline, own, case, **options)
    rival_trace, rival_images = traced(pipeline, swapped, case, **options)
    measured = {"patient": case.patient, "idh": str(case.idh), "prevalence": prevalence(case.mask, case.brain)}
    measured |= _localised(trace, case) | _elsewhere(trace, case, elsewhere)
    measured["nulls"] = {k: _score(v, case) for k, v in (_nulls(pipeline, own, case, options) | dict(rivals)).items()}
    if features is not None:
        measured["features"] = {
            "own": _features(features, trace, images, case.idh),
            "other": _features(features, rival_trace, rival_images, other(case.idh)),
        }
    if causal:
        changed = intervene(pipeline, case.idh, case.structure, case.seed, **options)
        reference = changed.pop("as it is")
        measured["causal"] = {k: change(v, reference, case.mask, case.brain) for k, v in changed.items()}
    return measured


def _score(scores: np.ndarray | Tensor, case: Case) -> dict[str, float]:
    return {name: figure(np.asarray(scores), case.mask, case.brain) for name, figure in FIGURES.items()}


def _localised(trace: Trace, case: Case) -> dict:
    """Every word, and "glioma" by layer and by modality."""
    by_layer = {str(x): trace.heat_map("glioma", layer=x) for x in trace.layers}
    by_modality = {str(m): trace.heat_map("glioma", modality=m) for m in Modality}
    return {
        "words": {word: _score(found, case) for word, found in word_maps(trace, case.idh).items()},
        "layers": {name: _score(found, case)["auprc"] for name, found in by_layer.items()},
        "modalities": {name: _score(found, case)["auprc"] for name, found in by_modality.items()},
    }


def _elsewhere(trace: Trace, case: Case, elsewhere: np.ndarray) -> dict:
    """The same map against a tumour that is another patient's; {} where that lies outside this brain."""
    region = case.brain & (np.asarray(elsewhere) > 0)
    if not region.any():
        return {}
    found = average_precision(trace.heat_map("glioma").numpy(), region, case.brain)
    return {"elsewhere": {"auprc": found, "prevalence": prevalence(region, case.brain)}}


def _nulls(pipeline: MRPipeline, own: list[str], case: Case, options: dict) -> dict[str, np.ndarray]:
    """Maps (H, W) of whatever stands where "glioma" stood, and of a word that means nothing."""
    sentences, last = shuffled(own, case.seed)
    permuted, _ = traced(pipeline, sentences, case, **options)
    nonsense, _ = traced(pipeline, [s.replace("glioma", MEANINGLESS) for s in own], case, **options)
    in_place = [permuted.heat_map(word, row=row, normalise=False) for row, word in enumerate(last)]
    return {PERMUTED: torch.stack(in_place).mean(dim=0).numpy(), NONSENSE: nonsense.heat_map(MEANINGLESS).numpy()}


def _features(features: Extract, trace: Trace, images: np.ndarray, idh: IDH) -> dict[str, list[float]]:
    """Of two maps and of the pictures, each averaged over the four modalities (Fig. 5)."""
    pictures = torch.stack([trace.heat_map("glioma"), trace.heat_map(str(idh)), torch.from_numpy(images).mean(dim=0)])
    found = features(pictures).flatten(1)
    return {
        name: [round(x, 5) for x in row] for name, row in zip(("glioma", TYPE, "images"), found.tolist(), strict=True)
    }
