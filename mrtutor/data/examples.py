"""A few prepared slices that come with the course, so that a first picture needs no cohort. Simulated, no patients.

One ``.npz`` per example in ``data/examples`` (images, mask and four words about them), ``SHA256SUMS`` over all. The
structure is not stored: it is the Canny edges of one of the four images, as everywhere.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrtutor.data.structure import SIZE, canny
from mrtutor.files import atomic_path, verify_checksums, write_checksums
from mrtutor.vocabulary import IDH, Modality

DATA_VARIABLE = "MRTUTOR_DATA"  # names another folder than the repository's data
MAX_BYTES = 2**20  # of the whole folder
_KEYS = ("images", "mask", "idh", "subject_id", "source", "structure_of")


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
    """

    images: np.ndarray
    mask: np.ndarray
    structure: np.ndarray
    idh: IDH
    subject_id: str
    source: str
    structure_of: Modality


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
        raise FileNotFoundError(
            f"No examples in {folder}: clone the repository, or set {DATA_VARIABLE} to its data folder."
        )
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
    )


def save_example(
    name: str,
    images: np.ndarray,
    mask: np.ndarray,
    idh: IDH | str,
    subject_id: str,
    *,
    source: str = "simulated",
    structure_of: Modality | str = Modality.T1GD,
    folder: str | Path | None = None,
) -> Path:
    """Write an example and renew the folder's checksums; this made ``data/examples``.

        row = cohort.rows("test", "wild")[0]
        record = cohort.table.iloc[row]
        save_example("wild_1", cohort.images[row], cohort.masks[row], record["idh"], record["subject_id"])

    Args:
        name: lower-case letters, digits and underscores; the file's name.
        images: (4, 256, 256) uint8, 0…255 for [0, 1], in the order of `Modality`.
        mask: (256, 256) uint8, tumour labels.
        idh: the patient's type.
        subject_id: the patient.
        source: where the slice comes from.
        structure_of: the modality whose edges are the structure.
        folder: default `examples_folder`.

    Raises:
        ValueError: bad name, shape, type or word, an image without edges, or a folder that would exceed 1 MiB.
    """
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
        raise ValueError(f"Expected a name of lower-case letters, digits and underscores, got {name!r}: rename it.")
    _check(images, mask)
    structure_of, idh = Modality(structure_of), IDH(idh)
    if not canny(np.asarray(images[list(Modality).index(structure_of)])).any():
        raise ValueError(f"The {structure_of} image has no edges: choose another slice or another structure_of.")
    folder = Path(folder or examples_folder())
    path = folder / f"{name}.npz"
    others = sum(p.stat().st_size for p in folder.glob("*.npz") if p != path)
    words = {"idh": str(idh), "subject_id": subject_id, "source": source, "structure_of": str(structure_of)}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, images=images, mask=mask, **words)
        if (total := others + temporary.stat().st_size) > MAX_BYTES:
            raise ValueError(f"The examples would take {total} bytes, more than {MAX_BYTES}: remove one first.")
    write_checksums(folder)
    return path


def _check(images: np.ndarray, mask: np.ndarray) -> None:
    for what, value, shape in (("images", images, (len(Modality), SIZE, SIZE)), ("mask", mask, (SIZE, SIZE))):
        if value.shape != shape or value.dtype != np.uint8:
            raise ValueError(
                f"Expected {what} of shape {shape} and type uint8, got {value.shape} and {value.dtype}: "
                "take them from a Cohort."
            )
