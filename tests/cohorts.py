"""A tiny prepared cohort of ellipses, made in a second: what stages and metrics are tested on."""

import json
from pathlib import Path

import numpy as np

from mrtutor.data.assemble import assemble
from mrtutor.data.cohort import Cohort
from mrtutor.data.manifest import VERSION
from mrtutor.data.prepare import PARAMETERS, PreparedSlices

PATIENTS, SLICES = 20, 2


def ellipse(height: float, width: float, y: float = 128, x: float = 128) -> np.ndarray:
    """(256, 256) bool."""
    rows, columns = np.mgrid[:256, :256]
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1


def slices_of(patient: int) -> PreparedSlices:
    """A brain, two ventricles and a lesion; each modality paints them differently, and IDH types differ too."""
    rng = np.random.default_rng(patient)
    wild = patient % 2
    images, masks = [], []
    for _ in range(SLICES):
        brain = ellipse(*rng.uniform((90, 70), (100, 80)))
        ventricles = ellipse(25, 6, 128, 118) | ellipse(25, 6, 128, 138)
        y, x = rng.uniform(90, 160), rng.uniform(90, 160)
        lesion, core = ellipse(18, 18, y, x) & brain, ellipse(12, 12, y, x) & brain
        painted = []
        for tissue, fluid, bright, inner in (
            (150, 20, 240, 120),
            (180, 30, 90, 60),
            (170, 30, 250, 60),
            (90, 250, 200, 230),
        ):
            image = np.where(brain, tissue, 0) + brain * rng.normal(0, 3, brain.shape)
            image[ventricles] = fluid
            image[lesion] = bright
            if wild:
                image[core] = inner
            painted.append(image.clip(0, 255).astype(np.uint8))
        images.append(painted)
        masks.append(np.where(core, 1 if wild else 4, np.where(lesion, 3 if wild else 2, 0)).astype(np.uint8))
    masks = np.stack(masks)
    z = np.arange(SLICES)
    return PreparedSlices(np.array(images), masks, 5.0 * z.astype(np.float32), (masks > 0).sum((1, 2)), 5 * z)


def write_tiny_cohort(folder: Path) -> Cohort:
    """20 patients, 2 slices each, both IDH types in every split."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    for patient in range(PATIENTS):
        about = {
            "subject_id": f"TEST-{patient:04d}",
            "idh": "wild" if patient % 2 else "mutant",
            "source": "test",
            "phenotype": {},
        }
        np.savez(parts / f"{patient:04d}.npz", about=json.dumps(about), **vars(slices_of(patient)))
    manifest = {
        "version": VERSION,
        "kind": "simulated",
        "seed": 0,
        "noise": True,
        "cases": PATIENTS,
        "preparation": PARAMETERS,
        "skipped": [],
    }
    assemble(sorted(parts.glob("*.npz")), folder / "cohort", manifest)
    return Cohort.open(folder / "cohort")
