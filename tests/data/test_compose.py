"""Composed masks: the old tumour goes, the new one comes, the brain's outline stays."""

import numpy as np
import pytest

from mrtutor.data.compose import (
    Ellipse,
    brain_hull,
    compose_structure,
    ellipse_mask,
    ellipse_outline,
    without_tumour,
)
from mrtutor.data.structure import validate_structure


def ring(x: float, y: float, radius: float) -> np.ndarray:
    """Circle one or two pixels wide, (256, 256) bool."""
    rows, columns = np.mgrid[0:256, 0:256]
    return np.abs(np.hypot(columns - x, rows - y) - radius) < 0.8


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[0:256, 0:256]
    return np.hypot(columns - x, rows - y) <= radius


OUTLINE = ring(128, 128, 90)
VENTRICLE = ring(135, 160, 10)
TUMOUR = disc(90, 90, 20)
EDGES = np.where(OUTLINE | VENTRICLE | ring(90, 90, 20), 255, 0).astype(np.uint8)


def test_the_old_tumour_goes_and_nothing_else():
    emptied = without_tumour(EDGES, TUMOUR) > 0
    assert not emptied[TUMOUR].any()
    assert np.array_equal(emptied, OUTLINE | VENTRICLE)


def test_a_tumour_at_the_cortex_leaves_the_outline():
    assert np.array_equal(without_tumour(OUTLINE, disc(45, 128, 25)) > 0, OUTLINE)


def test_composed_is_a_structure_map_with_the_ellipse():
    ellipse = Ellipse(x=160, y=100, width=40, height=30, angle=25)
    composed = compose_structure(EDGES, TUMOUR, ellipse)
    assert composed.dtype == np.uint8 and set(np.unique(composed)) == {0, 255}
    assert validate_structure(composed).shape == (1, 1, 256, 256)
    assert np.array_equal(composed > 0, OUTLINE | VENTRICLE | ellipse_outline(ellipse))


def test_the_ellipse_hides_what_it_covers():
    ellipse = Ellipse(x=135, y=160, width=50, height=50)
    assert not (compose_structure(EDGES, TUMOUR, ellipse) > 0)[VENTRICLE].any()


def test_the_tumour_moves_with_the_sliders():
    left, right = (compose_structure(EDGES, TUMOUR, Ellipse(x=x, y=100)) > 0 for x in (90, 150))
    new = [np.nonzero(one & ~(OUTLINE | VENTRICLE))[1].mean() for one in (left, right)]
    assert new[1] - new[0] == pytest.approx(60, abs=0.5)


def test_size_and_rotation():
    wide = ellipse_mask(Ellipse(x=128, y=128, width=60, height=20))
    rows, columns = np.nonzero(wide)
    assert (np.ptp(columns), np.ptp(rows)) == (60, 20)
    assert wide.sum() == pytest.approx(np.pi * 30.5 * 10.5, rel=0.03)
    turned = ellipse_mask(Ellipse(x=128, y=128, width=60, height=20, angle=90))
    assert (turned ^ wide.T).sum() < 0.03 * wide.sum()
    tilted = ellipse_mask(Ellipse(x=128, y=128, width=60, height=20, angle=45))
    rows, columns = np.nonzero(tilted)
    assert np.corrcoef(rows, columns)[0, 1] > 0.5, "clockwise: to the right means downwards"


def test_core_adds_a_line_inside():
    plain, cored = Ellipse(width=60, height=60), Ellipse(width=60, height=60, core=0.5)
    extra = ellipse_outline(cored) & ~ellipse_outline(plain)
    distance = np.hypot(*(np.array(np.nonzero(extra)) - [[plain.y], [plain.x]]))
    assert distance == pytest.approx(15, abs=1.2)


def test_outside_the_brain_nothing_is_drawn():
    composed = compose_structure(EDGES, TUMOUR, Ellipse(x=45, y=128, width=60, height=60)) > 0
    assert not composed[~brain_hull(EDGES)].any()
    assert composed[OUTLINE].all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": float("nan")}, "finite"),
        ({"y": "12"}, "finite"),
        ({"x": 256}, r"0…255"),
        ({"width": 2}, r"4…256"),
        ({"height": 300}, r"4…256"),
        ({"core": 1.0}, "core"),
    ],
)
def test_an_ellipse_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        Ellipse(**wrong)


def test_refuses_what_is_no_anatomy():
    with pytest.raises(ValueError, match="outside the brain"):
        compose_structure(EDGES, TUMOUR, Ellipse(x=10, y=10))
    with pytest.raises(ValueError, match="fewer than three"):
        compose_structure(np.zeros((256, 256)), TUMOUR, Ellipse())
    with pytest.raises(ValueError, match=r"edges of shape \(256, 256\)"):
        compose_structure(EDGES[:100], TUMOUR, Ellipse())
    with pytest.raises(ValueError, match="tumour of shape"):
        without_tumour(EDGES, TUMOUR[:100])
