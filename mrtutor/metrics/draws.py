"""Sets of synthetic sequences on disk, one file a sequence, so that a run that was killed goes on without gap or copy.

Every model is asked for the same sequences: structures of *held-out* patients only, half of them mutant. Where more
sequences are wanted than there are held-out slices, a slice serves again with another modality's edges and another
noise, never a training slice. Each file bears what it was drawn from in its name; the folder bears the keys of weights
and cohort. So other weights, another cohort or another seed never mix, and a larger set begins with the smaller one.

Axes: n sequences · M = 4 modalities in the order of `Modality` · H, W image pixels (256).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, nn
from tqdm.auto import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import SIZE, canny
from mrtutor.files import atomic_path, write_json
from mrtutor.metrics.reconstruction import reconstruct_slices
from mrtutor.models.residual import add_residual
from mrtutor.sampling.arguments import own_streams
from mrtutor.training.batches import cohort_key
from mrtutor.vocabulary import IDH, Modality, prompt

SPLIT = "test"
SHAPE = (len(Modality), SIZE, SIZE)


@dataclass(frozen=True)
class Order:
    """What one sequence is drawn from."""

    row: int  # of the cohort: whose structure, and whose tumour mask goes with the result
    edges_of: Modality  # whose edges are the structure
    idh: IDH  # the word in the sentence
    seed: int  # of the noise
    structure: np.ndarray  # (H, W) bool

    @property
    def name(self) -> str:
        """File name: all that decides the picture, apart from weights and cohort."""
        return f"row{self.row:05d}-{self.edges_of}-{self.idh}-{self.seed}.npy"


@dataclass(frozen=True)
class Sampler:
    """A model: `draw(order)` gives a sequence (4, 256, 256) in [0, 1]; `key` changes with its weights and settings."""

    key: str
    draw: Callable[[Order], object]
    follows_structure: bool = False


@dataclass(frozen=True)
class SyntheticSet:
    """Synthetic sequences of one model, with what each was drawn from."""

    name: str
    images: np.ndarray  # (n, 4, 256, 256) uint8
    rows: np.ndarray  # (n,) rows of the cohort
    idh: list[IDH]  # the word used
    patients: np.ndarray  # (n,) subject ids of the rows: intervals resample patients

    def __len__(self) -> int:
        return len(self.rows)


def held_out_rows(cohort: Cohort, count: int) -> np.ndarray:
    """`count` rows of the test split, mutant and wild in turn, all patients of a type before a second slice of one.

    Slices come in random order, the same each time: from below, a small set would hold the lowest slices alone, whose
    tumours are small, and its Fréchet distance would tell of that. The first k of `count` rows are the rows of `count`
    = k. Rows repeat where `count` exceeds what there is.

    Raises:
        ValueError: no held-out slice of a type.
    """
    shuffle = np.random.default_rng(0).permutation
    by_type = [_patients_in_turn(cohort, shuffle(_rows_of(cohort, idh))) for idh in IDH]
    return np.stack([np.resize(rows, (count + 1) // 2) for rows in by_type], axis=1).ravel()[:count]


def orders(cohort: Cohort, rows: Iterable[int], *, seed: int = 0, swap_idh: bool = False) -> list[Order]:
    """One order per row of the test split. When a row comes again, the next modality's edges and another noise.

    What a row is drawn from, the k-th time, depends on no other row that is asked for.

    Args:
        swap_idh: ask for the other IDH type than the patient's.

    Raises:
        ValueError: rows outside the test split; no held-out slice of a type.
    """
    rows = np.asarray(list(rows), dtype=int)
    if outside := np.setdiff1d(rows, cohort.rows(SPLIT)).tolist():
        raise ValueError(
            f"Rows {', '.join(map(str, outside[:3]))} are not of the {SPLIT} split: only structures of held-out "
            "patients are drawn from; choose them with held_out_rows(cohort, count)."
        )
    ranked = [_patients_in_turn(cohort, _rows_of(cohort, idh)) for idh in IDH]
    place = {row: (rank, own) for own, of_type in enumerate(ranked) for rank, row in enumerate(of_type.tolist())}
    times: Counter[int] = Counter()
    found = []
    for row in rows.tolist():
        rank, own = place[row]
        edges_of = list(Modality)[(rank + times[row]) % len(Modality)]
        number = len(IDH) * (rank + times[row] * len(ranked[own])) + own  # mutant even, wild odd: none comes twice
        times[row] += 1
        structure = canny(cohort.images[row, list(Modality).index(edges_of)]) > 0
        idh = list(IDH)[own - swap_idh]  # of two types, the one before is the other
        found.append(Order(row, edges_of, idh, seed * 100_003 + number, structure))
    return found


def _rows_of(cohort: Cohort, idh: IDH) -> np.ndarray:
    """Held-out rows of a type, each patient's from below."""
    rows = cohort.rows(SPLIT, idh)
    if not len(rows):
        raise ValueError(f"No {idh} slice in the {SPLIT} split of {cohort.path}: use a larger cohort.")
    return rows


def _patients_in_turn(cohort: Cohort, rows: np.ndarray) -> np.ndarray:
    """The rows, all patients' first before a second of one."""
    patients = cohort.table["subject_id"].iloc[rows]
    turn = patients.groupby(patients).cumcount().to_numpy()
    return rows[np.argsort(turn, kind="stable")]


def draw_set(
    name: str,
    sampler: Sampler,
    cohort: Cohort,
    rows: Iterable[int],
    folder: str | Path,
    seed: int = 0,
    *,
    swap_idh: bool = False,
) -> SyntheticSet:
    """Draw the sequences that are not on disk yet; give them all.

    Args:
        name: of the model, for the folder and the progress bar: letters, digits, - and _.
        rows: of the cohort, such as `held_out_rows`; they must be held out.
        folder: parent of the set's folder ``<name>-<key>``.
        swap_idh: see `orders`.

    Raises:
        ValueError: a bad name, no rows, rows outside the test split; a sampler that gives something else than
            (4, 256, 256) finite values in [0, 1].
    """
    rows = np.asarray(list(rows), dtype=int)
    _check(name, rows)
    wanted = orders(cohort, rows, seed=seed, swap_idh=swap_idh)
    place = set_folder(folder, name, sampler.key, cohort, seed)
    missing = [order for order in wanted if not (place / order.name).is_file()]
    if missing:
        about = {"model": name, "weights": sampler.key, "cohort": cohort_key(cohort), "seed": seed, "synthetic": True}
        write_json(place / "set.json", about)
    for order in tqdm(missing, desc=name, initial=len(wanted) - len(missing), total=len(wanted), disable=not missing):
        sequence = _as_uint8(name, sampler.draw(order))
        with atomic_path(place / order.name) as temporary:
            np.save(temporary, sequence)
    images = np.stack([np.load(place / order.name) for order in wanted])
    patients = cohort.table["subject_id"].to_numpy()[rows]
    return SyntheticSet(name, images, rows, [order.idh for order in wanted], patients)


def set_folder(folder: str | Path, name: str, key: str, cohort: Cohort, seed: int = 0) -> Path:
    """Where `draw_set` keeps what the sampler of this key draws."""
    digest = hashlib.sha256(f"{key} {cohort_key(cohort)} {seed}".encode()).hexdigest()[:12]
    return Path(folder) / f"{name}-{digest}"


def cohort_set(cohort: Cohort, rows: Iterable[int], name: str = "cohort") -> SyntheticSet:
    """The held-out slices themselves in the same form: the ceiling of every table."""
    rows = np.asarray(list(rows), dtype=int)
    table = cohort.table.iloc[rows]
    return SyntheticSet(
        name, np.array(cohort.images[rows]), rows, [IDH(w) for w in table["idh"]], table["subject_id"].to_numpy()
    )


def pipeline_sampler(pipeline, *, structure: bool = True, **options: object) -> Sampler:
    """`MRPipeline` as a sampler; `structure=False` leaves the structure out, which makes it the plain LDM.

    Args:
        options: passed on to `MRPipeline.sequence`.
    """
    with_map = structure and str(pipeline.config.variant) != "none"
    if not structure and str(pipeline.config.variant) != "none":
        options = {**options, "structure_scale": 0.0}
    pipeline.set_progress_bar_config(disable=True)

    def draw(order: Order) -> np.ndarray:
        given = order.structure if with_map or "structure_scale" in options else None
        return np.stack([x.numpy() for x in pipeline.sequence(order.idh, given, order.seed, **options).values()])

    return Sampler(f"{weights_key(pipeline)} structure={with_map} {sorted(options.items())}", draw, with_map)


def reconstruction_sampler(pipeline, cohort: Cohort) -> Sampler:
    """True held-out slices through the pipeline's autoencoder, grain included: what perfect latents would look like."""

    def draw(order: Order) -> np.ndarray:
        images = np.asarray(cohort.images[[order.row]], dtype=np.float32) / 255
        means = torch.from_numpy(reconstruct_slices(pipeline.autoencoder, images, torch.float32)[0])
        streams = own_streams(Generator().manual_seed(order.seed), [prompt(m, order.idh) for m in Modality])
        return add_residual(means, pipeline.residual, streams).numpy()

    return Sampler(f"autoencoder of {weights_key(pipeline)}", draw)


def weights_key(pipeline) -> str:
    """Twelve hex digits that change with any weight of a pipeline, and with the settings of its sampler."""
    settings = [sorted(pipeline.parameters.items()), sorted(dict(pipeline.scheduler.config).items(), key=str)]
    parts = (pipeline.autoencoder, pipeline.text_encoder, pipeline.unet, pipeline.guidance)
    return network_key(*(part for part in parts if part is not None), about=repr(settings))


def network_key(*networks: nn.Module, about: str = "") -> str:
    """Twelve hex digits that change with any weight of the networks, and with `about`."""
    digest = hashlib.sha256(about.encode())
    for network in networks:
        for name, value in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _as_uint8(name: str, drawn: object) -> np.ndarray:
    sequence = torch.as_tensor(drawn).detach().cpu().float().numpy()
    if sequence.shape != SHAPE or not np.isfinite(sequence).all() or sequence.min() < 0 or sequence.max() > 1:
        raise ValueError(
            f"Expected of {name} a sequence {SHAPE} of finite values in [0, 1], got {sequence.shape} "
            f"in {sequence.min():.3g}…{sequence.max():.3g}: clamp and check the sampler."
        )
    return np.round(sequence * 255).astype(np.uint8)


def _check(name: str, rows: np.ndarray) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"Expected a name of letters, digits, - and _, got {name!r}: it becomes a folder's name.")
    if not len(rows):
        raise ValueError("Expected at least one row, got none: choose them with held_out_rows(cohort, count).")
