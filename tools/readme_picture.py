"""Draw the README's picture: one mask, and from it a synthetic sequence of each IDH type.

python tools/readme_picture.py [EXAMPLE]     into notebooks/figures/sequence.png
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from mrtutor import IDH, Modality, load_pretrained
from mrtutor.data.examples import load_example
from mrtutor.data.export import NOTICE
from mrtutor.files import atomic_path

PICTURE = Path(__file__).resolve().parents[1] / "notebooks/figures/sequence.png"


def main(name: str = "wild_2", seed: int = 0) -> None:
    """Draw and save."""
    example, pipe = load_example(name), load_pretrained()
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(len(IDH), 1 + len(Modality))
    for ax in axes.flat:
        ax.set_axis_off()
    axes[0, 0].imshow(example.structure, cmap="gray")
    axes[0, 0].set_title("the mask", fontsize=11)
    for line, idh in zip(axes, IDH, strict=True):
        for ax, (modality, picture) in zip(
            line[1:], pipe.sequence(idh, example.structure, seed=seed).items(), strict=True
        ):
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            ax.set_title(f"{modality}, IDH {idh}", fontsize=11)
    with atomic_path(PICTURE) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Description": NOTICE})
    print(f"{PICTURE.name}: drawn from the mask of {name}, seed {seed}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
