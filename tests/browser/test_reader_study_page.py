"""The reader study as a web page: two readers at once in real browsers, a kernel that dies, and a CSV at the end."""

import base64
import csv
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from mrtutor.study.results import read_results
from tests.browser.voila_server import serve
from tests.study.pools import tiny_study

MISSING = [name for name in ("websocket", "voila") if find_spec(name) is None]
if not MISSING:
    from tests.browser.devtools import Page, browser, find_browser

    BROWSER = find_browser()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not MISSING and BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
PATIENCE = 300  # seconds, on a busy machine
QUESTIONS = 4
SCREEN = {"width": 1366, "height": 768, "deviceScaleFactor": 1, "mobile": False}
KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}
SCROLLS = """[...document.querySelectorAll('*')].filter(e => e.clientHeight > 0 && e.scrollHeight > e.clientHeight + 1
  && (e === document.documentElement || /auto|scroll/.test(getComputedStyle(e).overflowY)))"""
OUTSIDE = """[...document.querySelectorAll('.study button, .study img, .study-clock')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.top < 0 || box.left < 0 || box.bottom > innerHeight || box.right > innerWidth; }).map(e => e.className)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study(tmp_path_factory.mktemp("page") / "study", QUESTIONS)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Voilà over a tiny study; address and process."""
    with serve("reader_study.ipynb", {"MRTUTOR_STUDY": str(folder)}, folder.parent) as served:
        yield served


class Reader:
    """Somebody at a screen of 1366 × 768."""

    def __init__(self, page: "Page", address: str, pictures: Path, code: str) -> None:
        self.page, self.address, self.pictures, self.code = page, address, pictures, code
        for domain in ("Page", "Runtime"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", **SCREEN)

    def sees(self, words: str) -> None:
        """Wait for words; then nothing may scroll or stand outside the screen."""
        self.page.wait(f"document.body.innerText.includes({words!r})", PATIENCE)
        self.page.wait(f"{SCROLLS}.length === 0 && {OUTSIDE}.length === 0", 20)

    def key(self, key: str) -> None:
        number = KEYS.get(key) or ord(key.upper())
        text = {} if key in KEYS else {"text": key}
        self.page.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=number, **text)
        self.page.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=number)

    def look(self, name: str) -> None:
        self.page.screenshot(self.pictures / f"reader_study_{name}.png")

    def visit(self) -> None:
        """Open the page and enter the code."""
        self.page.send("Page.navigate", url=self.address)
        self.page.wait("!!document.querySelector('.study input')", PATIENCE)
        self.sees("Reader study")
        self.look("welcome")
        self.page.run("document.querySelector('.study input').focus()")
        for letter in self.code:
            self.key(letter)
        self.page.wait(f"document.querySelector('.study input').value === {self.code!r}", 20)
        self.key("Enter")

    def begin(self) -> None:
        self.visit()
        self.sees("I agree")
        assert f"Your code is {self.code}." in self.page.run("document.body.innerText"), "letters were lost on the way"
        self.key("Enter")
        self.start("Test 1 of 2")

    def start(self, title: str) -> None:
        self.sees(title)
        self.page.wait("[...document.querySelectorAll('button')].some(b => b.innerText === 'Start')", PATIENCE)
        self.key("Enter")

    def answer(self, number: int, *keys: str) -> None:
        """Mark with keys, look whether it is marked, go on."""
        self.sees(f"question {number} of {QUESTIONS}")
        self.page.wait("document.querySelector('.study button.go')?.disabled === true", PATIENCE)
        for count, key in enumerate(keys, 1):
            self.press_until(key, f"document.querySelectorAll('.study button.chosen').length === {count}")
        self.page.wait("document.querySelector('.study button.go').disabled === false", PATIENCE)
        self.look(f"{len(keys)}")
        self.key("Enter")

    def press_until(self, key: str, done: str) -> None:
        for _ in range(10):  # the buttons of a new question may be a moment behind its words
            self.key(key)
            try:
                self.page.wait(done, 10)
            except TimeoutError:
                continue
            return
        raise TimeoutError(f"key {key} had no effect: {self.page.run('document.body.innerText')!r}")


def test_two_readers_a_dead_kernel_and_a_csv(
    server: tuple[str, psutil.Process], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pictures = tmp_path_factory.getbasetemp()  # for a look after a failure
    with browser(BROWSER) as one, browser(BROWSER) as two:
        anna, bela = (Reader(page, server[0], pictures, code) for page, code in ((one, "anna-1"), (two, "bela-2")))
        anna.begin()
        kernel = _kernels(server[1])[0]
        _listens_on_this_machine_only(server[1])
        anna.answer(1, "ArrowLeft")
        bela.begin()
        bela.answer(1, "1")
        anna.answer(2, "2")
        anna.sees(f"question 3 of {QUESTIONS}")
        kernel.kill()
        bela.answer(2, "ArrowRight")  # does not notice
        anna.visit()
        anna.sees("2 of 4 answers of this test are saved")
        anna.look("resumed")
        anna.key("Enter")
        for n in (3, 4):
            bela.answer(n, "1")
            anna.answer(n, "2")
        for reader, keys in ((anna, ("4", "w")), (bela, ("0", "m"))):
            reader.start("Test 2 of 2")
            for n in range(1, QUESTIONS + 1):
                reader.answer(n, *keys)
            reader.sees("Thank you")
            reader.look("done")
        link = anna.page.run("document.querySelector('.study a[download]').href")
    frame = read_results(folder)
    mine = frame[frame["reader"] == "anna-1"]
    assert mine["said"].tolist() == ["left", "right", "right", "right"] + ["wild"] * 4
    assert mine["rating"].dropna().tolist() == [4] * 4 and mine["pauses"].tolist() == [1] * 4 + [0] * 4
    hers = frame[frame["reader"] == "bela-2"]
    assert hers["said"].tolist() == ["left", "right", "left", "left"] + ["mutant"] * 4 and not hers["pauses"].any()
    assert (frame["seconds"] > 0).all() and frame["consent"].str.contains("free will").all()
    taken = list(csv.DictReader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode())))
    assert [row["said"] for row in taken] == mine["said"].tolist()


def _kernels(voila: psutil.Process) -> list[psutil.Process]:
    return [p for p in voila.children(recursive=True) if any("ipykernel" in word for word in p.cmdline())]


def _listens_on_this_machine_only(voila: psutil.Process) -> None:
    listening = [c.laddr.ip for c in voila.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening and set(listening) == {"127.0.0.1"}
