"""A session on disk: a line for each thing that happened, chained by checksums.

Each line is ``{"event": …, "sum": …}``; its sum is taken over the sum before and the event, so a line that was edited,
dropped or moved does not fit any more. The last line, ``{"end": n, "sum": …}``, is the seal: without it the file was
cut short. What stands before the first fault is sound and is kept. The file is replaced as a whole after each event,
so a kill leaves the old one or the new one. The sums need no key: they find accidents, not forgers.

A writer looks at the seal first: if somebody else has written since, it refuses. Between this look and the write no
other process comes in: both are done under a lock, the file ``….lock`` beside it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from mrtutor.files import write_text
from mrtutor.lock import locked

Event = dict[str, Any]


class DamagedJournal(ValueError):
    """A file that was edited or cut short; `kept` are the events before the fault."""

    def __init__(self, message: str, kept: list[Event]) -> None:
        super().__init__(message)
        self.kept = kept


class SessionTaken(RuntimeError):
    """The file was written by another window since it was read here."""


class Journal:
    """Events of one session. Make one with `open`.

    Attributes:
        path: the file; it need not exist yet.
        events: what happened so far.
    """

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.path = path
        self.events = list(events)
        self._seal = _lines(self.events)[-1]

    @classmethod
    def open(cls, path: str | Path, repair: bool = False) -> "Journal":
        """Read a file, or begin a new one.

        Args:
            path: the file.
            repair: put a damaged file aside, as ``….damaged-1``, and go on with the events before the fault.

        Raises:
            DamagedJournal: edited or cut short, and not `repair`.
            OSError: no permission or a full disk; see `locked`.
        """
        path = Path(path)
        if not path.exists():
            return cls(path, [])
        with locked(path.with_suffix(".lock")):  # a repair, too, is a look and a write
            return cls._read(path, repair)

    @classmethod
    def _read(cls, path: Path, repair: bool) -> "Journal":
        """`open` for who holds the lock."""
        text = path.read_bytes().decode("utf-8", errors="replace")
        events, fault = parse(text)
        if fault is None:
            return cls(path, events)
        if not repair:
            answers = sum(event.get("kind") == "answer" for event in events)
            raise DamagedJournal(
                f"The session file {path.name} is damaged: {fault}. The {answers} answer(s) before that are sound. "
                "Go on from there (the damaged file is kept beside it), or restore the file from a backup.",
                events,
            )
        aside = next(p for i in range(1, 10_000) if not (p := path.with_name(f"{path.name}.damaged-{i}")).exists())
        write_text(aside, text)
        journal = cls(path, [])
        journal._write(events)
        return journal

    def append(self, *events: Event) -> None:
        """Add events and write the file.

        Raises:
            SessionTaken: another window wrote since.
            OSError: no permission or a full disk, see also `locked`; file and events are as they were.
        """
        with locked(self.path.with_suffix(".lock")):
            if self._on_disk() != self._seal:
                raise SessionTaken(
                    "This session was continued in another window: close this one and go on there. "
                    "No answer is lost there."
                )
            self._write(self.events + list(events))

    def _write(self, events: list[Event]) -> None:
        lines = _lines(events)
        write_text(self.path, "\n".join(lines) + "\n")
        self.events, self._seal = events, lines[-1]

    def _on_disk(self) -> str:
        """Last line of the file; where there is none, that of an empty journal."""
        if not self.path.exists():
            return _lines([])[-1]
        return self.path.read_text(encoding="utf-8", errors="replace").rstrip("\n").rpartition("\n")[2]


def parse(text: str) -> tuple[list[Event], str | None]:
    """Events before the first fault, and what the fault is (None: the file is whole)."""
    events: list[Event] = []
    total = ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            claimed = record["sum"]
            if "end" in record:
                whole = record["end"] == len(events) and claimed == _sum(total, record["end"])
                rest = text.splitlines()[number:]
                return events, None if whole and not rest else f"line {number} was edited, or lines were taken out"
            if claimed != _sum(total, record["event"]):
                return events, f"line {number} was edited, or a line before it was taken out"
        except (ValueError, KeyError, TypeError):
            return events, f"line {number} is no whole line"
        events.append(record["event"])
        total = claimed
    return events, "it was cut short, its last line is missing"


def _lines(events: list[Event]) -> list[str]:
    lines, total = [], ""
    for event in events:
        total = _sum(total, event)
        lines.append(json.dumps({"event": event, "sum": total}, allow_nan=False, sort_keys=True))
    return [*lines, json.dumps({"end": len(events), "sum": _sum(total, len(events))})]


def _sum(before: str, value: Event | int) -> str:
    text = json.dumps(value, allow_nan=False, sort_keys=True)
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:32]
