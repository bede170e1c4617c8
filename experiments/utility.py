"""Is a drawn set good for anything? Dice of a tumour segmenter on true test slices, taught by drawn and true slices.

    python -m experiments.utility --cohort outputs/cohort --sets outputs/tables/KEY

`--sets` is what `experiments.tables` drew. Half of the test patients teach, the other half is segmented, and the
reverse. A drawn sequence has the mask of the slice that gave its edges: without edges it fits none, a null.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from experiments.tables import keep
from mrtutor.data.cohort import Cohort
from mrtutor.figures import Figure
from mrtutor.metrics.intervals import estimate, ratio
from mrtutor.pipeline.draw import SampleSet

SHRINK = 4  # 64 pixels a side: a tumour is larger than four pixels
SCALES = (0.0, 1.5, 4.0)  # of the surroundings that a pixel is judged by
FEW = 2  # patients with true slices, where these are rare
BASES = {"synthetic": "dice", "both": "dice", "with_few": "dice_few_patients"}  # what an arm is divided by
Pairs = tuple[np.ndarray, np.ndarray]  # sequences (n, 4, H, W) uint8 and tumour labels (n, H, W)


def pixels(images: np.ndarray, masks: np.ndarray) -> Pairs:
    """Grey values around each pixel, (n · h · w, 4 · scales), and whether it is tumour, (n, h, w) bool."""
    small = block_reduce(images / np.float32(255), (1, 1, SHRINK, SHRINK), np.mean)
    around = np.stack([gaussian_filter(small, (0, 0, scale, scale)) for scale in SCALES], axis=-1)
    tumour = block_reduce(masks > 0, (1, SHRINK, SHRINK), np.mean) > 0.5
    return np.moveaxis(around, 1, -1).reshape(tumour.size, -1), tumour


def dice(taught: Pairs, asked: Pairs, rounds: int) -> np.ndarray:
    """Teach a boosted-tree segmenter one set; overlap of found and true tumour of each sequence of the other, (n,)."""
    values, tumour = pixels(*taught)
    machine = HistGradientBoostingClassifier(max_iter=rounds, random_state=0).fit(values, tumour.ravel())
    values, tumour = pixels(*asked)
    found = machine.predict(values).reshape(tumour.shape)
    both, total = (found & tumour).sum(axis=(1, 2)), found.sum(axis=(1, 2)) + tumour.sum(axis=(1, 2))
    return np.where(total > 0, 2 * both / total.clip(min=1), 1.0)


def main(cohort: Annotated[Path, typer.Option()], sets: Annotated[Path, typer.Option()], rounds: int = 100) -> None:
    """Measure all sets below the folder `sets` with segmenters of `rounds` trees."""
    opened, scores, figures = Cohort.open(cohort), {}, []
    drawn = {f.name: SampleSet.open(f) for f in sorted(sets.iterdir()) if not f.name.endswith("-swapped")}
    rows = opened.rows("test", tumour=True)
    people = opened.table["patient"].to_numpy()[rows]
    for teach, ask in GroupKFold(2, shuffle=True, random_state=0).split(rows, groups=people):
        few = teach[np.isin(people[teach], np.unique(people[teach])[:FEW])]
        true = {"dice": rows[teach], "dice_few_patients": rows[few]}
        lessons = {("truth", arm): (opened.images[some], opened.masks[some]) for arm, some in true.items()}
        for name, one in drawn.items():
            table = one.table[one.table["patient"].isin(people[teach])]
            own = one.images[table["number"]], opened.masks[table["row"]]
            lessons[name, "synthetic"] = own
            for arm in ("both", "with_few"):
                lessons[name, arm] = tuple(map(np.concatenate, zip(lessons["truth", BASES[arm]], own, strict=True)))
        for arm, taught in lessons.items():
            found = dice(taught, (opened.images[rows[ask]], opened.masks[rows[ask]]), rounds)
            scores.setdefault(arm, np.zeros(len(rows)))[ask] = found
    about = {"experiment": "tables", "cohort": "simulated" if opened.simulated else "real"}
    for (name, arm), values in scores.items():
        found = {arm if name == "truth" else f"dice_{arm}": estimate(values, people)}
        if arm in BASES:
            found[f"dice_{arm}_ratio"] = ratio(values, scores["truth", BASES[arm]], people)
        figures += [Figure(model=name, metric=metric, **vars(one), **about) for metric, one in found.items()]
    keep(figures)


if __name__ == "__main__":
    typer.run(main)
