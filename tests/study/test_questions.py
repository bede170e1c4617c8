"""Order and sides: balanced, seeded, different for every reader; ids that are never paths."""

from collections import Counter

import numpy as np
import pytest

from mrtutor.study.questions import Side, Test, ask, check_reader
from mrtutor.vocabulary import IDH
from tests.study.pools import tiny_pool

POOL = tiny_pool(20)


@pytest.mark.parametrize("count", [20, 7, 1])
def test_every_item_once_and_sides_balanced(count: int) -> None:
    for reader in ("a", "b", "reader-3"):
        asked = ask(POOL, Test.PAIRS, count, 0, reader)
        assert sorted(q.item for q in asked) == list(range(count)) and [q.number for q in asked] == [
            *range(1, count + 1)
        ]
        sides = Counter(q.truth for q in asked)
        assert abs(sides[Side.LEFT] - sides[Side.RIGHT]) <= count % 2


def test_the_same_seed_and_reader_give_the_same_order_and_others_another() -> None:
    def order(seed: int, reader: str, test: Test = Test.PAIRS) -> list:
        return [(q.item, q.truth) for q in ask(POOL, test, 20, seed, reader)]

    assert order(0, "a") == order(0, "a")
    assert len({tuple(order(*key)) for key in [(0, "a"), (1, "a"), (0, "b"), (0, "c")]}) == 4
    items = [[q.item for q in ask(POOL, test, 20, 0, "a")] for test in Test]
    assert items[0] != items[1], "the second test must not come in the order of the first"


def test_neither_side_nor_place_tells_the_item_over_many_readers() -> None:
    left = np.zeros((20, 20))  # item × place
    for i in range(400):
        for q in ask(POOL, Test.PAIRS, 20, 0, f"r{i}"):
            left[q.item, q.number - 1] += q.truth is Side.LEFT
    assert abs(left.sum(1) / 400 - 0.5).max() < 0.1 and abs(left.sum(0) / 400 - 0.5).max() < 0.1


def test_the_pictures_stand_where_the_truth_says() -> None:
    for q in ask(POOL, Test.PAIRS, 20, 0, "a"):
        cohort, synthetic = POOL.pair(q.item)
        left, right = q.pictures(POOL)
        assert (left is cohort or (left == cohort).all()) == (q.truth is Side.LEFT)
        assert ((right if q.truth is Side.LEFT else left) == synthetic).all()
    q = ask(POOL, Test.SEQUENCES, 20, 0, "a")[3]
    assert len(q.pictures(POOL)) == 4 and q.truth is POOL.idh[q.item] and isinstance(q.truth, IDH)


@pytest.mark.parametrize("good", ["a", "reader-1", "0", "a" * 24])
def test_good_ids(good: str) -> None:
    assert check_reader(good) == good


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "A",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "a.b",
        "a b",
        "-a",
        "a-",
        "a" * 25,
        "é",
        "a\n",
        "con:",
        "<b>",
        None,
        7,
    ],
)
def test_bad_ids(bad: object) -> None:
    with pytest.raises(ValueError, match="Expected a reader id of 1 to 24"):
        check_reader(bad)


def test_programs_bear_a_prefix_and_people_do_not() -> None:
    assert check_reader("sim-coin", simulated=True) == "sim-coin"
    with pytest.raises(ValueError, match="does not begin with 'sim-'"):
        check_reader("sim-coin")
    with pytest.raises(ValueError, match="begins with 'sim-'"):
        check_reader("coin", simulated=True)


@pytest.mark.parametrize("count", [0, 21])
def test_more_questions_than_pictures(count: int) -> None:
    with pytest.raises(ValueError, match="Expected 1 to 20 questions"):
        ask(POOL, Test.PAIRS, count, 0, "a")
