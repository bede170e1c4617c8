"""Fisher-KPP: speed, walls and borders of the simulated growth."""

import pytest
import torch

from mrtutor.data.growth import grow

SHAPE = (36, 36, 36)
SEED = (18, 18, 18)


def _tissue(value: float) -> torch.Tensor:
    return torch.full(SHAPE, value)


def _sphere(radius_mm: float) -> float:
    return 4 / 3 * 3.14159 * radius_mm**3


def test_growth_stops_at_the_wanted_volume():
    growth = grow(_tissue(1.0), _tissue(0.0), SEED, width_mm=2.0, volume_mm3=_sphere(12))
    reached = float((growth.density > 0.5).sum()) * 8
    assert _sphere(12) <= reached < 1.2 * _sphere(12)
    assert 0 <= growth.density.min() and growth.density.max() <= 1


def test_depth_is_zero_at_the_front_and_counts_millimetres_behind_it():
    growth = grow(_tissue(1.0), _tissue(0.0), SEED, width_mm=1.5, volume_mm3=_sphere(22))
    depth = growth.depth_mm(1.5)[18:, 18, 18]  # one ray from the seed, 2 mm a voxel
    density = growth.density[18:, 18, 18]
    front = int((density > 0.5).sum())
    assert abs(float(depth[front - 1] + depth[front]) / 2) < 1.5
    # The front of a sphere runs slower than the plane front of the equation, so 8 mm count as somewhat more.
    assert 8 < float(depth[front - 5] - depth[front - 1]) < 16
    assert float(depth[-1]) < -5


def test_white_matter_is_faster_than_grey():
    days = [grow(_tissue(w), _tissue(1 - w), SEED, width_mm=2.0, volume_mm3=_sphere(12)).days for w in (1.0, 0.0)]
    assert days[1] > 1.3 * days[0]  # less than sqrt(6), since both start from the same ball of cells


def test_nothing_crosses_csf():
    white = _tissue(1.0)
    white[24] = 0.0  # a wall, one voxel thick
    growth = grow(white, _tissue(0.0), SEED, width_mm=2.0, volume_mm3=_sphere(16))
    # The first cells are put around the seed without asking for walls, hence not exactly 0.
    assert float(growth.density[24].max()) == 0
    assert float(growth.density[25:].max()) < 0.01 < float(growth.density[:12].max())


def test_a_wider_front_is_less_sharp():
    shares = []
    for width in (1.0, 3.0):
        growth = grow(_tissue(1.0), _tissue(0.0), SEED, width_mm=width, volume_mm3=_sphere(14))
        infiltrated = (growth.density > 0.16) & (growth.density <= 0.5)
        shares.append(float(infiltrated.sum() / (growth.density > 0.5).sum()))
    assert shares[1] > 2 * shares[0]


def test_snapshots_come_at_every_step_and_grow():
    film = []
    growth = grow(
        _tissue(1.0),
        _tissue(0.0),
        SEED,
        width_mm=2.0,
        volume_mm3=_sphere(10),
        snapshot=lambda days, density: film.append((days, float(density.sum()))),
    )
    assert film[-1][0] == pytest.approx(growth.days)
    assert [total for _, total in film] == sorted(total for _, total in film)
    assert len(film) > 3


def test_motility_gives_the_tumour_a_direction():
    easy = torch.ones(SHAPE)
    easy[:18] = 0.1
    growth = grow(_tissue(1.0), _tissue(0.0), SEED, width_mm=2.0, volume_mm3=_sphere(14), motility=easy)
    solid = growth.density > 0.5
    assert solid[19:].sum() > 1.5 * solid[:18].sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grey": torch.zeros(3, 3, 3)}, "one shape"),
        ({"width_mm": 0.0}, "above 0"),
        ({"volume_mm3": -1.0}, "above 0"),
        ({"seed": (99, 0, 0)}, "outside the tissue"),
        ({"white": torch.zeros(SHAPE)}, "outside the tissue"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"white": _tissue(1.0), "grey": _tissue(0.0), "seed": SEED, "width_mm": 2.0, "volume_mm3": 100.0}
    with pytest.raises(ValueError, match=message):
        grow(**(good | change))
