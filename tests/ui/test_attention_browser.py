"""The browser: every choice changes the picture as the trace says, and the sheet says the same."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.sampling.attention import trace_attention
from mrtutor.ui.attention_browser import AttentionBrowser, overlay, stretched
from mrtutor.vocabulary import Modality
from tests.tiny_pipelines import build


@pytest.fixture(scope="module")
def drawn():
    pipe = build("B", steps=2)
    pipe.precision = torch.float32
    pipe.set_progress_bar_config(disable=True)
    structure = np.zeros((256, 256), np.uint8)
    structure[60:200, 60] = 255
    with trace_attention(pipe, keep_steps=(1,)) as trace:
        images = pipe.sequence("wild", structure, modalities=["FLAIR", "T1Gd"])
    return trace, images


@pytest.fixture
def browser(drawn):
    return AttentionBrowser(*drawn)


def shown(browser):
    data = re.search(r"base64,([^\"]+)", browser.shown.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) / 255


def test_it_starts_at_glioma_in_all_layers(browser, drawn):
    trace, images = drawn
    heat = stretched(trace.heat_map("glioma", modality="FLAIR").numpy())
    assert np.allclose(shown(browser), overlay(images[Modality.FLAIR].numpy(), heat), atol=1 / 255)
    assert 'alt="Attention of “glioma”, all layers, all steps, over the synthetic FLAIR' in browser.shown.value


def test_every_choice_reaches_the_picture(browser, drawn):
    trace, images = drawn
    browser.modality.value = Modality.T1GD
    browser.word.value, browser.layer.value, browser.step.value = "T1Gd", "guidance down 1.0", 1
    browser.stretch.value = False
    heat = trace.heat_map("T1Gd", modality="T1Gd", layer="guidance down 1.0", step=1).numpy()
    assert np.allclose(shown(browser), overlay(images[Modality.T1GD].numpy(), heat), atol=1 / 255)
    assert "layer guidance down 1.0, step 1" in browser.status.value


def test_the_word_stays_at_its_place(browser):
    browser.word.value = "FLAIR"
    browser.modality.value = Modality.T1GD
    assert browser.word.value == "T1Gd" and "FLAIR" not in browser.word.options


def test_sheet(browser):
    figure = browser.figure()
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["FLAIR, synthetic", *browser.words(Modality.FLAIR)]
    assert "A FLAIR modality MR image" in figure.get_suptitle() and "all layers, all steps" in figure.get_suptitle()
    assert len([t for t in browser.figure(["glioma"]).axes if t.get_title()]) == 2


def test_fallback_and_core_widgets_only(browser):
    data, _ = browser._repr_mimebundle_()
    assert "running kernel" in data["text/plain"] and "application/vnd.jupyter.widget-view+json" in data


def test_overlay():
    image, heat = np.full((2, 2), 0.4), np.array([[0.0, 1.0], [0.5, 2.0]])
    mixed = overlay(image, heat)
    assert mixed.shape == (2, 2, 3) and np.allclose(mixed[0, 0], 0.4), "no map, the picture"
    assert np.allclose(mixed[0, 1], mixed[1, 1]), "values above 1 count as 1"
    assert np.allclose(stretched([[2.0, 4.0]]), [[0, 1]]) and np.allclose(stretched(image), 0)
    with pytest.raises(ValueError, match="one shape"):
        overlay(image, np.ones((3, 2)))


def test_wrong_input(drawn):
    trace, images = drawn
    with pytest.raises(ValueError, match="No sentence names T2"):
        AttentionBrowser(trace, {"T2": images[Modality.FLAIR]})
