"""Drawing the pictures of a study: balanced cases, one synthetic sequence for each, a slice of the cohort beside it.

Everything comes from patients that nothing was trained on. Each sequence gets the structure and the type of a case;
the cohort's slice of a pair is one of *another* patient, of the same type where there is one, so that the pair are no
twins. Half of the pictures are mirrored, of both sorts alike: with the eight shipped examples, of which four are
held out, it makes the few anatomies last longer.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.examples import examples_cohort
from mrtutor.files import atomic_path
from mrtutor.metrics.draws import weights_key
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.study.pool import REAL, SIMULATED, Pool
from mrtutor.study.store import Study, create_study
from mrtutor.vocabulary import IDH, Modality

if TYPE_CHECKING:
    from mrtutor.sampling.pipeline import MRPipeline

DRAWING = "drawing"  # folder of finished sequences


@dataclass(frozen=True)
class Case:
    """A held-out slice whose edges a sequence is drawn from, or which is shown itself."""

    row: int
    modality: Modality  # whose edges are the structure; of a partner, which is shown
    mirrored: bool


def prepare_study(
    folder: str | Path,
    weights: "str | MRPipeline" = "laptop",
    cohort: str | Path | Cohort | None = None,
    *,
    questions: int = 20,
    minutes: float = 30,
    seed: int = 0,
    steps: int | None = None,
) -> Study:
    """Draw what is missing and write the study; nothing is drawn twice, also after Ctrl-C.

    Args:
        folder: of the study.
        weights: a name, a folder (see `load_pretrained`) or a pipeline.
        cohort: a prepared cohort or its folder; default the shipped examples.
        questions: of each test.
        minutes: for each test.
        seed: of cases, noise, order and sides.
        steps: of sampling; default what the weights were tuned for.

    Raises:
        FileNotFoundError, ValueError: no such weights or cohort; too few held-out patients; see `create_study`.
    """
    pipe = load_pretrained(weights) if isinstance(weights, str | Path) else weights
    if cohort is None:
        cohort = examples_cohort()
    elif not isinstance(cohort, Cohort):
        cohort = Cohort.open(cohort)
    pool = draw_pool(pipe, cohort, questions, Path(folder) / DRAWING, seed=seed, steps=steps)
    return create_study(folder, pool, questions=questions, minutes=minutes, seed=seed)


def choose_cases(cohort: Cohort, count: int, seed: int = 0) -> list[Case]:
    """`count` cases of the test split, half of each type, every patient as often as the next.

    Raises:
        ValueError: no held-out patient of a type, or too few slices for so many different cases.
    """
    rng = np.random.default_rng([seed, 1])
    lanes = [_by_patient(cohort, idh, rng) for idh in IDH]
    half = -(-count // 2)
    if (most := 2 * min(map(len, lanes))) < count:
        raise ValueError(f"The test split gives {most} different cases, half of each type, and {count} were asked for.")
    pairs = zip(*(lane[:half] for lane in lanes), strict=True)
    return [case for pair in pairs for case in pair][:count]


def _by_patient(cohort: Cohort, idh: IDH, rng: np.random.Generator) -> list[Case]:
    """All cases of a type, patients taking turns, each patient's slices taking turns."""
    rows = cohort.rows("test", idh)
    people = cohort.table["subject_id"].to_numpy()
    turns = []
    for person in rng.permutation(np.unique(people[rows])):
        mine = rng.permutation(rows[people[rows] == person])
        ways = [rng.permutation([(m, flip) for m in range(len(Modality)) for flip in (0, 1)]) for _ in mine]
        mine = [(int(row), *map(int, way[k])) for k in range(8) for row, way in zip(mine, ways, strict=True)]
        turns.append([Case(row, list(Modality)[m], bool(flip)) for row, m, flip in mine])
    longest = max(map(len, turns), default=0)
    return [turn[k] for k in range(longest) for turn in turns if k < len(turn)]


def choose_partners(cohort: Cohort, cases: Sequence[Case], seed: int = 0) -> list[Case]:
    """A slice of the cohort for each case: of another patient, and of the same type where there is one.

    Modalities are balanced over the pairs; a slice comes twice only when all have been shown, and then mirrored.

    Raises:
        ValueError: the test split has one patient only.
    """
    rng = np.random.default_rng([seed, 2])
    people, types = (cohort.table[name].to_numpy() for name in ("subject_id", "idh"))
    turns: Counter = Counter()  # of modalities, and of (row, modality)
    partners = []
    for case in cases:
        others = [row for row in cohort.rows("test") if people[row] != people[case.row]]
        if not others:
            raise ValueError("The test split has one patient only: a pair needs slices of two.")
        alike = [row for row in others if types[row] == types[case.row]] or others
        choices = [(int(row), Modality(m)) for row in rng.permutation(alike) for m in rng.permutation(list(Modality))]
        row, modality = min(choices, key=lambda one: (turns[one[1]], turns[one]))
        mirrored = bool((row + list(Modality).index(modality) + seed + turns[row, modality]) % 2)
        turns.update([modality, (row, modality)])
        partners.append(Case(row, modality, mirrored))
    return partners


def draw_pool(
    pipe: "MRPipeline", cohort: Cohort, count: int, drawing: Path, *, seed: int = 0, steps: int | None = None
) -> Pool:
    """All pictures of a study; each sequence is kept in `drawing` as soon as it is there.

    A kept sequence bears a checksum of weights, sampler settings, structure, type, seed and steps in its name, so that
    none of another model, sampler or study is ever taken for it.
    """
    cases = choose_cases(cohort, count, seed)
    partners = choose_partners(cohort, cases, seed)
    types = [IDH(cohort.table["idh"].iloc[case.row]) for case in cases]
    model, steps = weights_key(pipe), steps or pipe.config.num_inference_steps
    pipe.set_progress_bar_config(disable=True)
    sequences = []
    for i, (case, idh) in enumerate(tqdm(list(zip(cases, types, strict=True)), desc="drawing sequences")):
        structure = _turned(cohort.structure(case.row, case.modality), case.mirrored)
        noise = seed * 100_003 + i
        name = hashlib.sha256(structure.tobytes() + f"{model} {idh} {noise} {steps}".encode()).hexdigest()[:20]
        sequences.append(_kept(drawing / f"{name}.npy", pipe, idh, structure, noise, steps))
    slices = [
        _turned(cohort.images[p.row, list(Modality).index(p.modality)], p.mirrored) for p in partners
    ]  # (n, 256, 256)
    simulated = set(cohort.table["source"].iloc[[p.row for p in partners]]) == {"simulated"}
    origin = {"weights": model, "variant": str(pipe.variant), "steps": int(steps), "seed": seed}
    origin |= {"patients": int(cohort.table["subject_id"].iloc[[c.row for c in cases]].nunique())}
    origin |= {"slices": hashlib.sha256(np.stack(slices).tobytes()).hexdigest()[:16]}
    modality = tuple(p.modality for p in partners)
    return Pool(np.stack(sequences), tuple(types), np.stack(slices), modality, SIMULATED if simulated else REAL, origin)


def _kept(path: Path, pipe: "MRPipeline", idh: IDH, structure: np.ndarray, seed: int, steps: int) -> np.ndarray:
    """A sequence (4, 256, 256) uint8 from the disk, or drawn and put there."""
    if path.is_file():
        return np.load(path, allow_pickle=False)
    drawn = pipe.sequence(idh, structure, seed, num_inference_steps=steps)
    sequence = (torch.stack(list(drawn.values())) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        np.save(temporary, sequence)
    return sequence


def _turned(image: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1] if mirrored else image)
