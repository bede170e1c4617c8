"""The face, without a browser: what is on the screen, what a press does, what the HTML does not tell."""

import re
import subprocess
import sys
from pathlib import Path

import ipywidgets as w
import pytest

from mrtutor.study.results import read_results
from mrtutor.study.session import Step
from mrtutor.study.store import session_path
from mrtutor.study.widget import StudyFace
from tests.study.pools import tiny_study
from tests.study.test_session import ROOT, Clock


@pytest.fixture
def face(tmp_path: Path) -> StudyFace:
    return StudyFace(tiny_study(tmp_path / "study"), clock=Clock())


def leaves(widget: w.Widget) -> list[w.Widget]:
    return [leaf for child in widget.children for leaf in leaves(child)] if isinstance(widget, w.Box) else [widget]


def buttons(face: StudyFace) -> dict[str, w.Button]:
    return {leaf.description: leaf for leaf in leaves(face.view) if isinstance(leaf, w.Button)}


def press(face: StudyFace, *captions: str) -> None:
    for caption in captions:
        button = next(b for words, b in buttons(face).items() if caption in words)
        assert not button.disabled, caption
        button.click()


def html(face: StudyFace) -> str:
    return "\n".join(leaf.value for leaf in leaves(face.view) if isinstance(leaf, w.HTML))


def begin(face: StudyFace, code: str = "reader-1") -> None:
    face.code.value = code
    press(face, "Continue", "I agree", "Start")


def test_from_first_screen_to_csv(face: StudyFace) -> None:
    begin(face)
    for n in range(1, 7):
        assert f"question {n} of 6" in html(face) and buttons(face)["Next"].disabled
        press(face, "left", "right", "Next")  # a change of mind
    assert "0 (not at all)" in html(face)
    press(face, "Start")
    for n in range(6):
        press(face, str(n))
        assert buttons(face)["Next"].disabled, "the type is still missing"
        press(face, "IDH wild", "Next")
    assert "Thank you" in html(face) and "data:text/csv" in html(face)
    frame = read_results(face.folder)
    assert frame[frame["test"] == "pairs"]["said"].tolist() == ["right"] * 6
    assert frame[frame["test"] == "sequences"]["rating"].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_page_tells_no_answer(face: StudyFace) -> None:
    """Apart from the pixels and the number, every question of a test is the same HTML."""
    begin(face)
    seen: dict[str, set[str]] = {"pairs": set(), "sequences": set()}
    lengths = set()
    while face.session.step is not Step.DONE:
        if face.session.step is Step.READY:
            press(face, "Start")
        page = html(face)
        pixels = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
        lengths |= {len(p) for p in pixels}
        plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
        plain = re.sub(r"question \d+ of|width:[\d.]+%|both \w+|data-beat=\"\d+\"", "", plain)
        seen[str(face.session.test)].add(
            plain + str(sorted(map(str, (b._dom_classes for b in buttons(face).values()))))
        )
        press(face, *(["left"] if face.session.test == "pairs" else ["3", "IDH wild"]), "Next")
    assert len(seen["pairs"]) == len(seen["sequences"]) == 1 and len(lengths) == 1


def test_a_bad_code_is_told_and_escaped(face: StudyFace) -> None:
    face.code.value = "<script>alert(1)</script>"
    press(face, "Continue")
    assert "Expected a reader id" in face.error.value and "<script>" not in face.error.value and face.session is None
    face.code.value = "sim-me"
    press(face, "Continue")
    assert "does not begin with" in face.error.value


def test_a_late_press_on_an_old_button_changes_nothing(face: StudyFace) -> None:
    begin(face)
    old = buttons(face)
    press(face, "left", "Next")
    for button in old.values():
        button.click()
    assert len(face.session.answers) == 1 and "question 2 of 6" in html(face) and buttons(face)["Next"].disabled
    assert face.error.value == ""


def test_time_up_is_told_and_leads_on(face: StudyFace) -> None:
    begin(face)
    face._clock.now += 1799
    face.tick()
    assert "0:01" in face.bar.value and "late" in face.bar.value
    face._clock.now += 1
    face.tick()
    assert "time of this test is up" in face.error.value and "Test 2 of 2" in html(face)
    press(face, "Start", "3", "IDH mutant")
    face._clock.now += 1801
    press(face, "Next")  # pressed after the end, before the clock was looked at
    assert "Thank you" in html(face) and "does not count" in face.error.value
    assert read_results(face.folder)["said"].eq("").all()


@pytest.mark.parametrize("time_up", [False, True])
def test_a_full_disk_at_the_end_is_told_and_saving_is_tried_again(
    face: StudyFace, monkeypatch: pytest.MonkeyPatch, time_up: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    begin(face)
    press(face, *["left", "Next"] * 6, "Start", *["3", "IDH wild", "Next"] * 5)
    with monkeypatch.context() as disk:
        disk.setattr("mrtutor.study.results.write_text", full)
        if time_up:
            face._clock.now += 1801
            face.tick()
        else:
            press(face, "3", "IDH wild", "Next")
        press(face, "Save again")
        assert face.session.step is Step.DONE and list(buttons(face)) == ["Save again"]
        assert "answers are kept" in face.error.value and "No space left" in face.error.value
    press(face, "Save again")
    assert "Thank you" in html(face) and face.error.value == "" and not buttons(face)
    assert (read_results(face.folder)["said"] != "").sum() == 11 + (not time_up)


def test_a_new_kernel_goes_on(face: StudyFace) -> None:
    begin(face)
    press(face, "left", "Next", "right", "Next")
    again = StudyFace(face.folder)
    again.code.value = "reader-1"
    press(again, "Continue")
    assert "2 of 6 answers" in html(again)
    press(again, "Go on")
    assert "question 3 of 6" in html(again)
    press(face, "left", "Next")  # the old window
    assert "another window" in face.error.value and len(face.session.answers) == 2
    press(again, "left", "Next")
    assert "question 4 of 6" in html(again) and again.error.value == ""


def test_a_damaged_file_offers_to_go_on(face: StudyFace) -> None:
    begin(face)
    press(face, "left", "Next", "left", "Next")
    path = session_path(face.folder, "reader-1")
    path.write_text(path.read_text()[:-150])
    again = StudyFace(face.folder)
    again.code.value = "reader-1"
    press(again, "Continue")
    assert "is damaged" in again.error.value and "1 answer" in again.error.value
    press(again, "Go on from the last sound answer", "Go on")
    assert "question 2 of 6" in html(again) and again.error.value == ""


def test_the_page_starts_without_torch() -> None:
    """Two clinicians who wait for a page should not wait for a network that it does not need."""
    code = "import sys, mrtutor.study.widget; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
