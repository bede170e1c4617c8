"""Edge maps: Canny at the paper's thresholds, a check that lets only line drawings pass, and composing."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.data.structure import Ellipse, canny, compose_structure, ellipse_mask, ellipse_outline, validate_structure

SQUARE = np.zeros((256, 256), np.uint8)
SQUARE[60:200, 80:180] = 180
EDGES = cv2.Canny(cv2.GaussianBlur(SQUARE, (5, 5), 0), 100, 200) > 0


def test_canny_is_opencv_at_100_and_200_for_every_type():
    image = cv2.GaussianBlur(SQUARE, (5, 5), 0)
    for same in (image, image / 255, (image / 255).astype(np.float32), torch.from_numpy(image)):
        assert np.array_equal(canny(same) > 0, EDGES)
    assert not canny(image // 5).any() and canny(image // 5, 20, 40).any()
    for bad in (image[None], image.astype(int), image * np.nan, image / 100, image / 255 - 0.1):
        with pytest.raises(ValueError, match="Expected"):
            canny(bad)


def test_every_usual_form_gives_the_same_tensor(tmp_path):
    byte, expected = EDGES.astype(np.uint8), torch.from_numpy(EDGES).float()[None, None]
    picture = Image.fromarray(byte * 255)
    picture.save(tmp_path / "map.png")
    forms = [EDGES, byte, byte * 255, EDGES.astype(np.float32), EDGES.astype(np.float16), expected.bfloat16()]
    forms += [torch.from_numpy(byte * 255), expected[0], tmp_path / "map.png", str(tmp_path / "map.png")]
    for form in (*forms, picture, picture.convert("1"), picture.convert("RGB")):
        assert torch.equal(validate_structure(form), expected)
    batch = np.stack([EDGES, EDGES[::-1]])
    assert torch.equal(validate_structure(batch[:, None]), validate_structure(batch))


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (np.ones((128, 128), np.uint8), "shape"),
        (np.ones((0, 256, 256), np.uint8), "shape"),
        (np.full((256, 256), 0.5), "binary"),
        (np.full((256, 256), np.nan), "binary"),
        (np.arange(65536).reshape(256, 256).astype(np.uint8), "binary"),
        (np.zeros((256, 256), bool), "empty"),
        (~EDGES, "invert"),
        (np.stack([EDGES, ellipse_mask(Ellipse(128, 128, 180, 220))]), "invert"),
        (None, "NoneType"),
        (Image.new("RGB", (256, 256), (255, 0, 0)), "colour"),
    ],
)
def test_what_is_no_edge_map_is_refused(bad, word):
    with pytest.raises(ValueError, match=word):
        validate_structure(bad)
    for name, error in ((__file__, ValueError), ("none.png", FileNotFoundError)):
        with pytest.raises(error, match="image"):
            validate_structure(name)


def test_the_old_tumour_goes_the_new_one_is_drawn_and_the_anatomy_stays():
    outline, ventricle = (ellipse_outline(Ellipse(*circle)) for circle in ((128, 128, 180, 180), (135, 160, 20, 20)))
    old = Ellipse(90, 90, 40, 40)
    edges, tumour = outline | ventricle | ellipse_outline(old), ellipse_mask(old)
    ellipse = Ellipse(x=160, y=100, width=40, height=30, angle=25)
    composed = compose_structure(edges, tumour, ellipse) > 0
    assert np.array_equal(composed, outline | ventricle | ellipse_outline(ellipse))
    cortex = ellipse_mask(Ellipse(45, 128, 50, 50))
    assert (compose_structure(outline, cortex, ellipse) > 0)[outline].all(), "a tumour at the cortex"
    assert ellipse_mask(ellipse)[108, 176] and not ellipse_mask(ellipse)[92, 176], "turned clockwise"
    covering = compose_structure(edges, tumour, Ellipse(x=135, y=160, width=50, height=50, core=0.5)) > 0
    assert not covering[ventricle].any() and covering[ellipse_outline(Ellipse(135, 160, 25, 25))].all()
    for x in (5, 400):
        with pytest.raises(ValueError, match="outside"):
            compose_structure(edges, tumour, Ellipse(x=x, y=20))
