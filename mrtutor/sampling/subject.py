"""A real case's structure, painted anew: the synthetic sequence beside the real one.

The structure is taken from T1Gd by default.

Axes: H, W image pixels (256); row 0 anterior, column 0 the patient's right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mrtutor.data.export import NOTICE, save_nifti_slice, save_png
from mrtutor.data.nifti import read_folder
from mrtutor.data.prepare import prepare_slice
from mrtutor.data.structure import canny, validate_structure
from mrtutor.files import atomic_path
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import IDH, Modality, prompt

Likeness = Callable[[np.ndarray, np.ndarray], float]  # two images (H, W) in [0, 1] -> a number


@dataclass(frozen=True)
class Agreement:
    """How like the real slice the synthetic one is, and, as a yardstick, the real slice mirrored left to right."""

    synthetic: float
    mirrored: float

    def __str__(self) -> str:
        return f"{self.synthetic:.3f} (the real slice's own mirror image: {self.mirrored:.3f})"


@dataclass(frozen=True)
class SubjectSample:
    """What was drawn and where it lies.

    Attributes:
        synthetic: modality -> (256, 256) float32 in [0, 1].
        real: the same of the real slice; empty where a structure map was all there was.
        structure: (256, 256) bool.
        z_index: number of the slice on the 1 mm grid, None without a subject.
        figures: "SSIM FLAIR" … -> `Agreement`; empty unless asked for.
        files: comparison first, then PNG and NIfTI of each modality.
    """

    idh: IDH
    synthetic: dict[Modality, np.ndarray]
    structure: np.ndarray
    files: tuple[Path, ...]
    real: dict[Modality, np.ndarray] = field(default_factory=dict)
    z_index: int | None = None
    figures: dict[str, Agreement] = field(default_factory=dict)


def sample_subject(
    pipe: MRPipeline,
    subject: str | Path,
    idh: IDH | str,
    out: str | Path,
    *,
    slice_index: int | None = None,
    structure_from: Modality | str = Modality.T1GD,
    seed: int = 0,
    steps: int | None = None,
    likeness: Mapping[str, Likeness] | None = None,
) -> SubjectSample:
    """Read a real four-modality case, take the edges of one slice, draw the sequence beside the real one.

    Args:
        subject: folder of the case, see `mrtutor.data.nifti.read_folder`.
        idh: type to draw, which need not be the patient's.
        out: folder for pictures and NIfTI.
        slice_index: axial slice on the 1 mm grid; default the one with most tumour (needs a segmentation).
        structure_from: modality whose Canny edges (100/200, §4.1) are the structure of all four.
        seed: of the noise.
        steps: sampling steps; default the pipeline's.
        likeness: measures of two images by name, such as `mrtutor.metrics.correspondence.FIGURES`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: unknown words; a case that cannot be read or prepared; a slice without edges.
        OSError: no permission or a full disk; no file is left half-written.
    """
    idh, source = IDH(idh), Modality(structure_from)
    case = read_folder(subject)
    prepared = prepare_slice(case, slice_index)
    pictures = prepared.images[0]  # (4, 256, 256) uint8
    real = {m: pictures[i].astype(np.float32) / 255 for i, m in enumerate(Modality)}
    structure = validate_structure(canny(pictures[list(Modality).index(source)]))
    z = int(prepared.z_index[0])
    synthetic = _draw(pipe, idh, structure, seed, steps)
    edges = structure[0, 0].numpy() > 0
    stem = f"{case['subject_id']}_z{z:03d}_{idh}_seed{seed}"
    title = f"{case['subject_id']}, slice {z}; edges of {source}; drawn as IDH {idh}, seed {seed}"
    files = _save(Path(out), stem, title, idh, seed, synthetic, edges, real)
    figures = {
        f"{name.upper()} {m}": Agreement(measure(synthetic[m], real[m]), measure(real[m][:, ::-1], real[m]))
        for name, measure in (likeness or {}).items()
        for m in Modality
    }
    return SubjectSample(idh, synthetic, edges, files, real, z, figures)


def sample_structure(
    pipe: MRPipeline,
    structure: object,
    idh: IDH | str,
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
) -> SubjectSample:
    """Draw a sequence from a structure map alone.

    Args:
        structure: black-and-white picture 256 × 256 or anything else that `validate_structure` takes.
        idh: type to draw.
        out: folder for pictures and NIfTI.
        seed: of the noise.
        steps: sampling steps; default the pipeline's.

    Raises:
        FileNotFoundError, ValueError: as `validate_structure`; an unknown IDH word; several maps.
        OSError: no permission or a full disk; no file is left half-written.
    """
    idh = IDH(idh)
    maps = validate_structure(structure)
    synthetic = _draw(pipe, idh, maps, seed, steps)
    edges = maps[0, 0].numpy() > 0
    title = f"own structure map; drawn as IDH {idh}, seed {seed}"
    files = _save(Path(out), f"structure_{idh}_seed{seed}", title, idh, seed, synthetic, edges, {})
    return SubjectSample(idh, synthetic, edges, files)


def _draw(pipe: MRPipeline, idh: IDH, structure: object, seed: int, steps: int | None) -> dict[Modality, np.ndarray]:
    return pipe.sequence(idh, structure, seed=seed, num_inference_steps=steps, output_type="np")


def _save(
    out: Path,
    stem: str,
    title: str,
    idh: IDH,
    seed: int,
    synthetic: dict[Modality, np.ndarray],
    edges: np.ndarray,
    real: dict[Modality, np.ndarray],
) -> tuple[Path, ...]:
    """Comparison sheet, and each synthetic slice as PNG and NIfTI, all marked as synthetic."""
    files = [save_comparison(out / f"{stem}_comparison.png", title, synthetic, edges, real)]
    for m, picture in synthetic.items():
        text = {"Prompt": prompt(m, idh), "Seed": str(seed), "Source": title}
        files.append(save_png(picture, out / f"{stem}_{m}_synthetic.png", **text))
        files.append(save_nifti_slice(picture, out / f"{stem}_{m}_synthetic.nii.gz"))
    return tuple(files)


def save_comparison(
    path: Path,
    title: str,
    synthetic: dict[Modality, np.ndarray],
    edges: np.ndarray,
    real: dict[Modality, np.ndarray],
) -> Path:
    """Sheet: real row (where there is one) above the synthetic row, the structure beside them.

    Args:
        path: ends in ``.png``.
        title: stands above the pictures.
        synthetic: modality -> (256, 256) in [0, 1].
        edges: (256, 256) bool.
        real: the same modalities, or empty.
    """
    rows = {"real": real, "synthetic": synthetic} if real else {"synthetic": synthetic}
    figure = Figure(figsize=(2.2 * (len(synthetic) + 1), 2.2 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(synthetic) + 1, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, (m, picture) in zip(line[1:], pictures.items(), strict=True):
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="none")
            ax.set_title(f"{m}, {name}", fontsize=9)
    axes[-1, 0].imshow(edges, cmap="gray", vmin=0, vmax=1, interpolation="none")
    axes[-1, 0].set_title("structure", fontsize=9)
    figure.suptitle(f"{title}\n{NOTICE}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Description": NOTICE})
    return path
