"""The CSV: every question, also unanswered ones, with consent, times and what was right."""

import csv
import io
from pathlib import Path

import pytest

from mrtutor.data.examples import example_names, examples_cohort
from mrtutor.metrics.reader import Reader, build_reader
from mrtutor.study.results import COLUMNS, read_results, save_csv, to_csv
from mrtutor.study.session import Session, Step
from mrtutor.study.simulated import coin_reader, grain, network_reader, rules_reader
from mrtutor.study.store import open_study
from tests.study.pools import brain, tiny_study
from tests.study.test_session import Clock, answer, start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_study(tmp_path / "study")


def test_a_row_for_each_question_with_consent_and_time(folder: Path) -> None:
    clock = Clock()
    session = start(folder, "reader-1", clock)
    session.consent(), session.begin()
    clock.now += 2.5
    answer(session, 2)
    clock.now += 1800
    session.tick(), session.begin(), answer(session, 6)
    rows = list(csv.DictReader(io.StringIO(to_csv(session))))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 12
    assert {r["reader"] for r in rows} == {"reader-1"} and {r["consent"] for r in rows} == {session.study.consent}
    assert [r["seconds"] for r in rows[:3]] == ["2.5", "0.0", ""]
    assert [r["said"] for r in rows[:3]] == ["left", "left", ""] and rows[2]["correct"] == ""
    assert all(r["correct"] == str(int(r["said"] == r["truth"])) for r in rows if r["said"])
    assert {r["rating"] for r in rows[6:]} == {"4"} and {r["pauses"] for r in rows} == {"0"}


def test_pauses_are_counted(folder: Path) -> None:
    session = start(folder)
    session.consent(), session.begin(), answer(session, 1)
    for _ in range(2):
        session = start(folder)
        session.resume()
    rows = list(csv.DictReader(io.StringIO(to_csv(session))))
    assert [r["pauses"] for r in rows] == ["2"] * 6 + ["0"] * 6


def test_all_readers_in_one_frame(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No results"):
        read_results(folder)
    study, pool = open_study(folder)
    for seed in range(2):
        reader = coin_reader(seed)
        session = Session.open(folder, study, pool, f"{reader.name}-{seed}", simulated=True)
        path = save_csv(reader.take(session, pool), folder)
        assert "coin" not in path.name
    frame = read_results(folder)
    assert len(frame) == 24 and frame["simulated"].all() and frame["correct"].notna().all()
    assert (
        frame["rating"].dropna().between(0, 5).all() and frame["said"].isin(["left", "right", "mutant", "wild"]).all()
    )
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the column"):
        read_results(folder)


def test_results_of_two_studies_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    other = tiny_study(tmp_path / "other", seed=1)
    names = [save_csv(start(place, reader), folder).name for place, reader in ((folder, "a"), (other, "b"))]
    with pytest.raises(ValueError, match=r"Expected results of one study.*move the files") as refused:
        read_results(folder)
    for name, place in zip(names, (folder, other), strict=True):
        assert f"{open_study(place)[0].fingerprint} in {name}" in str(refused.value)
    (folder / "results" / names[1]).unlink()
    assert list(read_results(folder)) == list(COLUMNS)


def test_a_simulated_reader_goes_on_where_it_was_stopped(folder: Path) -> None:
    study, pool = open_study(folder)
    first = Session.open(folder, study, pool, "sim-coin", simulated=True)
    first.consent(), first.begin(), answer(first, 3)
    second = coin_reader().take(Session.open(folder, study, pool, "sim-coin", simulated=True), pool)
    assert second.step is Step.DONE and second.answers[:3] == first.answers and len(second.answers) == 12


@pytest.mark.skipif(not example_names(), reason="no data/examples")
def test_the_rule_of_grain_finds_the_cohorts_picture_where_there_is_grain(folder: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    assert grain(brain(rng, real=True) / 255) > 3 * grain(brain(rng, real=False) / 255)
    assert grain(np.zeros((256, 256))) == 0
    study, pool = open_study(folder)
    session = Session.open(folder, study, pool, "sim-rules", simulated=True)
    rules_reader(examples_cohort()).take(session, pool)
    assert all(a["said"] == a["truth"] for a in session.answers if a["test"] == "pairs")


def test_the_network_reader_takes_both_tests(folder: Path) -> None:
    study, pool = open_study(folder)
    networks = Reader(build_reader(1, 4).eval(), build_reader(4, 2).eval())
    session = Session.open(folder, study, pool, "sim-network", simulated=True)
    network_reader(networks).take(session, pool)
    assert session.step is Step.DONE and all(0 <= a["rating"] <= 5 for a in session.answers if a["test"] == "sequences")
