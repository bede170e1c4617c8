"""Sets on disk: a killed run goes on with the same arrays, nothing is drawn twice, other weights never mix."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mrtutor.metrics import draws
from mrtutor.metrics.draws import Sampler, cohort_set, draw_set, held_out_rows, orders, pipeline_sampler
from mrtutor.vocabulary import IDH
from tests.cohorts import write_tiny_cohort
from tests.tiny_pipelines import build


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_tiny_cohort(tmp_path_factory.mktemp("draws"))


def noise(order: draws.Order) -> torch.Tensor:
    """A model that depends on seed, word and structure."""
    image = torch.rand(4, 256, 256, generator=torch.Generator().manual_seed(order.seed))
    return image * (0.5 if order.idh is IDH.WILD else 1.0) * (0.9 + 0.1 * torch.from_numpy(order.structure))


def test_rows_are_held_out_balanced_and_nested(cohort):
    test = cohort.rows("test")
    rows = held_out_rows(cohort, 3 * len(test) // 2 * 2)
    idh = cohort.table["idh"].to_numpy()[rows]
    assert set(rows) == set(test), "every held-out slice, and none else"
    assert list(idh) == ["mutant", "wild"] * (len(rows) // 2)
    assert (rows[:3] == held_out_rows(cohort, 3)).all()
    patients = cohort.table["subject_id"].to_numpy()[rows]
    per_type = len(set(patients[::2]))
    assert len(set(patients[: 2 * per_type : 2])) == per_type, "every patient before a second slice of one"


def test_a_small_set_is_no_set_of_the_lowest_slices():
    """40 patients of 20 slices each, numbered from below."""
    table = pd.DataFrame({"subject_id": np.repeat(np.arange(40), 20), "idh": np.repeat(["mutant", "wild"] * 20, 20)})
    many = SimpleNamespace(table=table, rows=lambda split, idh: np.flatnonzero(table["idh"] == idh))
    height = held_out_rows(many, 40) % 20
    assert abs(height.mean() - 9.5) < 3, "sd of the mean of 40 is .9"
    assert len(set(held_out_rows(many, 800))) == 800


def test_what_a_row_is_drawn_from_depends_on_no_other(cohort):
    rows = cohort.rows("test")
    names = [o.name for o in orders(cohort, rows)]
    assert [o.name for o in orders(cohort, rows[::-1])] == names[::-1]
    assert [o.name for o in orders(cohort, rows[-1:])] == names[-1:]


def test_a_row_that_comes_again_has_other_edges_and_another_noise(cohort):
    rows = held_out_rows(cohort, 4 * len(cohort.rows("test")))
    found = orders(cohort, rows)
    assert len({o.name for o in found}) == len({o.seed for o in found}) == len(rows)
    for row in set(rows):
        edges = [o.edges_of for o in found if o.row == row]
        assert len(set(edges)) == min(4, len(edges))
    assert [o.name for o in orders(cohort, rows[:3])] == [o.name for o in found[:3]]
    assert all(a.idh is not b.idh for a, b in zip(found, orders(cohort, rows, swap_idh=True), strict=True))


def test_a_killed_run_goes_on_with_identical_arrays(cohort, tmp_path):
    rows = held_out_rows(cohort, 6)
    whole = draw_set("ours", Sampler("w1", noise), cohort, rows, tmp_path / "a", seed=3)
    drawn: list[str] = []

    def dies(order):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(order.name)
        return noise(order)

    with pytest.raises(KeyboardInterrupt):
        draw_set("ours", Sampler("w1", dies), cohort, rows, tmp_path / "b", seed=3)
    (folder,) = (tmp_path / "b").iterdir()
    assert not list(folder.glob(".tmp-*")), "something half-written was left"

    def goes_on(order):
        assert order.name not in drawn, "drawn twice"
        drawn.append(order.name)
        return noise(order)

    resumed = draw_set("ours", Sampler("w1", goes_on), cohort, rows, tmp_path / "b", seed=3)
    assert np.array_equal(resumed.images, whole.images) and resumed.idh == whole.idh
    assert resumed.images.dtype == np.uint8 and resumed.images.shape == (6, 4, 256, 256)
    assert sorted(p.name for p in folder.glob("*.npy")) == sorted(drawn) and len(drawn) == 6
    longer = draw_set("ours", Sampler("w1", goes_on), cohort, held_out_rows(cohort, 8), tmp_path / "b", seed=3)
    assert len(drawn) == 8 and np.array_equal(longer.images[:6], whole.images), "a larger set begins with the smaller"


def test_other_weights_seed_and_words_never_mix(cohort, tmp_path):
    rows = held_out_rows(cohort, 2)
    one = draw_set("ours", Sampler("w1", noise), cohort, rows, tmp_path)
    other = draw_set("ours", Sampler("w2", lambda o: 1 - noise(o)), cohort, rows, tmp_path)
    assert not np.array_equal(one.images, other.images)
    swapped = draw_set("ours", Sampler("w1", noise), cohort, rows, tmp_path, swap_idh=True)
    assert [a is not b for a, b in zip(one.idh, swapped.idh, strict=True)] == [True, True]
    assert np.array_equal(one.images, draw_set("ours", Sampler("w1", noise), cohort, rows, tmp_path).images)
    assert not np.array_equal(one.images, draw_set("ours", Sampler("w1", noise), cohort, rows, tmp_path, 1).images)


def test_what_is_wrong_is_said(cohort, tmp_path):
    rows, good = held_out_rows(cohort, 2), Sampler("w", noise)
    with pytest.raises(ValueError, match="not of the test split"):
        draw_set("ours", good, cohort, cohort.rows("train")[:2], tmp_path)
    with pytest.raises(ValueError, match="not of the test split"):
        orders(cohort, cohort.rows("train")[:2])
    with pytest.raises(ValueError, match="at least one row"):
        draw_set("ours", good, cohort, [], tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        draw_set("../ours", good, cohort, rows, tmp_path)
    for bad in (torch.zeros(3, 256, 256), torch.full((4, 256, 256), 2.0), torch.full((4, 256, 256), torch.nan)):
        with pytest.raises(ValueError, match=r"finite values in \[0, 1\]"):
            draw_set("bad", Sampler("w", lambda _, bad=bad: bad), cohort, rows, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_cohort_without_mutants_is_reported(cohort, monkeypatch):
    monkeypatch.setattr(type(cohort), "rows", lambda self, split=None, idh=None: np.arange(0))
    with pytest.raises(ValueError, match="No mutant slice in the test split"):
        held_out_rows(cohort, 4)


def test_the_pipeline_draws_what_its_sequence_draws(cohort):
    pipe = build("D", steps=2)
    order = orders(cohort, held_out_rows(cohort, 1))[0]
    ours, plain = pipeline_sampler(pipe), pipeline_sampler(pipe, structure=False)
    expected = torch.stack(list(pipe.sequence(order.idh, order.structure, order.seed).values()))
    assert np.array_equal(ours.draw(order), expected.numpy())
    assert not np.array_equal(ours.draw(order), plain.draw(order))
    assert ours.follows_structure and not plain.follows_structure and ours.key != plain.key
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] += 0.001
    assert pipeline_sampler(pipe).key != ours.key, "a changed weight must change the key"


def test_the_cohort_is_a_set_as_well(cohort):
    rows = held_out_rows(cohort, 4)
    truth = cohort_set(cohort, rows)
    assert np.array_equal(truth.images, cohort.images[rows]) and len(truth) == 4
    assert truth.idh == [IDH.MUTANT, IDH.WILD] * 2
