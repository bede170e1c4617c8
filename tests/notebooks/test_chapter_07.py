"""Chapter 7 where the smoke run does not go: the cell for a real case, and the solution's walk between two noises."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from mrtutor.data.nifti import write_nifti
from mrtutor.metrics.correspondence import FIGURES
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.sampling.subject import sample_subject
from mrtutor.vocabulary import Modality
from tests.subjects import tiny_subject

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def _cell(name: str, tag: str) -> str:
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    (source,) = [c.source for c in cells if tag in c.metadata.get("tags", [])]
    return source


def test_the_cell_for_a_real_case(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plt.switch_backend("Agg")
    shown: list[Any] = []
    names: dict[str, Any] = {
        "pipe": load_pretrained("smoke", device="cpu"),
        "real_folder": str(write_nifti(tiny_subject(), tmp_path)),
        "real_idh": "wild",
        "output_dir": str(tmp_path / "out"),
        "seed": 0,
        "steps": 1,
        "show": lambda rows, titles: shown.append((list(rows), [len(list(r)) for r in rows.values()], titles)),
        **{"sample_subject": sample_subject, "FIGURES": FIGURES, "Modality": Modality, "plt": plt},
    }
    exec(_cell("07_sample_modalities.ipynb", "real"), names)
    assert shown == [(["real", "synthetic"], [4, 4], list(Modality))]
    said = capsys.readouterr().out
    assert "SSIM FLAIR" in said and "mirror image" in said
    assert len(list((tmp_path / "out/real").glob("*_synthetic.nii.gz"))) == 4


def test_slerp_stays_on_the_sphere() -> None:
    names: dict[str, Any] = {"torch": torch, "seed": 3}
    exec(_cell("solutions/07_sample_modalities.ipynb", "slerp"), names)
    a, b = torch.eye(2)
    quarter = names["slerp"](a, b, 0.5)
    assert torch.allclose(quarter, torch.full((2,), 0.5**0.5)), "half way between two axes"
    assert torch.allclose(names["slerp"](a, b, 1 / 3), torch.tensor([0.75**0.5, 0.5]))
