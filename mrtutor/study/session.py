"""A reader's way through the study, as a state machine without a face.

    consent → ready for test 1 → pairs → ready for test 2 → sequences → done

What happened is a list of events in a `Journal`; the state is what follows from them. So resuming after a kill is
reading the file again. The clock of a test runs while its questions are shown: a question that was open when the
machine died starts anew, with the time that the answers before it have left.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from mrtutor.study.journal import Event, Journal
from mrtutor.study.pool import Pool
from mrtutor.study.questions import Question, Side, Test, ask, check_reader
from mrtutor.study.store import Study, session_path
from mrtutor.vocabulary import IDH

RATINGS = range(6)  # 0…5, §4.5


class Step(StrEnum):
    """Where a session stands."""

    CONSENT = "consent"
    READY = "ready"  # for the test `Session.test`
    ASKING = "asking"
    PAUSED = "paused"  # resumed from disk in the middle of a test: the clock waits for `resume`
    DONE = "done"


class StaleAnswer(ValueError):
    """An answer to a question that is no longer open, such as the second click of a double click."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Session:
    """One reader in one study. Make one with `Session.open`.

    Args:
        study: settings.
        pool: pictures.
        reader: a checked id.
        journal: the reader's events.
        clock: seconds from any start.

    Attributes:
        questions: test -> this reader's questions in order.
        answers: the answer events so far, both tests.
        test: the test that runs, or that comes next; the last one when done.
    """

    def __init__(
        self, study: Study, pool: Pool, reader: str, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.study, self.reader, self.journal = study, reader, journal
        self.questions = {test: ask(pool, test, study.questions, study.seed, reader) for test in Test}
        self.answers: list[Event] = []
        self.test, self.step = Test.PAIRS, Step.CONSENT
        self._clock, self._shown = clock, clock()
        for event in journal.events:
            self._apply(event)
        if self.step is Step.ASKING:
            self.step = Step.PAUSED

    @classmethod
    def open(
        cls,
        folder: str | Path,
        study: Study,
        pool: Pool,
        reader: str,
        *,
        simulated: bool = False,
        repair: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Session":
        """Begin a session, or go on with the one on disk.

        Args:
            folder: of the study.
            study: its settings.
            pool: its pictures.
            reader: id, see `check_reader`.
            simulated: the reader is a program.
            repair: go on from the last sound answer of a damaged file.
            clock: seconds from any start.

        Raises:
            ValueError: a bad id; a session of another study.
            DamagedJournal: the file was edited or cut short, and not `repair`.
            OSError: no permission, full disk.
        """
        check_reader(reader, simulated)
        journal = Journal.open(session_path(folder, reader), repair)
        head = {"kind": "head", "reader": reader, "simulated": simulated, "study": study.fingerprint}
        if not journal.events:
            journal.append(head | {"at": _now()})
        elif head != {key: journal.events[0].get(key) for key in head}:
            raise ValueError(
                f"The session of {reader!r} in {folder} belongs to another study: choose another id, or another folder."
            )
        return cls(study, pool, reader, journal, clock)

    @property
    def question(self) -> Question | None:
        """The open question; None where none is."""
        return self.questions[self.test][self._answered()] if self.step in (Step.ASKING, Step.PAUSED) else None

    @property
    def seconds_left(self) -> float:
        """Time left in this test, seconds, never below 0."""
        used = sum(answer["seconds"] for answer in self.answers if answer["test"] == self.test)
        open_for = self._clock() - self._shown if self.step is Step.ASKING else 0.0
        return max(0.0, 60 * self.study.minutes - used - open_for)

    def consent(self) -> None:
        """The reader agrees to `study.consent` (ValueError where this is not what comes next)."""
        self._expect(Step.CONSENT)
        self._record({"kind": "consent", "text": self.study.consent, "at": _now()})

    def begin(self) -> None:
        """Start the test that comes next; its clock runs from here (ValueError as `consent`)."""
        self._expect(Step.READY)
        self._record({"kind": "begin", "test": str(self.test), "at": _now()})

    def resume(self) -> None:
        """Go on after a pause; the pause is noted (ValueError as `consent`)."""
        self._expect(Step.PAUSED)
        self._record({"kind": "resume", "test": str(self.test), "at": _now()})

    def answer_pair(self, number: int, side: Side | str) -> None:
        """Say which picture of a pair is from the cohort.

        Args:
            number: of the question that was shown.
            side: "left" or "right".

        Raises:
            StaleAnswer: another question is open, or the time is up.
            ValueError: no such side; a question of the other test.
        """
        side = Side(side)
        self._answer(Test.PAIRS, number, {"said": str(side)})

    def answer_sequence(self, number: int, rating: int, idh: IDH | str) -> None:
        """Rate a sequence and judge its type.

        Args:
            number: of the question that was shown.
            rating: 0 (no MR picture at all) … 5 (like an acquired one).
            idh: "mutant" or "wild".

        Raises:
            StaleAnswer: another question is open, or the time is up.
            ValueError: no such rating or type; a question of the other test.
        """
        if isinstance(rating, bool) or rating not in RATINGS:
            raise ValueError(f"Expected a rating of 0, 1, 2, 3, 4 or 5, got {rating!r}.")
        self._answer(Test.SEQUENCES, number, {"said": str(IDH(idh)), "rating": int(rating)})

    def tick(self) -> bool:
        """Look at the clock; a test whose time is up ends here, its open questions unanswered. True if one ended."""
        if self.step is not Step.ASKING or self.seconds_left > 0:
            return False
        self._record({"kind": "timeout", "test": str(self.test), "at": _now()})
        return True

    def _answer(self, test: Test, number: int, said: Event) -> None:
        if self.tick():
            raise StaleAnswer("The time of this test is up: an answer after it does not count.")
        if self.step is not Step.ASKING or number != self.question.number:
            raise StaleAnswer(f"Question {number} is not open any more: nothing was changed.")
        if test is not self.test:
            raise ValueError(f"A question of the test {self.test!s} is open, got an answer of {test!s}.")
        question, seconds = self.question, round(self._clock() - self._shown, 3)
        event = {"kind": "answer", "test": str(test), "number": number, "item": question.item, **said}
        self._record(event | {"truth": str(question.truth), "seconds": seconds, "at": _now()})

    def _record(self, event: Event) -> None:
        """Onto the disk first, then into the state."""
        self.journal.append(event)
        self._apply(event)

    def _apply(self, event: Event) -> None:
        kind = event["kind"]
        if kind == "consent":
            self.step = Step.READY
        elif kind in ("begin", "resume"):
            self.step, self._shown = Step.ASKING, self._clock()
        elif kind == "answer":
            self.answers.append(event)
            self._shown = self._clock()
            if self._answered() == self.study.questions:
                self._next_test()
        elif kind == "timeout":
            self._next_test()

    def _next_test(self) -> None:
        last = self.test is Test.SEQUENCES
        self.step, self.test = (Step.DONE, self.test) if last else (Step.READY, Test.SEQUENCES)

    def _answered(self) -> int:
        return sum(answer["test"] == self.test for answer in self.answers)

    def _expect(self, step: Step) -> None:
        if self.step is not step:
            raise ValueError(f"The session stands at {self.step!s}, not at {step!s}: nothing was changed.")
