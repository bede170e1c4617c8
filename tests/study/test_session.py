"""The way through both tests: every step, every clock, every way to stop in the middle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrtutor.study.journal import DamagedJournal, SessionTaken
from mrtutor.study.questions import Side, Test
from mrtutor.study.session import Session, StaleAnswer, Step
from mrtutor.study.store import create_study, open_study, session_path
from mrtutor.vocabulary import IDH
from tests.study.pools import tiny_pool, tiny_study

ROOT = Path(__file__).resolve().parents[2]
N = 6


class Clock:
    """Seconds that go on when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_study(tmp_path / "study", N)


def start(folder: Path, reader: str = "a", clock: Clock | None = None, **more: object) -> Session:
    study, pool = open_study(folder)
    return Session.open(folder, study, pool, reader, clock=clock or Clock(), **more)


def answer(session: Session, count: int = 1) -> None:
    for _ in range(count):
        question = session.question
        if question.test is Test.PAIRS:
            session.answer_pair(question.number, Side.LEFT)
        else:
            session.answer_sequence(question.number, 4, IDH.WILD)


def test_from_consent_to_done(folder: Path) -> None:
    clock = Clock()
    session = start(folder, clock=clock)
    assert session.step is Step.CONSENT and session.question is None
    session.consent()
    assert (session.step, session.test) == (Step.READY, Test.PAIRS) and session.question is None
    session.begin()
    for number in range(1, N + 1):
        assert session.step is Step.ASKING and session.question.number == number
        clock.now += 2
        answer(session)
    assert (session.step, session.test) == (Step.READY, Test.SEQUENCES)
    clock.now += 10_000  # a break between the tests costs nothing
    session.begin()
    assert session.seconds_left == 30 * 60
    answer(session, N)
    assert session.step is Step.DONE and len(session.answers) == 2 * N
    assert [a["seconds"] for a in session.answers] == [2.0] * N + [0.0] * N
    assert not session.tick()


def test_what_does_not_come_next_is_refused(folder: Path) -> None:
    session = start(folder)
    for wrong in (session.begin, session.resume):
        with pytest.raises(ValueError, match="stands at consent"):
            wrong()
    session.consent()
    with pytest.raises(ValueError, match="stands at ready"):
        session.consent()
    with pytest.raises(StaleAnswer):
        session.answer_pair(1, "left")
    session.begin()
    with pytest.raises(ValueError, match="A question of the test pairs is open"):
        session.answer_sequence(1, 3, "wild")
    for wrong in (2, 0, 7):
        with pytest.raises(StaleAnswer):
            session.answer_pair(wrong, "left")
    with pytest.raises(ValueError, match="middle"):
        session.answer_pair(1, "middle")
    assert session.answers == []


def test_a_double_click_counts_once(folder: Path) -> None:
    session = start(folder)
    session.consent(), session.begin()
    session.answer_pair(1, "left")
    with pytest.raises(StaleAnswer, match="Question 1 is not open"):
        session.answer_pair(1, "left")
    assert session.question.number == 2


@pytest.mark.parametrize("rating", [-1, 6, 2.5, "3", True, None])
def test_ratings_are_0_to_5(folder: Path, rating: object) -> None:
    session = start(folder)
    session.consent(), session.begin(), answer(session, N), session.begin()
    with pytest.raises(ValueError, match="Expected a rating of 0, 1, 2, 3, 4 or 5"):
        session.answer_sequence(1, rating, "wild")
    with pytest.raises(ValueError, match="IDH type"):
        session.answer_sequence(1, 3, "unknown")


def test_the_clock_runs_while_questions_are_shown(folder: Path) -> None:
    clock = Clock()
    session = start(folder, clock=clock)
    session.consent(), session.begin()
    clock.now += 100
    assert session.seconds_left == 1700
    answer(session)
    clock.now += 50
    assert session.seconds_left == 1650 and not session.tick()


def test_time_out_ends_the_test_and_a_late_answer_does_not_count(folder: Path) -> None:
    clock = Clock()
    session = start(folder, clock=clock)
    session.consent(), session.begin(), answer(session, 2)
    clock.now += 30 * 60 - 0.5
    assert not session.tick()
    clock.now += 0.5
    with pytest.raises(StaleAnswer, match="time of this test is up"):
        session.answer_pair(3, "left")
    assert (session.step, session.test, len(session.answers)) == (Step.READY, Test.SEQUENCES, 2)
    again = start(folder)
    assert (again.step, again.test, len(again.answers)) == (Step.READY, Test.SEQUENCES, 2)
    again.begin()
    again._clock.now += 1801
    assert again.tick() and again.step is Step.DONE and len(again.answers) == 2


def test_resume_goes_on_with_the_same_question_and_the_time_that_is_left(folder: Path) -> None:
    clock = Clock()
    first = start(folder, clock=clock)
    first.consent(), first.begin()
    clock.now += 60
    answer(first, 3)
    shown, left = first.question, first.seconds_left
    later = Clock()
    later.now = 0.0
    second = start(folder, clock=later)
    assert second.step is Step.PAUSED and second.question == shown and second.answers == first.answers
    later.now += 500
    assert second.seconds_left == left == 1740, "the clock waits"
    with pytest.raises(StaleAnswer):
        second.answer_pair(4, "left")
    second.resume()
    later.now += 10
    assert second.seconds_left == 1730
    answer(second, 3)
    assert second.step is Step.READY


CHILD = """
import sys
from mrtutor.study.session import Session
from mrtutor.study.store import open_study
folder, reader = sys.argv[1:]
study, pool = open_study(folder)
session = Session.open(folder, study, pool, reader)
session.consent(), session.begin()
while session.step == "asking":
    session.answer_pair(session.question.number, "left")
    print(len(session.answers), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of Unix")
def test_kill_9_in_the_middle_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    folder = tiny_study(tmp_path / "study", 200)
    command = [sys.executable, "-c", CHILD, str(folder), "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        said = [child.stdout.readline() for _ in range(5)]
        time.sleep(0.05)  # somewhere in the middle of a write, as likely as not
        child.send_signal(signal.SIGKILL)
        told = int((said + child.stdout.readlines())[-1])
    session = start(folder)
    assert session.step is Step.PAUSED and len(session.answers) in (told, told + 1)
    session.resume()
    answer(session, 200 - len(session.answers))
    assert [a["number"] for a in session.answers] == list(range(1, 201))


def test_two_readers_at_once_in_two_processes(folder: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(folder), r], cwd=ROOT, stdout=subprocess.DEVNULL)
        for r in "ab"
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    both = [start(folder, r) for r in "ab"]
    assert all(s.test is Test.SEQUENCES and len(s.answers) == N for s in both)
    assert [a["item"] for a in both[0].answers] != [a["item"] for a in both[1].answers]


def test_two_windows_of_one_reader(folder: Path) -> None:
    one, other = start(folder), start(folder)
    one.consent()
    with pytest.raises(SessionTaken):
        other.consent()
    assert other.step is Step.CONSENT and start(folder).step is Step.READY


def test_a_damaged_session_keeps_the_answers_before_the_fault(folder: Path) -> None:
    session = start(folder)
    session.consent(), session.begin(), answer(session, 4)
    path = session_path(folder, "a")
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace('"left"', '"right"')  # head, consent, begin, answers 1, 2, 3
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedJournal, match=r"line 6 was edited.*The 2 answer"):
        start(folder)
    repaired = start(folder, repair=True)
    assert repaired.step is Step.PAUSED and repaired.question.number == 3 and repaired.answers == session.answers[:2]


def test_ids_are_no_paths_and_no_part_of_file_names(folder: Path) -> None:
    start(folder, "reader-1")
    files = [p.name for p in (folder / "sessions").iterdir()]
    assert {p.rpartition(".")[2] for p in files} == {"jsonl", "lock"} and not any("reader" in p for p in files)
    for bad in ("../../escape", "a/b", "CON"):
        with pytest.raises(ValueError, match="Expected a reader id"):
            start(folder, bad)
    assert [p.name for p in (folder / "sessions").iterdir()] == files


def test_a_session_of_another_study_is_refused(folder: Path) -> None:
    start(folder)
    study, pool = open_study(folder)
    with pytest.raises(ValueError, match="belongs to another study"):
        Session.open(folder, type(study)(**{**vars(study), "minutes": 5.0}), pool, "a")
    with pytest.raises(ValueError, match=r"holds 1 session\(s\) of a study with other settings"):
        create_study(folder, tiny_pool(N), questions=N, minutes=5)
    assert create_study(folder, tiny_pool(N), questions=N) == study, "the same study is left alone"
