"""The reader study: pictures, sessions, results, and its page without a browser and in Chromium."""

import base64
import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mrtutor.apps import reader_study
from mrtutor.apps.reader_study import PAIRS, SIDES, Session, Study, choose_partners, create_study, served
from mrtutor.apps.study_page import StudyPage
from mrtutor.vocabulary import IDH, Modality
from tests.apps.browser import NEEDS_BROWSER, PATIENCE, ROOT, Page, answer_of, kernels, visit

N = 6
PICTURE = r"base64,[A-Za-z0-9+/=]+"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def brain(rng: np.random.Generator, real: bool) -> np.ndarray:
    """(256, 256) uint8; a real one has grain, a sharp cut and a background of 0, the other is smooth with a glow."""
    image = np.zeros((256, 256), np.float32)
    cv2.ellipse(image, (128, 128), tuple(map(int, rng.integers(60, 85, 2))), 0, 0, 360, 150.0, -1)
    cv2.circle(image, (128, 128), 10, 0, -1)  # a black ventricle
    if real:
        image += (image > 0) * rng.normal(0, 8, image.shape)
    else:
        image = cv2.GaussianBlur(image, (0, 0), 2) + rng.uniform(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def tiny_study(folder: Path, questions: int = N, minutes: float = 30) -> Study:
    rng, count = np.random.default_rng(0), questions + 1
    sequences = np.stack([[brain(rng, real=False) for _ in Modality] for _ in range(count)])
    slices = np.stack([brain(rng, real=True) for _ in range(count)])
    types, modalities = ([*words] * count for words in (IDH, Modality))
    return create_study(folder, sequences, types[:count], slices, modalities[:count], minutes=minutes)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return tiny_study(tmp_path / "study")


def begun(study: Study, name: str = "anna", clock: Clock | None = None) -> Session:
    session = Session.start(study, name, clock or Clock())
    session.advance()
    session.advance()
    return session


def answer(session: Session, count: int = 1) -> None:
    for _ in range(count):
        session.answer(session.number, *(["left"] if session.test == PAIRS else ["wild", 4]))


def test_neither_bytes_nor_background_tell_synthetic_pictures_from_others() -> None:
    rng = np.random.default_rng(0)
    pictures = {real: [brain(rng, real) for _ in range(10)] for real in (True, False)}
    pngs = [served(picture) for some in pictures.values() for picture in some]
    assert len({len(png) for png in pngs}) == 1
    for png in pngs:
        assert not any(word in png for word in (b"tEXt", b"iTXt", b"tIME", b"eXIf", b"pHYs"))
        seen = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert seen.shape == (256, 256) and not seen[:24].any() and seen[128, 128] >= 8
        assert not ((seen > 0) & (seen < 8)).any()
    plain, glow = (len(cv2.imencode(".png", some[0])[1]) for some in pictures.values())
    assert plain != pytest.approx(glow, rel=0.05), "plain PNGs do tell: the test can fail"


def test_the_truth_is_in_the_leaders_folder_alone(study: Study) -> None:
    sides = pd.read_csv(study.folder / "leader/truth.csv")["truth"][:N]
    assert Counter(sides) == {"left": N // 2, "right": N // 2}
    for side, pair in zip(sides, study.pairs, strict=False):
        grain = [cv2.Laplacian(picture, cv2.CV_32F).std() for picture in pair]
        assert side == SIDES[np.argmin(grain)], "the smooth one is synthetic"
    elsewhere = (study.folder / "leader").rename(study.folder.parent / "elsewhere")
    session, other = begun(Study.open(study.folder)), begun(tiny_study(study.folder.parent / "twin"))
    assert session.head["order"] != other.head["order"], "the order follows from no code"
    answer(session, N)
    kept = session.path.read_text() + (study.folder / "study.json").read_text()
    assert "truth" not in kept and "correct" not in kept and elsewhere.stat().st_mode & 0o077 == 0


def test_from_consent_to_done(study: Study) -> None:
    clock = Clock()
    session = Session.start(study, "anna", clock)
    for step in ("consent", "ready"):
        assert session.step == step
        session.advance()
    for number, said, rating in ((1, "middle", None), (1, "left", 3), (1, "wild", 3), (2, "left", None)):
        with pytest.raises(ValueError):
            session.answer(number, said, rating)
    clock.now += 2
    answer(session, N)
    assert (session.step, session.test) == ("ready", "sequences")
    clock.now += 10_000  # a break between the tests costs nothing
    session.advance()
    assert session.seconds_left == 30 * 60
    with pytest.raises(ValueError):
        session.answer(1, "wild", 6)
    answer(session, N)
    assert session.step == "done" and [a["seconds"] for a in session.answers] == [2.0] + [0.0] * (2 * N - 1)
    assert sorted(a["item"] for a in session.answers[:N]) == list(range(N))


def test_the_clock_waits_for_a_reader_who_comes_back_and_ends_a_test(study: Study) -> None:
    clock, later = Clock(), Clock()
    first = begun(study, clock=clock)
    clock.now += 60
    answer(first, 3)
    second = Session.resume(study, first.head["code"], later)
    assert (second.step, second.item, second.answers) == ("paused", first.item, first.answers)
    later.now += 500
    assert second.seconds_left == 1740
    second.advance()
    with pytest.raises(ValueError, match="another window"):
        first.answer(4, "left")
    later.now += 1739.5
    assert not second.tick() and second.seconds_left == 0.5
    later.now += 0.5
    with pytest.raises(ValueError, match="time"):
        second.answer(4, "left")
    for one in (second, Session.resume(study, first.head["code"])):
        assert (one.step, one.test, len(one.answers)) == ("ready", "sequences", 3)


def test_a_name_is_taken_once_and_goes_on_with_its_code_alone(study: Study) -> None:
    code = begun(study).head["code"]
    for wrong in ("anna.", "anna.aaaaaa", "anna", "bela.aaaaaa", "../x.aaaaaa", code + "a"):
        with pytest.raises(ValueError, match="No session"):
            Session.resume(study, wrong)
    for name in ("anna", "../escape", "a/b", "CON", "", "a" * 25, "anna.x"):
        with pytest.raises(ValueError, match="taken" if name == "anna" else "Expected"):
            Session.start(study, name)
    assert [path.name for path in (study.folder / "sessions").glob("*.jsonl")] == ["reader-anna.jsonl"]


CHILD = """
import sys
from mrtutor.apps.study_page import Session, Study
assert "torch" not in sys.modules, "the page opens at once"
session = Session.start(Study.open(sys.argv[1]), "anna")
print(session.head["code"], flush=True)
session.advance()
session.advance()
while session.step == "asking":
    session.answer(session.number, "left")
    print(len(session.answers), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of Unix")
def test_kill_9_loses_no_answer_and_damage_is_told(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, 20)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        said = [child.stdout.readline().strip() for _ in range(6)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().split()
    session = Session.resume(study, said[0])
    done = len(session.answers)
    assert done in (int(said[-1]), int(said[-1]) + 1)
    session.path.write_bytes(session.path.read_bytes()[:-9])
    session = Session.resume(study, said[0])
    session.advance()
    answer(session, 20 - (done - 1))
    assert [a["number"] for a in Session.resume(study, said[0]).answers] == list(range(1, 21))
    session.path.write_bytes(session.path.read_bytes().replace(b'"consent"', b'"consent', 1))
    with pytest.raises(ValueError, match="Line 2"):
        Session.resume(study, said[0])
    assert np.array_equal(tiny_study(tmp_path, 20).pairs, study.pairs), "the same study is left as it is"
    with pytest.raises(ValueError, match="session"):
        tiny_study(tmp_path, 20, minutes=5)
    (tmp_path / "pictures.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match="pictures"):
        Study.open(tmp_path)


def test_results_join_answers_with_the_truth(study: Study, capsys) -> None:
    sharp = begun(study, "sim-sharp")
    while sharp.test == PAIRS:
        grain = [cv2.Laplacian(picture, cv2.CV_32F).std() for picture in study.pairs[sharp.item]]
        sharp.answer(sharp.number, SIDES[np.argmin(grain)])
    sharp.advance()
    answer(sharp, N)
    answer(begun(study, "anna"), 2)
    reader_study.results(study.folder)
    assert "sim-sharp" in capsys.readouterr().out
    results = pd.read_csv(study.folder / "leader/results.csv")
    means = results.groupby(["reader", "test"])["correct"].agg(["mean", "count"])
    assert tuple(means.loc["sim-sharp", "pairs"]) == (1, N) and tuple(means.loc["sim-sharp", "sequences"]) == (0.5, N)
    assert means["count"]["anna"].tolist() == [2, 0] and results["rating"].dropna().tolist() == [4.0] * N
    assert len(results) == 4 * N and set(results["modality"].dropna()) == set(Modality)


def test_partners_are_of_other_patients_with_balanced_modalities(tiny_cohort) -> None:
    rows = [int(row) for row in tiny_cohort.rows("test")] * 2
    partners = choose_partners(tiny_cohort, rows)
    people = tiny_cohort.table["patient"]
    assert all(people[row] != people[other] for row, (other, _) in zip(rows, partners, strict=True))
    assert set(Counter(modality for _, modality in partners).values()) == {2}
    assert len(set(partners)) == len(partners)


def test_a_study_is_drawn_once(tiny_cohort, smoke_pipe, tmp_path: Path, monkeypatch) -> None:
    study = reader_study.prepare_study(tmp_path, smoke_pipe, tiny_cohort, questions=2, minutes=5)
    assert (study.questions, study.minutes, study.source) == (2, 5, "a cohort of simulated patients")
    assert study.pairs.shape == (3, 2, 256, 256) and study.sequences.shape == (3, 4, 256, 256)
    monkeypatch.setattr(type(smoke_pipe), "__call__", None)  # nothing is drawn again
    again = reader_study.prepare_study(tmp_path, smoke_pipe, tiny_cohort, questions=2, minutes=5)
    assert np.array_equal(again.pairs, study.pairs)
    assert {"mutant", "wild"} < set(pd.read_csv(tmp_path / "leader/truth.csv")["truth"])


@pytest.fixture
def page(tmp_path: Path) -> StudyPage:
    return StudyPage(tiny_study(tmp_path / "study", 4).folder, clock=Clock())


def act(page: StudyPage, do: str, **more: str) -> str:
    screen = re.search(r'data-screen="([^"]*)"', page.screen.value)[1]
    page.act({"do": do, "screen": screen} | more)
    return page.screen.value


def test_from_welcome_to_the_readers_own_answers(page: StudyPage) -> None:
    act(page, "enter", code="anna")
    act(page, "advance")
    seen, sizes = {}, set()
    while page.session.step != "done":
        if page.session.step == "ready":
            shown = act(page, "advance")
        sizes |= {len(picture) for picture in re.findall(PICTURE, shown)}
        plain = re.sub(r"Question \d|FLAIR|T1Gd|T1|T2|data-screen=\S+|data-count=\S+", "", re.sub(PICTURE, "", shown))
        seen.setdefault(page.session.test, set()).add(plain)
        said = {"said": "left"} if page.session.test == "pairs" else {"said": "wild", "rating": "3"}
        shown = act(page, "answer", **said)
    assert {test: len(some) for test, some in seen.items()} == {"pairs": 1, "sequences": 1}, "the HTML tells nothing"
    assert len(sizes) == 1
    packed = re.search(r"base64,([A-Za-z0-9+/=]+)", shown)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(packed).decode())))
    assert [row["said"] for row in rows] == ["left"] * 4 + ["wild"] * 4
    assert set(rows[0]) == {"test", "number", "said", "rating", "seconds", "at"}, "no truth"


def test_practice_and_late_messages_are_not_stored(page: StudyPage) -> None:
    told = act(page, "enter", code="<b>")
    assert "&lt;b&gt;" in told and page.session is None
    assert act(page, "enter", code="<b>") != told, "the same message again is a new screen, its buttons work"
    act(page, "enter", code="anna")
    act(page, "advance")
    shown = act(page, "practise")
    assert "Practice" in shown and "<time" not in shown
    assert "Start" in act(page, "answer", said="left") and page.session.answers == []
    act(page, "advance")
    late = {"do": "answer", "screen": "asking-pairs-1-False", "said": "left"}
    page.act(late)
    page.act(late)
    assert len(page.session.answers) == 1 and "Question 2 of 4" in page.screen.value
    page.clock.now += 1801
    assert "time of this test is up" in act(page, "tick") and "Test 2 of 2" in page.screen.value


def says(page: Page, words: str) -> None:
    page.wait(f"document.body.innerText.includes({words!r}) && document.activeElement !== document.body")


def enter(page: Page, address: str, code: str) -> None:
    page.send("Page.navigate", url=address)
    page.wait("document.activeElement?.name === 'code'")
    page.send("Input.insertText", text=code)
    page.key("Enter")


@NEEDS_BROWSER
def test_two_readers_keys_clicks_a_dead_kernel_and_a_phone(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "study", 2)
    with visit("reader_study.ipynb", {"MRTUTOR_STUDY": str(study.folder)}, tmp_path) as (anna, address, voila):
        enter(anna, address, "anna")
        says(anna, "I agree")
        code = anna.run("document.querySelector('.study b').innerText")
        for words in ("Test 1 of 2", "Question 1 of 2"):
            anna.key("Enter")
            says(anna, words)
        anna.key("Enter")  # nothing chosen: nothing sent
        anna.key("2")
        anna.key("ArrowLeft")
        assert anna.run("document.querySelector(':checked').value") == "left"
        assert anna.nameless() == []
        anna.key("Enter")
        says(anna, "Question 2 of 2")
        anna.key("Enter")
        bela = anna.another()
        enter(bela, address, "anna")
        says(bela, "taken")
        for _ in range(3):
            bela.send("Page.navigate", url=address)
            bela.wait("document.activeElement?.name === 'code'")
        enter(bela, address, "bela")
        says(bela, "I agree")
        end = time.monotonic() + PATIENCE
        while len(kernels(voila)) > 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert len(kernels(voila)) == 2, "one for each page that is open, none for those that were left"
        for kernel in kernels(voila):
            kernel.kill()
        enter(anna, address, code)
        says(anna, "1 answers")
        anna.key("Enter")
        says(anna, "Question 2 of 2")
        anna.run("document.querySelectorAll('label img')[1].click()")  # a click on the picture is the answer
        anna.run("document.querySelector('[value=answer]').click()")
        says(anna, "Test 2 of 2")
        anna.key("Enter")
        says(anna, "Question 1 of 2")
        anna.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        anna.wait("innerWidth === 390 && document.documentElement.scrollWidth <= 390")
        boxes = "[...document.querySelectorAll('form :is(button, fieldset label)')].map(b => b.getBoundingClientRect())"
        assert anna.run(f"{boxes}.every(b => b.height >= 44 && b.right <= 390)"), "it fits a phone"
        for number in (1, 2):
            says(anna, f"Question {number} of 2")
            for key in ("4", "w", "Enter"):
                anna.key(key)
        says(anna, "Thank you")
        assert anna.loaded_from_outside() == 0
        assert "Your code" not in answer_of(address.split("?")[0])[1], "no token, no page"
    results = reader_study.read_results(study.folder)
    assert results.loc[results["reader"] == "anna", "said"].tolist() == ["left", "right", "wild", "wild"]
    assert set(results["reader"]) == {"anna", "bela"}
