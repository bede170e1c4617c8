"""The one look of all chapters."""

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")

from mrtutor.plot import as_image, crop_box, heat, sheet, show


def _brain() -> np.ndarray:
    image = np.zeros((64, 64), np.float32)
    image[20:40, 10:50] = 0.5
    return image


def test_pictures_are_cropped_alike() -> None:
    rows, columns = crop_box([_brain(), np.roll(_brain(), 3, axis=0)])
    cropped = _brain()[rows, columns]
    assert cropped.shape[0] == cropped.shape[1] < 64 and cropped.sum() == _brain().sum()


def test_empty_pictures_are_not_cropped() -> None:
    assert crop_box([np.zeros((8, 8))]) == (slice(None), slice(None))


def test_forms_of_pictures() -> None:
    assert as_image(torch.ones(1, 4, 4)).shape == (4, 4)
    assert as_image(np.full((4, 4), 255, np.uint8)).max() == 1
    with pytest.raises(ValueError, match="one picture"):
        as_image(np.zeros((2, 4, 4)))


def test_show_and_sheet_draw(tmp_path) -> None:
    show({"a": _brain(), "b": torch.from_numpy(_brain())}, masks=[_brain() > 0, None])
    rows = {"real": [_brain(), None], "synthetic": [_brain(), heat(_brain(), _brain())]}
    sheet(rows, ["FLAIR", "T1"], path=tmp_path / "sheet.png", masks=[None, _brain() > 0])
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_heat_is_strongest_where_the_map_is() -> None:
    weights = np.zeros((64, 64))
    weights[30, 30] = 2.0
    coloured = heat(_brain(), weights)
    assert coloured.shape == (64, 64, 3) and 0 <= coloured.min() and coloured.max() <= 1
    np.testing.assert_allclose(coloured[0, 0], 0)
    assert not np.allclose(coloured[30, 30], 0.5)
