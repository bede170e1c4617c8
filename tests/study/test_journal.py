"""A session file: whole after every event, and honest about every damage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrtutor.study.journal import DamagedJournal, Journal, SessionTaken, parse

ROOT = Path(__file__).resolve().parents[2]
EVENTS = [{"kind": "head"}, *({"kind": "answer", "number": n, "said": "left"} for n in range(1, 6))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = Journal.open(tmp_path / "one.jsonl")
    for event in EVENTS:
        journal.append(event)
    return journal.path


def test_what_was_written_is_read(path: Path) -> None:
    assert Journal.open(path).events == EVENTS
    assert {p.name for p in path.parent.iterdir()} == {"one.jsonl", "one.lock"}, "a temporary file was left"


def test_every_way_to_cut_it_short_is_seen(path: Path) -> None:
    whole = path.read_text()
    for end in range(len(whole) - 1):  # without its last newline it is still whole
        events, fault = parse(whole[:end])
        assert fault is not None, f"cut after {end} characters"
        assert events == EVENTS[: len(events)]
        assert len(events) >= whole[:end].count("\n") - (whole[:end].count("\n") > len(EVENTS))


@pytest.mark.parametrize("line", range(len(EVENTS)))
def test_an_edited_line_is_seen_and_what_stands_before_is_kept(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    record = json.loads(lines[line])
    record["event"]["said"] = "right"
    lines[line] = json.dumps(record, sort_keys=True)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DamagedJournal, match=f"line {line + 1} was edited.*answer\\(s\\) before that are sound"
    ) as damage:
        Journal.open(path)
    assert damage.value.kept == EVENTS[:line]


def _drop(lines: list[str]) -> list[str]:
    return lines[:2] + lines[3:]


def _swap(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _add(lines: list[str]) -> list[str]:
    return [*lines, lines[1]]


def _garbage(lines: list[str]) -> list[str]:
    return [*lines[:3], "\x00\x00", *lines[3:]]


def _seal(lines: list[str]) -> list[str]:
    return [*lines[:4], lines[-1]]


@pytest.mark.parametrize("change", [_drop, _swap, _add, _garbage, _seal])
def test_other_edits_are_seen(path: Path, change) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(DamagedJournal) as damage:
        Journal.open(path)
    kept = damage.value.kept
    assert kept == EVENTS[: len(kept)]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]\n", b'{"sum": 1}\n', b"null\n"])
def test_a_file_of_something_else(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedJournal):
        Journal.open(path)


def test_repair_keeps_the_sound_events_and_the_damaged_file(path: Path) -> None:
    damaged = path.read_text()[:-60]
    for i in (1, 2):
        path.write_text(damaged)
        journal = Journal.open(path, repair=True)
        assert path.with_name(f"one.jsonl.damaged-{i}").read_text() == damaged
    journal.append({"kind": "resume"})
    assert Journal.open(path).events == [*EVENTS[: len(journal.events) - 1], {"kind": "resume"}]


def test_two_windows_on_one_session(path: Path) -> None:
    one, other = Journal.open(path), Journal.open(path)
    one.append({"kind": "answer", "number": 6})
    with pytest.raises(SessionTaken, match="another window"):
        other.append({"kind": "answer", "number": 6})
    assert len(Journal.open(path).events) == len(EVENTS) + 1 and other.events == EVENTS
    one.append({"kind": "answer", "number": 7})


WRITER = """
import sys
from mrtutor.study.journal import Journal, SessionTaken
path, name = sys.argv[1:]
print("ready", flush=True), sys.stdin.readline()
for number in range(60):
    while True:
        try:
            Journal.open(path).append({"by": name, "number": number})
        except SessionTaken:
            continue
        break
"""


def test_two_processes_on_one_session_lose_nothing_that_was_acknowledged(path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], **pipes) for name in "ab"]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("go\n"), writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    found = Journal.open(path).events[len(EVENTS) :]
    for name in "ab":
        assert [event["number"] for event in found if event["by"] == name] == list(range(60))


def test_a_sealed_journal_without_events_goes_on(path: Path) -> None:
    """What a kill leaves between the repair of a file whose first line is damaged and its new head."""
    path.write_text("?\n" + path.read_text())
    Journal.open(path, repair=True)
    again = Journal.open(path)
    again.append({"kind": "head"})
    assert Journal.open(path).events == again.events == [{"kind": "head"}]


def test_a_full_disk_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal.open(path)
    monkeypatch.setattr("mrtutor.study.journal.write_text", full)
    with pytest.raises(OSError, match="No space"):
        journal.append({"kind": "answer"})
    assert journal.events == EVENTS and Journal.open(path).events == EVENTS
