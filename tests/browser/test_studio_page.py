"""The studio as a web page: Voilà on 127.0.0.1, a real browser that picks, presses, uploads and looks."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from tiny_pipelines import build

from mrtutor.data.examples import example_names
from mrtutor.sampling.pretrained import save_pipeline
from tests.browser.voila_server import serve

MISSING = [name for name in ("websocket", "voila") if find_spec(name) is None]
if not MISSING:
    from tests.browser.devtools import Page, browser, find_browser

    BROWSER = find_browser()
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not MISSING and BROWSER is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.skipif(not example_names(), reason="no data/examples, which the page offers as masks"),
]
PATIENCE = 400  # seconds for the kernel to import torch on a busy machine
PICTURES = "[...document.querySelectorAll('img[alt*=modality]')].map(i => i.src)"
ALERT = "(document.querySelector('[role=alert]') || {innerText: ''}).innerText"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """Voilà with tiny weights; address and process."""
    folder = tmp_path_factory.mktemp("studio")
    weights = save_pipeline(build("D", steps=2), folder / "weights")
    with serve("studio.ipynb", {"MRTUTOR_STUDIO_WEIGHTS": str(weights)}, folder) as served:
        yield served


@pytest.fixture(scope="module")
def page(server: tuple[str, psutil.Process], tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    with browser(BROWSER) as page:
        for domain in ("Page", "Runtime", "DOM"):
            page.send(f"{domain}.enable")
        page.send("Page.navigate", url=server[0])
        try:
            page.wait(f"!!{_button('Draw')}", PATIENCE)
            yield page
        finally:
            page.screenshot(tmp_path_factory.getbasetemp() / "studio.png")  # for a look after a failure


def _button(words: str) -> str:
    return f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === '{words}')"


def _press(page: "Page", words: str) -> None:
    page.wait(f"{_button(words)} && !{_button(words)}.disabled", 60)
    page.run(f"{_button(words)}.click()")


def _choose_file(page: "Page", path: Path) -> None:
    page.send("Page.setInterceptFileChooserDialog", enabled=True)
    page.run("document.querySelector('.jupyter-widget-upload, .widget-upload').click()")
    node = page.event("Page.fileChooserOpened")["backendNodeId"]
    page.send("DOM.setFileInputFiles", files=[str(path)], backendNodeId=node)


def test_the_studio_as_a_page(server: tuple[str, psutil.Process], page: "Page", tmp_path: Path) -> None:
    """One visit, in order: each step starts where the last one left the page."""
    _listens_on_this_machine_only(server[1])
    words = page.run("document.body.innerText")
    assert "synthetic" in words and "not for diagnosis" in words
    _wild_type_changes_four_pictures(page)
    _a_wrong_upload_is_told(page, tmp_path / "photograph.png")
    _a_right_upload_is_drawn_from(page, tmp_path / "mask.png")


def _listens_on_this_machine_only(voila: psutil.Process) -> None:
    listening = [c.laddr.ip for c in voila.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening and set(listening) == {"127.0.0.1"}


def _wild_type_changes_four_pictures(page: "Page") -> None:
    assert page.run(PICTURES) == []
    _press(page, "IDH mutant")
    _press(page, "Draw")
    mutant = page.wait(f"{PICTURES}.length === 4 && {PICTURES}", PATIENCE)
    assert len(set(mutant)) == 4, "four modalities, four pictures"
    _press(page, "IDH wild")
    _press(page, "Draw")
    page.wait(f"{PICTURES}.every(s => !{mutant!r}.includes(s))", PATIENCE)
    assert page.run("[...document.querySelectorAll('img[alt*=modality]')].every(i => i.alt.includes('IDH wild'))")
    assert page.run(ALERT) == ""


def _a_wrong_upload_is_told(page: "Page", wrong: Path) -> None:
    before = page.run(PICTURES)
    _press(page, "upload")
    assert cv2.imwrite(str(wrong), np.full((100, 120), 90, np.uint8))
    _choose_file(page, wrong)
    said = page.wait(ALERT, PATIENCE)
    assert "256 x 256" in said and "120 x 100" in said
    assert page.run(PICTURES) == before, "the last pictures stay"


def _a_right_upload_is_drawn_from(page: "Page", right: Path) -> None:
    before = page.run(PICTURES)
    assert cv2.imwrite(str(right), cv2.circle(np.zeros((256, 256), np.uint8), (128, 128), 80, 255, 1))
    _choose_file(page, right)
    page.wait(f"{ALERT} === ''", PATIENCE)
    _press(page, "Draw")
    page.wait(f"{PICTURES}.every(s => !{before!r}.includes(s))", PATIENCE)
