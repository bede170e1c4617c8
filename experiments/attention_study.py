"""Does the map of "glioma" find the tumour, and does the word do anything? On many held-out edge maps, with nulls.

    python -m experiments.attention_study --cohort outputs/cohort --weights laptop --count 110

Every case is drawn from one noise and one edge map: with its sentence, with the words in another order, with a word
that means nothing in the place of "glioma"; one in ten also with silenced words. Maps are scored inside the brain, as
black background is no tumour for any map. Each case is a file: a run that was cut off goes on where it was.

Source: Kim et al., WACV 2024, §4.4, Fig. 4; Adebayo et al., NeurIPS 2018 (nulls); Hertz et al., ICLR 2023.
"""

import json
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from sklearn.metrics import average_precision_score
from tqdm.auto import tqdm

from experiments.tables import keep
from mrtutor.data.cohort import Cohort, choose_rows
from mrtutor.figures import Figure
from mrtutor.files import write_json
from mrtutor.metrics.intervals import Estimate, estimate, ratio, sign_flip_test
from mrtutor.metrics.sequence import brain_of
from mrtutor.pipeline.attention import END, Trace, maps_from, reweighted, trace_attention
from mrtutor.pipeline.draw import OTHER, weights_key
from mrtutor.pipeline.pipeline import MRPipeline
from mrtutor.pipeline.weights import load_pretrained
from mrtutor.vocabulary import IDH, Findings, Modality

WORD, CONTROL, MEANINGLESS = "glioma", "image", "zorbik"  # the last is in no vocabulary
TYPE, MODALITY = "(type)", "(modality)"  # words that differ between sentences
SIGMAS = (4.0, 8.0, 16.0, 24.0, 32.0)  # pixels, of the blur that makes a map of edges; training slices choose one
CAUSAL_EVERY = 10  # one case in ten is also intervened upon
Rivals = Callable[["Case"], dict[str, np.ndarray]]  # maps (H, W) that need no word


class Case:
    """One slice whose edge map is drawn from; the modality that gives the edges goes round with the row."""

    def __init__(self, cohort: Cohort, row: int, seed: int = 0):
        there = np.flatnonzero(cohort.available[row])
        self.patient, self.idh = cohort.table["patient"].iat[row], cohort.idh(row)
        self.findings = Findings(simulated=cohort.findings(row).simulated)
        self.structure = cohort.structure(row, list(Modality)[there[row % len(there)]]) > 0
        self.mask, self.brain = cohort.masks[row] > 0, brain_of(cohort.images[row])
        self.seed = seed * 100_003 + row

    def sentences(self, pipe: MRPipeline, idh: IDH | None) -> list[str]:
        """Of the four modalities; they say no more of the tumour, or the map would be told where it is."""
        return [pipe.sentence(modality, idh, self.findings) for modality in Modality]

    def draw(self, pipe: MRPipeline, sentences: list[str], steps: int, again: int = 0) -> tuple[Trace, np.ndarray]:
        """Where the words were looked for, and the pictures (len(sentences), H, W); `again` changes the noise."""
        generators = [torch.Generator().manual_seed(self.seed + again) for _ in sentences]
        with trace_attention(pipe) as trace:
            images = pipe(sentences, self.structure, generator=generators, num_inference_steps=steps).images
        return trace, images.numpy()

    def score(self, found: np.ndarray | torch.Tensor) -> float:
        """AUPRC of a map (H, W) for the tumour, within the brain; a map that knows nothing reaches the prevalence."""
        return float(average_precision_score(self.mask[self.brain], np.asarray(found)[self.brain]))


def study_rows(cohort: Cohort, count: int, simulated: bool, seed: int) -> list[int]:
    """Held-out slices with tumour of one kind: mutant, wild and unknown types in turn, each over its patients."""
    kind = set(cohort.rows("test", tumour=True, simulated=simulated).tolist())
    order = [row for row in choose_rows(cohort, len(cohort.rows("test", tumour=True)), seed=seed) if row in kind]
    by_type = [[row for row in order if cohort.idh(row) is idh] for idh in (*IDH, None)]
    return [row for turn in zip_longest(*by_type) for row in turn if row is not None][:count]


def fit_rivals(cohort: Cohort) -> Rivals:
    """Nulls that know no sentence: where tumours are on average, and blurred edges, with the blur that finds most."""
    rows = cohort.rows("train", tumour=True)
    place = np.mean([cohort.masks[row] > 0 for row in rows[:: max(1, len(rows) // 1000)]], axis=0)
    fitted = [Case(cohort, int(row)) for row in rows[:: max(1, len(rows) // 64)]]

    def blurred(case: Case, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(case.structure.astype(np.float32), (0, 0), sigma)

    best = max(SIGMAS, key=lambda sigma: np.mean([case.score(blurred(case, sigma)) for case in fitted]))
    return lambda case: {"structure alone": blurred(case, best), "average place": place}


def word_maps(trace: Trace, idh: IDH | None) -> dict[str, torch.Tensor]:
    """Map (H, W) of each word, averaged over the modalities; of the modality words each from its own sentence."""
    own = [trace.heat_map(str(m), modality=m, normalise=False) for m in Modality]
    maps = {TYPE if word == idh else word: trace.heat_map(word) for word in trace.words() if word not in list(Modality)}
    return maps | {MODALITY: torch.stack(own).mean(dim=0)}


def shuffled(sentences: list[str], seed: int) -> tuple[list[str], list[str]]:
    """The words of each sentence in another order, the same for all, and the word now in the place of "glioma"."""
    words = [text.replace(",", "").split() for text in sentences]
    rng, place = np.random.default_rng(seed), words[0].index(WORD)
    order = rng.permutation(len(words[0]))
    while order[place] == place:
        order = rng.permutation(len(words[0]))
    return [" ".join(w[i] for i in order) for w in words], [w[order[place]] for w in words]


def interventions(pipe: MRPipeline, case: Case, own: list[str], steps: int) -> dict[str, float]:
    """Mean absolute change inside the tumour and in the rest of the brain: "change_inside/NAME", "change_outside/NAME".

    "own maps" is prompt-to-prompt: the other type's words, looked for in the places of the first type's.
    """
    idh, count, swapped = str(case.idh), len(own), case.sentences(pipe, OTHER[case.idh])
    silenced = {f"silence '{word}'": [word] for word in (CONTROL, WORD)} | {"silence the type": [idh]}
    drawn = {"another seed": case.draw(pipe, own, steps, again=1)[1], "other type": case.draw(pipe, swapped, steps)[1]}
    for name, words in (silenced | {"silence all that read the type": [idh, WORD, END]}).items():
        with reweighted(pipe, dict.fromkeys(words, 0.0)):
            drawn[name] = case.draw(pipe, own, steps)[1]
    with maps_from(pipe, [*range(count)] * 2):
        both = case.draw(pipe, own + swapped, steps)[1]
    drawn["other type, own maps"], found = both[count:], {}
    for name, images in drawn.items():
        difference = np.abs(images - both[:count]).mean(axis=0)
        found[f"change_inside/{name}"] = float(difference[case.mask].mean())
        found[f"change_outside/{name}"] = float(difference[case.brain & ~case.mask].mean())
    return found


def measure_case(pipe: MRPipeline, case: Case, rivals: Rivals, steps: int, causal: bool = False) -> dict:
    """All figures of one case as plain numbers: "figures" by "metric/group", and AUPRC of the "nulls".

    `causal`: intervene as well, if the type is known (seven more sequences).
    """
    own = case.sentences(pipe, case.idh)
    trace, _ = case.draw(pipe, own, steps)
    maps = word_maps(trace, case.idh) | {layer: trace.heat_map(WORD, layer=layer) for layer in trace.layers}
    maps |= {f"{WORD} in {m}": trace.heat_map(WORD, modality=m) for m in Modality}
    figures = {f"auprc/{name}": case.score(found) for name, found in maps.items()}
    figures["prevalence/mean"] = float(case.mask[case.brain].mean())
    sentences, instead = shuffled(own, case.seed)
    permuted, _ = case.draw(pipe, sentences, steps)
    nonsense, _ = case.draw(pipe, [text.replace(WORD, MEANINGLESS) for text in own], steps)
    in_place = [permuted.heat_map(word, row=row, normalise=False) for row, word in enumerate(instead)]
    nulls = {"permuted prompt": torch.stack(in_place).mean(dim=0), "meaningless word": nonsense.heat_map(MEANINGLESS)}
    nulls = {name: case.score(found) for name, found in (nulls | rivals(case)).items()}
    if causal and case.idh is not None:
        figures |= interventions(pipe, case, own, steps)
    return {"patient": case.patient, "figures": figures, "nulls": nulls}


def report(cases: Sequence[dict], seed: int = 0) -> list[tuple[str, str, str, Estimate | float]]:
    """Model ("" for the pipeline's), metric, group and value, from what `measure_case` gave for each case."""
    patients, values, rows = [case["patient"] for case in cases], {}, []
    for key in dict.fromkeys(key for case in cases for key in case["figures"]):
        some = [case for case in cases if key in case["figures"]]
        values[key], who = np.array([case["figures"][key] for case in some]), [case["patient"] for case in some]
        rows.append(("", *key.split("/", 1), estimate(values[key], who, seed)))
        if key.startswith("change_outside/"):
            name = key.split("/", 1)[1]
            gap = values[f"change_inside/{name}"] - values[key]
            rows.append(("", "change_p", name, sign_flip_test(gap, who, seed)))
    word = values[f"auprc/{WORD}"]
    rows.append(("", "auprc_ratio", WORD, ratio(word, values["prevalence/mean"], patients, seed)))
    for name in cases[0]["nulls"]:
        null = np.array([case["nulls"][name] for case in cases])
        rows.append(("null", "auprc", name, estimate(null, patients, seed)))
        rows.append(("null", "difference", name, estimate(word - null, patients, seed)))
        rows.append(("null", "p", name, sign_flip_test(word - null, patients, seed)))
    return rows


def main(
    cohort: Annotated[Path, typer.Option()],
    weights: str = "laptop",
    count: int = 110,
    steps: int = 12,
    seed: int = 0,
    out: Path = Path("outputs/attention_study"),
) -> None:
    """Measure `count` cases of either kind, real and simulated, with `steps` of sampling (the maps of 25 are alike)."""
    pipe, opened = load_pretrained(weights), Cohort.open(cohort)
    pipe.set_progress_bar_config(disable=True)
    pipe.precision = torch.float32  # bfloat16 alone moves a picture as much as a silenced word does
    rivals, key = fit_rivals(opened), weights_key(pipe)
    folder = out / f"{key}-{opened.key}-{steps}-{seed}"
    for kind in ("real", "simulated"):
        measured, figures = [], []
        rows = study_rows(opened, count, kind == "simulated", seed)
        for number, row in enumerate(tqdm(rows, desc=f"attention, {kind} cases")):
            path = folder / f"{row:06d}.json"
            if not path.is_file():
                inputs = (Case(opened, row, seed), rivals, steps)
                write_json(path, measure_case(pipe, *inputs, causal=number % CAUSAL_EVERY == 0))
            measured.append(json.loads(path.read_text()))
        about = {"experiment": "attention", "cohort": kind, "seed": seed, "weights": key}
        for model, metric, group, found in report(measured, seed) if measured else ():
            numbers = vars(found) if isinstance(found, Estimate) else {"value": found, "n": len(measured)}
            figures.append(Figure(model=model or pipe.variant, metric=metric, group=group, **numbers, **about))
        keep(figures)


if __name__ == "__main__":
    typer.run(main)
