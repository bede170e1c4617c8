"""The studio and the attention browser: widgets set from Python; the studio also as a page in a real browser."""

import base64
import io
import re
import zipfile
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from mrtutor.apps.attention_browser import AttentionBrowser, stretched
from mrtutor.apps.studio import ELLIPSE, UPLOAD, Studio, four_sentences
from mrtutor.data.export import NOTICE
from mrtutor.pipeline.attention import trace_attention
from mrtutor.plot import heat
from mrtutor.vocabulary import Findings, Modality, sentence
from tests.apps.browser import NEEDS_BROWSER, visit
from tests.models.tiny_pipelines import build

EDGES = np.zeros((256, 256), np.uint8)
EDGES[60:200, 60] = 255


@pytest.fixture
def studio(tiny_cohort):
    return Studio(build("D", steps=2), tiny_cohort)


def png(values):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def upload(studio, content):
    studio.source.value = UPLOAD
    about = {"name": "<script>.png", "type": "image/png", "size": len(content), "last_modified": datetime.now(tz=UTC)}
    studio.upload.value = ({**about, "content": memoryview(content)},)


def test_four_sentences():
    sentences = four_sentences("A T1ce image;  T1c+, contrast-enhanced T1")
    assert list(sentences) == list(Modality) and sentences["FLAIR"] == "A FLAIR image; FLAIR, FLAIR"
    for text in ("", "a brain", "T1 and T2", "T10 image"):
        with pytest.raises(ValueError, match="modality word"):
            four_sentences(text)


def test_it_draws_and_packs_what_the_pipeline_draws(studio, tiny_cohort):
    seen = []
    studio.progress.observe(lambda change: seen.append(change["new"]), "value")
    studio.idh.value, studio.seed.value, studio.guidance.value = "mutant", 7, 3.0
    studio.draw_button.click()
    assert studio.error.value == "" and seen == [1, 2] and not studio.draw_button.disabled
    edges = tiny_cohort.structure(tiny_cohort.row_of("fake-0"), "T1Gd")
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "findings": Findings(simulated=True)}
    wanted = studio.pipe.sequence("mutant", edges, 7, **options)
    for modality, box in studio.pictures.items():
        assert np.array_equal(studio.images[modality], wanted[modality].numpy())
        assert "<img" in box.value and NOTICE in box.value
    assert "kernel" in studio._repr_mimebundle_()["text/plain"]
    packed = base64.b64decode(re.search(r"base64,([^\"]+)", studio.download.value)[1])
    with zipfile.ZipFile(io.BytesIO(packed)) as files:
        names = {f"{modality}_synthetic.{kind}" for modality in Modality for kind in ("nii.gz", "png")}
        assert set(files.namelist()) == names
        text = Image.open(files.open("T1_synthetic.png")).text
    assert (text["Description"], text["Seed"], text["Edge map"]) == (NOTICE, "7", "fake-0")
    assert text["Prompt"] == studio.pipe.sentence("T1", "mutant", Findings(simulated=True))


def test_the_other_controls_act(studio):
    drawn = [studio.draw()["T1Gd"]]
    for widget, name, value in (
        (studio.steps, "value", 3),
        (studio.example, "index", 1),
        (studio.source, "value", ELLIPSE),
        (studio.sentence, "value", "A flair modality MR image, type of IDH mutant glioma"),
    ):
        setattr(widget, name, value)
        drawn.append(studio.draw()["T1Gd"])
        assert not np.array_equal(drawn[-1], drawn[-2]), value
    studio.sentence.value = sentence("T2", "mutant")
    assert np.array_equal(studio.draw()["T1Gd"], drawn[-1]), "the same sentence by another modality's name"
    images, studio.sentence.value = studio.images, "<img src=x onerror=alert(1)>"
    studio.draw_button.click()
    assert "modality word" in studio.error.value and "<img src=x" not in studio.error.value
    assert studio.images is images, "a refused sentence must not cost the last drawing"


def test_the_ellipse_moves_and_stays_in_the_brain(studio):
    studio.source.value = ELLIPSE
    centres = []
    for x in (100, 150):
        studio.ellipse["x"].value, studio.ellipse["y"].value = x, 128
        centres.append(np.nonzero(studio.structure()[0, 0].numpy()[108:149, 60:200])[1].mean())
    assert centres[1] - centres[0] == pytest.approx(50, abs=3)
    studio.ellipse["x"].value, studio.ellipse["y"].value = 215, 30
    assert "outside the brain" in studio.error.value
    studio.ellipse["x"].value, studio.ellipse["y"].value = 128, 128
    assert studio.error.value == "", "mended, the message goes"


def test_an_upload_is_drawn_from_or_refused_in_the_panel(studio):
    grey = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
    colours = np.dstack([EDGES, EDGES * 0, EDGES])
    wrong = {"Cannot": png(EDGES)[:200], "256 x 100": png(EDGES[:100]), "binary": png(grey)}
    for message, content in (wrong | {"invert": png(255 - EDGES), "coloured": png(colours)}).items():
        upload(studio, content)
        assert message in studio.error.value and 'role="alert"' in studio.error.value
        studio.draw_button.click()
        assert message in studio.error.value and not studio.images
    upload(studio, png(EDGES))
    assert studio.error.value == "" and np.array_equal(studio.structure()[0, 0] > 0, EDGES > 0)


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


PICTURES = "[...document.querySelectorAll('img[alt*=modality]')].map(i => i.src)"


def press(page, words):
    button = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === '{words}')"
    page.wait(f"{button} && !{button}.disabled")
    page.run(f"{button}.focus()")
    page.key("Enter")


@NEEDS_BROWSER
def test_the_studio_as_a_page(tiny_cohort, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/examples").symlink_to(tiny_cohort.path)
    variables = {"MRTUTOR_STUDIO_WEIGHTS": "smoke", "MRTUTOR_DATA": str(tmp_path / "data")}
    with visit("studio.ipynb", variables, tmp_path) as (page, address, _):
        page.send("Page.navigate", url=address)
        press(page, "IDH mutant")
        press(page, "Draw")
        mutant = page.wait(f"{PICTURES}.length === 4 && {PICTURES}")
        press(page, "IDH wild")
        press(page, "Draw")
        page.wait(f"{PICTURES}.every(s => !{mutant!r}.includes(s))")
        words = page.run("document.body.innerText")
        assert "synthetic" in words and "not for diagnosis" in words and "Download" in words
        assert page.nameless() == [] and page.loaded_from_outside() == 0
        assert not page.run("document.querySelector('[role=alert]')")
