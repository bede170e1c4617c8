"""A real-looking case through `sample`: the right slice, the right edges, marked files, clear refusals."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from subjects import REAL, needs_real_cases, write_case

from mrtutor.metrics.correspondence import FIGURES
from mrtutor.sampling.subject import sample_structure, sample_subject
from mrtutor.vocabulary import Modality


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("cases") / "CASE-1")


def test_the_slice_with_most_tumour_is_drawn_and_saved(case, pipelines, tmp_path: Path) -> None:
    result = sample_subject(pipelines("D"), case, "wild", tmp_path, seed=3)
    assert result.z_index == 32 and result.structure.any()
    assert set(result.synthetic) == set(result.real) == set(Modality)
    assert all(p.shape == (256, 256) and 0 <= p.min() <= p.max() <= 1 for p in result.synthetic.values())
    assert len(result.files) == 9 and all(path.is_file() for path in result.files)
    png = next(p for p in result.files if p.name.endswith("T1Gd_synthetic.png"))
    assert "synthetic image" in Image.open(png).text["Description"]
    nifti = next(p for p in result.files if p.suffix == ".gz")
    assert b"synthetic image" in nib.load(nifti).header["descrip"].tobytes()


def test_another_slice_another_modality_and_figures(case, pipelines, tmp_path: Path) -> None:
    one = sample_subject(pipelines("D"), case, "mutant", tmp_path, slice_index=28, likeness=FIGURES)
    other = sample_subject(pipelines("D"), case, "mutant", tmp_path, slice_index=28, structure_from="FLAIR")
    assert one.z_index == 28 and not np.array_equal(one.structure, other.structure)
    assert len(one.figures) == len(FIGURES) * len(Modality)
    assert "mirror image" in str(one.figures["NCC T1"])


def test_a_structure_map_alone(structure, pipelines, tmp_path: Path) -> None:
    Image.fromarray(structure.numpy()).save(tmp_path / "map.png")
    result = sample_structure(pipelines("D"), tmp_path / "map.png", "wt", tmp_path / "out")
    assert np.array_equal(result.structure, structure.numpy()) and not result.real
    assert len(list((tmp_path / "out").iterdir())) == 9


def test_mistakes_leave_no_files(case, pipelines, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, error, words in (
        ({"idh": "blue"}, ValueError, "mutant, wild"),
        ({"slice_index": 99}, ValueError, "No slice 99"),
        ({"structure_from": "CT"}, ValueError, "Unknown modality"),
        ({"subject": tmp_path / "none"}, FileNotFoundError, "none"),
    ):
        with pytest.raises(error, match=words):
            sample_subject(pipelines("D"), **({"subject": case, "idh": "wild", "out": out} | arguments))
    assert not out.exists()


@needs_real_cases
@pytest.mark.parametrize("name", ["TCGA-DU-7294", "TCGA-FG-6692"])
def test_real_cases(name: str, pipelines, tmp_path: Path) -> None:
    result = sample_subject(pipelines("D"), REAL / name, "wild", tmp_path)
    assert 0.01 < result.structure.mean() < 0.08
