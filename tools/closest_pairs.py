"""Draw the pairs that look most like copies: of each model the picture nearest to a training slice, and that slice.

python -m tools.closest_pairs     after `mrtutor evaluate`, into notebooks/figures/08_closest_pairs.png
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mrtutor import Cohort, Modality
from mrtutor.data.export import NOTICE
from mrtutor.files import atomic_path
from mrtutor.metrics.draws import held_out_rows, orders, set_folder

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "notebooks/figures/08_closest_pairs.png"
REAL = "held_out"  # the row of the report that no model drew
Pair = tuple[np.ndarray, np.ndarray, float]


def closest(report: dict, cohort: Cohort, draws: Path, modality: Modality) -> dict[str, Pair]:
    """Name -> picture (H, W) uint8, nearest training slice (H, W) uint8, their distance as the report has it.

    Args:
        report: of `mrtutor evaluate`.
        draws: where its sequences are kept.

    Raises:
        FileNotFoundError: a model's sequences are not there, or were drawn for another cohort.
    """
    pairs, channel = {}, list(Modality).index(modality)
    for name, found in report["memorisation"].items():
        pair = found["closest"][str(modality)][0]
        if name == REAL:
            picture = cohort.images[pair["query"], channel]
        else:
            key = report["of"]["samplers"][name].rsplit(", ", 1)[0]  # behind it stands how many, of which cohort
            rows = held_out_rows(cohort, found["near"][str(modality)]["n"])
            order = orders(cohort, rows, seed=report["seed"])[pair["query"]]
            path = set_folder(draws, name, key, cohort, report["seed"]) / order.name
            if not path.is_file():
                raise FileNotFoundError(
                    f"{draws} lacks sequences of {name} {key}: run `mrtutor evaluate` with it first."
                )
            picture = np.load(path)[channel]
        pairs[name] = np.array(picture), np.array(cohort.images[pair["row"], channel]), pair["distance"]
    return pairs


def draw(pairs: dict[str, Pair], modality: Modality, path: Path) -> None:
    """Two models a line, of each: picture, nearest training slice, their difference."""
    lines = -(-len(pairs) // 2)
    figure = Figure(figsize=(11, 2 * lines), layout="constrained")
    axes = figure.subplots(lines, 6)
    for ax in axes.flat:
        ax.set_axis_off()
    for place, (name, (picture, nearest, distance)) in zip(axes.reshape(-1, 3), pairs.items(), strict=False):
        difference = np.abs(picture.astype(int) - nearest)
        titles = f"{name}, {modality}", "nearest training slice", f"difference, RMS {distance:.3f}"
        for ax, image, title in zip(place, (picture, nearest, difference), titles, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            ax.set_title(title, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, metadata={"Description": NOTICE})


def main() -> None:
    """Draw the pairs of the stored report."""
    report = json.loads((ROOT / "data/results/evaluation.json").read_text())
    pairs = closest(report, Cohort.open("outputs/cohort"), Path("outputs/evaluation"), Modality.T2)
    draw(pairs, Modality.T2, PICTURE)
    print(f"{PICTURE.name}: closest pairs of {', '.join(pairs)}.")


if __name__ == "__main__":
    main()
