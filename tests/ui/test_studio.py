"""The studio without a browser: widgets are set and pressed from Python."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import ipywidgets
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import build

from mrtutor.data.examples import Example
from mrtutor.data.export import NOTICE
from mrtutor.data.structure import canny
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.ui import studio as studio_module
from mrtutor.ui.request import MAX_UPLOAD
from mrtutor.ui.studio import Studio
from mrtutor.vocabulary import IDH, Modality, prompt
from tests.ui.test_request import GREY, MASK, png


def example(x: float = 90) -> Example:
    """A disc with a tumour at column x."""
    rows, columns = np.mgrid[0:256, 0:256]
    brain, tumour = np.hypot(columns - 128, rows - 128) < 90, np.hypot(columns - x, rows - 100) < 20
    image = np.where(tumour, 1.0, np.where(brain, 0.5, 0.0)).astype(np.float32)
    return Example(
        np.stack([image] * 4), tumour.astype(np.uint8), canny(image), IDH.WILD, "SIM", "simulated", Modality.T1, "test"
    )


@pytest.fixture(scope="module")
def pipe() -> MRPipeline:
    pipe = build("D")
    pipe.precision = torch.float32
    return pipe


@pytest.fixture
def studio(pipe, tmp_path) -> Studio:
    studio = Studio(pipe, {"left": example(90), "right": example(160)}, tmp_path / "out")
    studio.controls.steps.value = 2
    return studio


@pytest.fixture(scope="module")
def usual(pipe) -> np.ndarray:
    """What the panel of `studio` draws as T1Gd if nothing is touched."""
    studio = Studio(pipe, {"left": example(90), "right": example(160)})
    studio.controls.steps.value = 2
    return studio.draw().images[Modality.T1GD]


def upload(studio: Studio, content: bytes, name: str = "mask.png") -> None:
    studio.controls.source.value = "upload"
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    studio.controls.upload.value = (file | {"last_modified": datetime.now(tz=UTC)},)


def pictures(studio: Studio) -> list[str]:
    return [box.value for box in studio.controls.pictures.values()]


def test_draw_changes_all_four_pictures(studio):
    before = pictures(studio)
    studio.controls.draw.click()
    assert studio.controls.error.value == ""
    assert all(a != b and "<img" in b for a, b in zip(before, pictures(studio), strict=True))
    assert len(set(pictures(studio))) == 4
    assert studio.controls.progress.value == studio.controls.progress.max == 2
    assert NOTICE in studio.controls.pictures[Modality.T1].value and "not for diagnosis" in studio.controls.status.value
    assert not studio.controls.draw.disabled


def test_draws_what_the_pipeline_draws(studio, pipe):
    studio.controls.idh.value, studio.controls.seed.value = IDH.MUTANT, 7
    studio.controls.guidance.value = 3.0
    drawn = studio.draw().images
    options = {"num_inference_steps": 2, "guidance_scale": 3.0}
    wanted = pipe.sequence("mutant", studio.examples["left"].structure, seed=7, **options)
    assert all(np.array_equal(drawn[m], wanted[m].numpy()) for m in Modality)


@pytest.mark.parametrize(
    ("change", "value"),
    [("idh", IDH.MUTANT), ("seed", 1), ("steps", 3), ("guidance", 4.0), ("example", "right"), ("source", "compose")],
)
def test_every_control_acts(studio, usual, change, value):
    getattr(studio.controls, change).value = value
    assert not np.array_equal(usual, studio.draw().images[Modality.T1GD]), change


def test_progress_counts_the_steps(studio):
    seen = []
    studio.controls.progress.observe(lambda change: seen.append(change["new"]), "value")
    studio.controls.draw.click()
    studio.controls.draw.click()
    assert seen == [1, 2, 0, 1, 2]


def test_sentence_in_place_of_menus(studio):
    studio.controls.words.value = "sentence"
    studio.controls.sentence.value = "A flair modality MR image, type of IDH mutant glioma"
    drawing = studio.draw()
    assert drawing.sentences == {m: prompt(m, "mutant") for m in Modality}
    studio.controls.sentence.value = "a picture of a brain"
    studio.controls.draw.click()
    assert "modality word" in studio.controls.error.value
    assert studio.drawing is drawing, "a refused request must not cost the last drawing"


def test_the_mask_moves_with_the_sliders(studio):
    shown = studio.controls.mask.value
    studio.controls.source.value = "compose"
    assert studio.controls.mask.value != shown, "the panel shows the composed mask"
    studio.controls.ellipse["y"].value = 128
    centres = []
    for x in (100, 150):
        studio.controls.ellipse["x"].value = x
        inside = studio.structure()[0, 0].numpy()[108:149, 60:200]
        centres.append(60 + np.nonzero(inside)[1].mean())
    assert centres[1] - centres[0] == pytest.approx(50, abs=2)
    studio.controls.ellipse["x"].value, studio.controls.ellipse["y"].value = 215, 30
    assert "outside the brain" in studio.controls.error.value
    studio.controls.ellipse["x"].value, studio.controls.ellipse["y"].value = 128, 128
    assert studio.controls.error.value == "", "mended, the message goes"


def test_an_uploaded_mask_is_drawn_from(studio):
    mask = studio.examples["right"].structure
    upload(studio, png(mask), "../../etc/passwd.png")
    assert studio.controls.error.value == ""
    drawing = studio.draw()
    assert np.array_equal(drawing.structure > 0, mask > 0)
    files = studio.save()
    assert all(file.parent == studio.output_dir and "passwd" not in file.name for file in files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a picture", "Cannot read the upload"),
        (png(MASK)[:200], "Cannot read the upload"),
        (b"", "Cannot read the upload"),
        (png(MASK[:100]), "256 x 100"),
        (png(GREY), "binary structure map"),
        (png(np.zeros((256, 256), np.uint8)), "all empty"),
        (png(np.dstack([MASK, MASK * 0, MASK])), "coloured"),
        (b"0" * (MAX_UPLOAD + 1), "at most"),
    ],
)
def test_a_wrong_upload_says_so_in_the_panel(studio, content, message):
    before = pictures(studio)
    upload(studio, content, "<script>alert(1)</script>.png")
    assert message in studio.controls.error.value and 'role="alert"' in studio.controls.error.value
    assert "<script>" not in studio.controls.error.value
    studio.controls.draw.click()
    assert message in studio.controls.error.value
    assert pictures(studio) == before and not studio.controls.draw.disabled


def test_messages_are_escaped(studio):
    studio.controls.words.value = "sentence"
    studio.controls.sentence.value = "<img src=x onerror=alert(1)> T1"
    studio.controls.draw.click()
    said = "".join([studio.controls.error.value, *pictures(studio)])
    assert "<img src=x" not in said


def test_saved_files_say_synthetic_and_what_was_asked(studio):
    studio.controls.seed.value = 5
    studio.controls.draw.click()
    studio.controls.seed.value = 6  # changed after the drawing: the file must tell of the drawing
    studio.controls.save.click()
    assert "8 files" in studio.controls.status.value
    files = sorted(studio.output_dir.glob("*_synthetic.*"))
    assert len(files) == 8
    for file in files:
        if file.suffix == ".png":
            text = Image.open(file).text
            assert text["Description"] == NOTICE and text["Seed"] == "5" and text["Mask"] == "example left"
            assert text["Prompt"] == prompt(file.name.split("_")[1], "wild")
        else:
            assert nib.load(file).header["descrip"].item().decode() == NOTICE
    studio.controls.save.click()
    assert len(list(studio.output_dir.glob("*_synthetic.*"))) == 16, "saving again overwrites nothing"


def test_two_panels_on_one_folder_overwrite_nothing(studio, monkeypatch):
    other = Studio(studio.pipe, studio.examples, studio.output_dir)
    other.drawing = studio.draw()
    save_png = studio_module.save_png
    monkeypatch.setattr(studio_module, "save_png", lambda *a, **k: time.sleep(0.1) or save_png(*a, **k))
    with ThreadPoolExecutor() as pool:
        saved = [task.result() for task in [pool.submit(panel.save) for panel in (studio, other)]]
    assert len({file for files in saved for file in files}) == len(list(studio.output_dir.glob("*_synthetic.*"))) == 16


def test_nothing_drawn_nothing_saved(studio):
    assert studio.controls.save.disabled
    for task in (studio.save, studio.figure):
        with pytest.raises(ValueError, match="press Draw"):
            task()


def test_a_full_disk_is_said_in_the_panel(studio, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    studio.controls.draw.click()
    monkeypatch.setattr("mrtutor.ui.studio.save_png", full)
    studio.controls.save.click()
    assert "No space left" in studio.controls.error.value


def test_core_widgets_only_and_a_static_picture(studio):
    def walk(widget: ipywidgets.Widget, visit: Callable) -> None:
        visit(widget)
        for child in getattr(widget, "children", ()):
            walk(child, visit)

    modules = set()
    walk(studio.view, lambda widget: modules.add(widget._model_module))
    assert modules <= {"@jupyter-widgets/controls", "@jupyter-widgets/base"}
    data, _ = studio._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data and "studio" in data["text/plain"]
    studio.draw()
    assert len(studio.figure().axes) == 5


def test_what_is_hidden_is_what_is_useless(studio):
    controls = studio.controls
    shown = lambda part: part.layout.display != "none"  # noqa: E731
    for words in ("menus", "sentence"):
        controls.words.value = words
        assert (shown(controls.idh), shown(controls.sentence)) == (words == "menus", words == "sentence")
        assert shown(controls.progress) and shown(controls.draw)
    controls.source.value = "upload"
    assert not shown(controls.example) and controls.error.value == "", "an upload still to come is no mistake"
    assert "no mask yet" in controls.mask.value


def test_without_examples_there_is_no_studio(pipe):
    with pytest.raises(ValueError, match="at least one example"):
        Studio(pipe, {})
