"""A few prepared slices that come with the course, so that a first picture needs no cohort. Simulated, no patients.

One ``.npz`` per example in ``data/examples`` (images, mask and five words about them), ``SHA256SUMS`` over all. The
structure is not stored: it is the Canny edges of one of the four images, as everywhere.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mrtutor.data.cohort import COLUMNS, Cohort
from mrtutor.data.manifest import MASKS, SLICES
from mrtutor.data.split import SPLITS
from mrtutor.data.structure import SIZE, canny
from mrtutor.files import atomic_path, verify_checksums, write_checksums
from mrtutor.vocabulary import IDH, Modality

DATA_VARIABLE = "MRTUTOR_DATA"  # names another folder than the repository's data
MAX_BYTES = 2**20  # of the whole folder
PIXEL_MM = 224 / 256  # side of a pixel after the step from 224 to 256 (§4.1)
_KEYS = ("images", "mask", "idh", "subject_id", "source", "structure_of", "split")


@dataclass(frozen=True)
class Example:
    """One prepared slice of one patient.

    Attributes:
        images: (4, 256, 256) float32 in [0, 1], in the order of `Modality`.
        mask: (256, 256) uint8, tumour labels (`mrtutor.data.volume.TUMOUR_LABELS`).
        structure: (256, 256) uint8, 0 or 255: Canny edges 100/200 of the image `structure_of`.
        idh: the patient's type.
        subject_id: the patient.
        source: where the slice comes from; "simulated" for all that ship.
        structure_of: the modality whose edges are the structure.
        split: the patient's split in the cohort; nothing was trained on "test".
    """

    images: np.ndarray
    mask: np.ndarray
    structure: np.ndarray
    idh: IDH
    subject_id: str
    source: str
    structure_of: Modality
    split: str


def examples_folder() -> Path:
    """``data/examples`` of the repository, or of the folder that the variable ``MRTUTOR_DATA`` names."""
    chosen = os.environ.get(DATA_VARIABLE)
    return (Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "data") / "examples"


def example_names(folder: str | Path | None = None) -> list[str]:
    """Names of the examples, sorted; [] where there is none."""
    return sorted(path.stem for path in Path(folder or examples_folder()).glob("*.npz"))


def load_example(name: str, folder: str | Path | None = None) -> Example:
    """Open an example by name.

    Args:
        name: one of `example_names`.
        folder: default `examples_folder`.

    Raises:
        ValueError: unknown name, which lists the choices; a file truncated, altered or of another content.
        FileNotFoundError: no examples here, or a file of theirs is missing.
    """
    folder = Path(folder or examples_folder())
    names = example_names(folder)
    if not names:
        raise FileNotFoundError(_none_here(folder))
    if name not in names:
        raise ValueError(f"Unknown example {name!r}: expected one of {', '.join(names)}.")
    verify_checksums(folder)
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        if missing := [key for key in _KEYS if key not in stored]:
            raise ValueError(f"Example {name} lacks {', '.join(missing)}: write it with `save_example`.")
        values = {key: stored[key] for key in _KEYS}
    _check(values["images"], values["mask"])
    source_modality = Modality(str(values["structure_of"]))
    return Example(
        images=values["images"].astype(np.float32) / 255,
        mask=values["mask"],
        structure=canny(values["images"][list(Modality).index(source_modality)]),
        idh=IDH(str(values["idh"])),
        subject_id=str(values["subject_id"]),
        source=str(values["source"]),
        structure_of=source_modality,
        split=str(values["split"]),
    )


def _none_here(folder: Path) -> str:
    return f"No examples in {folder}: clone the repository, or set {DATA_VARIABLE} to its data folder."


def save_example(
    name: str,
    images: np.ndarray,
    mask: np.ndarray,
    idh: IDH | str,
    subject_id: str,
    *,
    source: str = "simulated",
    structure_of: Modality | str = Modality.T1GD,
    split: str = "test",
    folder: str | Path | None = None,
) -> Path:
    """Write an example and renew the folder's checksums.

    Args:
        name: lower-case letters, digits and underscores; the file's name.
        images: (4, 256, 256) uint8, 0…255 for [0, 1], in the order of `Modality`.
        mask: (256, 256) uint8, tumour labels.
        idh: the patient's type.
        subject_id: the patient.
        source: where the slice comes from.
        structure_of: the modality whose edges are the structure.
        split: "train", "validation" or "test": where the patient stands in the cohort.
        folder: default `examples_folder`.

    Raises:
        ValueError: bad name, shape, type or word, an image without edges, or a folder that would exceed 1 MiB.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
        raise ValueError(f"Expected a name of lower-case letters, digits and underscores, got {name!r}: rename it.")
    _check(images, mask)
    structure_of, idh = Modality(structure_of), IDH(idh)
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: expected one of {', '.join(SPLITS)}.")
    if not canny(np.asarray(images[list(Modality).index(structure_of)])).any():
        raise ValueError(f"The {structure_of} image has no edges: choose another slice or another structure_of.")
    folder = Path(folder or examples_folder())
    path = folder / f"{name}.npz"
    others = sum(p.stat().st_size for p in folder.glob("*.npz") if p != path)
    words = {"idh": str(idh), "subject_id": subject_id, "source": source, "structure_of": str(structure_of)}
    words |= {"split": split}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, images=images, mask=mask, **words)
        if (total := others + temporary.stat().st_size) > MAX_BYTES:
            raise ValueError(f"The examples would take {total} bytes, more than {MAX_BYTES}: remove one first.")
    write_checksums(folder)
    return path


def choose_examples(cohort: Cohort, each: int = 2) -> dict[str, int]:
    """Names and rows of the examples of a simulated cohort: `each` test patients of a type, then training patients.

    Of each patient the slice with most tumour; in each group first a patient who shows the type's sign (ring with
    necrosis, T2-FLAIR mismatch).

    Returns:
        "wild_1", "wild_2", … -> row of the cohort; 1 to `each` are test patients.

    Raises:
        ValueError: no simulated cohort.
    """
    people = cohort.patients
    if not {"ring_necrosis", "mismatch"} <= set(people):
        raise ValueError(
            f"Expected a simulated cohort, whose patients' signs are known, got {cohort.path} of "
            f"{', '.join(sorted(set(people['source'])))} patients: make one with `mrtutor simulate`."
        )
    people = people.assign(sign=np.where(people["idh"] == "wild", people["ring_necrosis"], people["mismatch"]))
    chosen = {}
    for idh in IDH:
        for group, split in enumerate(("test", "train")):
            some = people[(people["idh"] == str(idh)) & (people["split"] == split)].sort_values("subject_id")
            first = some[some["sign"].astype(bool)]["subject_id"].tolist()[:1]
            names = [*first, *(name for name in some["subject_id"] if name not in first)][:each]
            for place, name in enumerate(names, group * each + 1):
                slices = cohort.table[cohort.table["subject_id"] == name]
                chosen[f"{idh}_{place}"] = int(slices["tumour_px"].idxmax())
    return chosen


def write_examples(cohort: Cohort, folder: str | Path | None = None) -> list[Path]:
    """Save `choose_examples` of a simulated cohort; this made ``data/examples``.

    Raises:
        ValueError, OSError: as `choose_examples` and `save_example`.
    """
    written = []
    for name, row in choose_examples(cohort).items():
        record = cohort.table.iloc[row]
        who = record[["idh", "subject_id", "split", "source"]].to_dict()
        written.append(save_example(name, cohort.images[row], cohort.masks[row], **who, folder=folder))
    return written


def examples_cohort(folder: str | Path | None = None) -> Cohort:
    """The examples as a `Cohort` in memory, so that what takes a cohort also runs where none was simulated.

    The heights of the slices were not kept: column z_mm is NaN.

    Args:
        folder: default `examples_folder`.

    Raises:
        FileNotFoundError, ValueError: as `load_example`.
    """
    folder = Path(folder or examples_folder())
    if not (names := example_names(folder)):
        raise FileNotFoundError(_none_here(folder))
    examples = [load_example(name, folder) for name in names]
    images = np.stack([np.round(e.images * 255).astype(np.uint8) for e in examples])
    masks = np.stack([e.mask for e in examples])
    table = pd.DataFrame(
        {
            "row": range(len(examples)),
            "subject_id": [e.subject_id for e in examples],
            "idh": [str(e.idh) for e in examples],
            "split": [e.split for e in examples],
            "z_mm": np.nan,
            "tumour_px": [round(np.count_nonzero(e.mask) * PIXEL_MM**2) for e in examples],
            "source": [e.source for e in examples],
        }
    )[list(COLUMNS)]
    sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in ((SLICES, images), (MASKS, masks))}
    counts = {"patients": table["subject_id"].nunique(), "slices": len(table)}
    manifest = {"source": "examples", "skipped": [], **counts, "sha256": sums}
    return Cohort(folder, manifest, table, images, masks)


def _check(images: np.ndarray, mask: np.ndarray) -> None:
    for what, value, shape in (("images", images, (len(Modality), SIZE, SIZE)), ("mask", mask, (SIZE, SIZE))):
        if value.shape != shape or value.dtype != np.uint8:
            raise ValueError(
                f"Expected {what} of shape {shape} and type uint8, got {value.shape} and {value.dtype}: "
                "take them from a Cohort."
            )
