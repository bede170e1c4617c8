"""The studio and the attention browser: messages to Python, and the page in a real browser."""

import base64
import io
import re
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.apps.attention_browser import AttentionBrowser, stretched
from mrtutor.apps.studio import Newest, Studio, four_sentences
from mrtutor.data.export import NOTICE
from mrtutor.pipeline.attention import trace_attention
from mrtutor.plot import heat
from mrtutor.vocabulary import Modality, sentence
from tests.apps.browser import NEEDS_BROWSER, answer_of, kernels, visit
from tests.data.fakes import add_exam
from tests.models.tiny_pipelines import build

EDGES = np.zeros((256, 256), np.uint8)
EDGES[60:200, 60] = 255
ASKED = {"number": 1, "rest": True, "refine": True, "ellipse": None, "steps": 3, "guidance": 3.0, "source": "by hand"}
ASKED["settings"] = [[sentence("T1Gd", "wild"), 7]]


class Page:
    """A studio and what it says to its page."""

    def __init__(self, cohort):
        self.studio, self.heard = Studio(build("D", steps=2), cohort, live_steps=2), []
        self.studio.send = lambda content, buffers: self.heard.append((content, buffers))

    def say(self, kind, buffers=(), **content):
        """Send a message; gives what came back when all is done."""
        self.heard.clear()
        self.studio._heard(self.studio, {"kind": kind, **content}, [memoryview(buffer) for buffer in buffers])
        self.studio.worker.wait()
        return {content["kind"]: (content, buffers) for content, buffers in self.heard}

    def draw(self, edges=EDGES, **changes):
        return self.say("draw", [edges.tobytes()], **{**ASKED, **changes})


@pytest.fixture
def page(tiny_cohort):
    return Page(tiny_cohort)


def greys(buffers):
    return np.frombuffer(buffers[0], np.uint8).reshape(-1, 256, 256)


def test_four_sentences():
    sentences = four_sentences("A T1ce image;  T1c+, contrast-enhanced T1")
    assert list(sentences) == list(Modality) and sentences["FLAIR"] == "A FLAIR image; FLAIR, FLAIR"
    for text in ("", "a brain", "T1 and T2", "T10 image"):
        with pytest.raises(ValueError, match="modality word"):
            four_sentences(text)


def test_the_newest_task_wins_and_the_running_one_is_told():
    worker, begun, done = Newest(), threading.Event(), []

    def long():
        begun.set()
        while not worker.old:
            time.sleep(0.001)
        done.append("told")

    worker.ask(long)
    begun.wait(10)
    for name in ("waits", "waits, too", "newest"):
        worker.ask(lambda name=name: done.append(name))
    worker.wait()
    assert done[0] == "told" and done[-1] == "newest" and "waits" not in done[1:-1]


def test_few_steps_then_all_and_the_zip_holds_them(page):
    page.draw(number=5)
    drawn = [(content["steps"], greys(buffers)) for content, buffers in page.heard if content["kind"] == "drawn"]
    assert [steps for steps, _ in drawn] == [2, 3]
    pipe = page.studio._pipes[0]
    words, noise = list(four_sentences(ASKED["settings"][0][0]).values()), range(4)
    for (steps, got), scale in zip(drawn, (1.0, 3.0), strict=True):
        generators = [torch.Generator().manual_seed(7) for _ in noise]
        options = {"num_inference_steps": steps, "guidance_scale": scale, "generator": generators}
        assert np.abs(got - pipe(words, EDGES, **options).images.numpy() * 255).max() <= 0.51
    packed = page.say("zip", number=5)["zip"][1][0]
    with zipfile.ZipFile(io.BytesIO(packed)) as files:
        names = {f"{modality}_synthetic.{kind}" for modality in Modality for kind in ("nii.gz", "png")}
        assert set(files.namelist()) == {"edge_map.png", *names}
        image = Image.open(files.open("T1_synthetic.png"))
        assert (image.text["Description"], image.text["Seed"], image.text["Edge map"]) == (NOTICE, "7", "by hand")
        assert np.array_equal(np.asarray(image), drawn[-1][1][1]) and image.text["Prompt"] == sentence("T1", "wild")


def test_two_settings_an_ellipse_and_a_student(page, tiny_cohort):
    two = page.draw(settings=[[sentence("T2", "wild"), 0], [sentence("T1Gd", "wild"), 1]], refine=False)["drawn"]
    alone = page.draw(settings=[[sentence("T1Gd", "wild"), 0]], refine=False)["drawn"]
    assert np.array_equal(greys(two[1])[:4], greys(alone[1])), "the same sentence by another modality's name"
    assert not np.array_equal(greys(two[1])[4:], greys(alone[1])), "another seed"
    anatomy = page.say("anatomy", place=0)["anatomy"][1]
    _, edges, emptied = greys(anatomy)
    assert (edges != emptied).any() and not (emptied & ~edges).any()
    ellipse = {"x": 128, "y": 128, "width": 40, "height": 30, "angle": 0, "core": 0}
    plain, with_tumour = (page.draw(emptied, ellipse=e)["drawn"][1] for e in (None, ellipse))
    assert not np.array_equal(greys(plain), greys(with_tumour))
    assert "outside the brain" in page.draw(emptied, ellipse={**ellipse, "x": 3, "y": 3})["error"][0]["text"]
    page.studio._pipes = (page.studio._pipes[0], build("D", steps=4))
    assert [content["steps"] for content, _ in page.heard if content["kind"] == "drawn"] == []
    page.draw()
    assert [content["steps"] for content, _ in page.heard if content["kind"] == "drawn"] == [4, 3]


def test_mistakes_are_said_and_cost_nothing(page):
    page.draw()
    for changes, words in (
        ({"settings": [["<img src=x>", 0]]}, "modality word"),
        ({"edges": EDGES * 0}, "empty"),
        ({"edges": 255 - EDGES}, "invert"),
    ):
        assert words in page.draw(number=2, **changes)["error"][0]["text"]
        assert list(page.studio._drawings) == [1], "the last drawing can still be downloaded"
    studio = Studio("no such weights")
    said = []
    studio.send = lambda content, buffers: said.append(content)
    studio._heard(studio, {"kind": "ready"}, [])
    studio.worker.wait()
    assert any("No weights" in content.get("text", "") for content in said)


def upload(page, *files):
    pieces = [(name, data[i : i + 2**20]) for name, data in files for i in range(0, len(data), 2**20)]
    for number, (name, piece) in enumerate(pieces):
        said = page.say("file", [piece], name=name, first=number == 0, last=number == len(pieces) - 1)
        if "error" in said:
            return said["error"][0]["text"]
    return said["anatomy"]


def test_uploads_are_drawn_from_or_refused(page, tmp_path, monkeypatch):
    def png(values):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, format="PNG")
        return buffer.getvalue()

    grey = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
    wrong = {"Cannot": bytes(2 * 2**20), "(1, 100, 256)": png(EDGES[:100]), "binary": png(grey)}
    for message, content in wrong.items():
        assert message in upload(page, ("../<b>.png", content))
    content, buffers = upload(page, ("mine.png", png(EDGES)))
    assert content["name"] == "mine.png" and np.array_equal(greys(buffers)[1], EDGES)
    monkeypatch.setattr("mrtutor.apps.studio.MOST_MB", 1)
    assert "1 MB at most" in upload(page, ("large.nii", bytes(3 * 2**20)))
    monkeypatch.undo()
    exam = add_exam(tmp_path)
    case = upload(page, *((path.name, path.read_bytes()) for path in sorted(exam.iterdir())))
    by_path = page.say("path", path=str(exam))["anatomy"]
    assert by_path[1] == case[1], "the same case, uploaded or by its folder"
    planes = by_path[0]["planes"]
    other = page.say("plane", plane=planes["last"])["anatomy"]
    assert planes["first"] <= planes["plane"] < planes["last"] and other[1] != case[1]
    assert "No folder" in page.say("path", path=str(tmp_path / "nothing"))["error"][0]["text"]


def test_menus_write_the_sentence(page):
    assert page.say("ready")["loaded"][0]["steps"] == 2
    page.studio._pipes[0].register_to_config(findings=True)
    said = page.say("words", words={"idh": 0, "side": 1, "necrosis": 0})["sentence"][0]["text"]
    assert said == "A simulated T1Gd modality MR image, type of IDH mutant glioma, right, with necrosis"


def shown(browser):
    data = re.search(r"base64,([^\"]+)", browser.shown.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


def test_every_choice_reaches_the_picture():
    pipe = build("B", steps=2)
    with trace_attention(pipe, keep_steps=(1,)) as trace:
        images = pipe.sequence("wild", np.eye(256), modalities=["FLAIR", "T1Gd"])
    browser = AttentionBrowser(trace, images)
    weights = stretched(trace.heat_map("glioma", modality="FLAIR"))
    assert weights.min() == 0 and weights.max() == 1
    assert np.allclose(shown(browser), heat(images[Modality.FLAIR], weights), atol=1 / 255)
    assert 'alt="Attention of “glioma”, layer all, step all, over the synthetic FLAIR' in browser.shown.value
    browser.word.value = "FLAIR"
    browser.modality.value = Modality.T1GD
    assert browser.word.value == "T1Gd" and "FLAIR" not in browser.word.options, "the word stays at its place"
    browser.layer.value, browser.step.value, browser.stretch.value = "guidance down 1.0", 1, False
    weights = trace.heat_map("T1Gd", modality="T1Gd", layer="guidance down 1.0", step=1)
    assert np.allclose(shown(browser), heat(images[Modality.T1GD], weights), atol=1 / 255)
    data = browser._repr_mimebundle_()
    assert "kernel" in data["text/plain"] and "application/vnd.jupyter.widget-view+json" in data
    with pytest.raises(ValueError, match="No sentence names T2"):
        AttentionBrowser(trace, {"T2": images[Modality.FLAIR]})


PICTURES = "[...document.querySelectorAll('figure canvas')].map(c => c.toDataURL())"
PIXELS = "document.querySelector('.drawing canvas').toDataURL()"


def other_pictures(page, than):
    return page.wait(f"{PICTURES}.length === {len(than)} && {PICTURES}.every(s => !{than!r}.includes(s)) && {PICTURES}")


@NEEDS_BROWSER
def test_the_studio_as_a_page(tiny_cohort, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/examples").symlink_to(tiny_cohort.path)
    variables = {"MRTUTOR_STUDIO_WEIGHTS": "smoke", "MRTUTOR_DATA": str(tmp_path / "data")}
    with visit("studio.ipynb", variables, tmp_path) as (page, address, server):
        page.send("Page.navigate", url=address)
        first = page.wait(f"{PICTURES}.length === 4 && {PICTURES}")
        before = page.run(PIXELS)
        page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        page.drag(".drawing canvas", [(0.3 + i / 40, 0.5) for i in range(9)], pause=0.05)
        drawn = other_pictures(page, first)
        assert len(page.run("document.querySelector('.studio').dataset.delays").split()) >= 2, "while the hand moved"
        page.click("undo")
        page.wait(f"{PIXELS} === {before!r}")
        other_pictures(page, drawn)
        page.click("tumour")
        page.drag(".drawing canvas", [(0.5, 0.5), (0.6, 0.5)])
        other_pictures(page, first)
        page.click("download")
        page.run("document.querySelector('figure canvas').click()")
        page.wait("/FLAIR: [01][.]/.test(document.querySelector('figcaption').innerText)")
        (tmp_path / "large.png").write_bytes(bytes(20 * 2**20))
        Image.fromarray(EDGES).save(tmp_path / "mine.png")
        for name, said in (("large.png", "Cannot read"), ("mine.png", "mine.png")):
            page.choose_files("[type=file]", tmp_path / name)
            page.wait(f"document.querySelector('.studio').innerText.includes({said!r})")
        page.wait("document.querySelectorAll('.gallery button').length >= 3")
        page.run("document.querySelector('.gallery button:last-child').click()")
        page.wait(f"{PIXELS} === {before!r}")
        words = page.run("document.body.innerText.toLowerCase()")
        assert "synthetic" in words and "not for diagnosis" in words
        assert page.nameless() == []
        page.send("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
        page.wait("innerWidth === 390 && document.documentElement.scrollWidth <= 390")
        with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as files:
            assert len(files.namelist()) == 9
        assert page.loaded_from_outside() == 0
        assert answer_of(address, "evil.example")[0] == 403, "another name for this machine"
        assert "studio" not in answer_of(address.split("?")[0])[1], "no token, no page"
        assert len(kernels(server)) == 1, "and no kernel"
