"""Sample sets: the same sequences for any number of processes, killed or not; and one sequence from a reader's case."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from mrtutor.data.export import NOTICE
from mrtutor.data.nifti import write_nifti
from mrtutor.data.structure import canny
from mrtutor.pipeline import draw
from mrtutor.pipeline.draw import DrawSpec, SampleSet, draw_sets, plan, sequence_specs
from mrtutor.vocabulary import Modality, sentence
from tests.data.tiny_cases import tiny_subject
from tests.models.tiny_pipelines import build

SPEC = DrawSpec(7, seed=3, chunk=2)


class Painter:
    """A sampler without a network: a picture tells the seed, the row and the modality it was drawn from."""

    def __init__(self, pause=0.0, key="painter"):
        self.pause, self.key, self.drawn = pause, key, []

    def draw(self, specs):
        time.sleep(self.pause)
        self.drawn += [spec.number for spec in specs]
        return np.stack([painted(spec) for spec in specs])


def painted(spec):
    images = np.repeat(spec.structure[None] / 255, 4, axis=0)
    images[:, 0, :2] = spec.seed % 251 / 255, spec.row / 255
    images[:, 1] = np.arange(4)[:, None] / 255
    return images


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_cohort):
    return draw_sets(SPEC, tmp_path_factory.mktemp("sets") / "whole", Painter(), tiny_cohort)


def test_a_set_holds_what_its_table_says(whole, tiny_cohort):
    assert whole.images.shape == (7, 4, 256, 256) and whole.images.dtype == np.uint8
    assert whole.about["synthetic"] and whole.about["cohort_key"] == tiny_cohort.key
    assert whole.table.equals(plan(SPEC, tiny_cohort))
    for image, spec in zip(whole.images, sequence_specs(whole.table, tiny_cohort), strict=True):
        assert np.array_equal(image, np.round(painted(spec) * 255))
        assert np.array_equal(spec.structure, tiny_cohort.structure(spec.row, spec.edges_of))
        assert (spec.idh, spec.findings) == (tiny_cohort.idh(spec.row), tiny_cohort.findings(spec.row))
    assert set(whole.table["row"]) == set(tiny_cohort.rows("test")), "held-out slices only, all of them"
    assert whole.table["seed"].is_unique and not whole.table.duplicated(["row", "edges_of"]).any(), "a slice again"


def test_sequence_i_depends_on_seed_and_i_alone(whole, tiny_cohort):
    assert plan(replace(SPEC, count=50, chunk=5), tiny_cohort).head(7).equals(whole.table)
    assert not plan(replace(SPEC, seed=4), tiny_cohort)["seed"].equals(whole.table["seed"])
    own, swapped = (plan(replace(SPEC, idh=idh), tiny_cohort) for idh in ("own", "swapped"))
    assert own["idh"].tolist() == [str(tiny_cohort.idh(row)) for row in own["row"]]
    assert swapped["idh"].tolist() == [{"mutant": "wild", "wild": "mutant"}[kind] for kind in own["idh"]]
    assert own.drop(columns="idh").equals(swapped.drop(columns="idh")), "pairs: only the word differs"
    assert plan(replace(SPEC, balanced=True), tiny_cohort)["idh"].tolist() == ["mutant", "wild"] * 3 + ["mutant"]


def test_kill_and_go_on_with_another_number_of_processes(whole, tiny_cohort, tmp_path):
    code = (
        "import sys; from mrtutor import Cohort; from mrtutor.pipeline.draw import draw_sets\n"
        "from tests.pipeline.test_draw import SPEC, Painter\n"
        "draw_sets(SPEC, sys.argv[1], Painter(0.3), Cohort.open(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(tiny_cohort.path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("parts/0*.npy")):
            assert process.poll() is None, "ended before its first chunk"
            time.sleep(0.05)
        process.kill()
    kept = [int(path.stem) for path in tmp_path.glob("parts/0*.npy")]  # the first number of each chunk
    with pytest.raises(FileNotFoundError):
        SampleSet.open(tmp_path)
    painter = Painter()
    assert draw_sets(SPEC, tmp_path, painter, tiny_cohort, 1, 2) is None, "shard 0 is missing"
    done = draw_sets(SPEC, tmp_path, painter, tiny_cohort, 0, 2)
    assert sorted(painter.drawn) == [n for n in range(7) if n - n % 2 not in kept], "no gap, nothing twice"
    assert np.array_equal(done.images, whole.images) and done.table.equals(whole.table)
    assert not (tmp_path / "parts").exists() and len(draw_sets(SPEC, tmp_path, Painter(), tiny_cohort)) == 7


def test_a_folder_of_another_spec_is_refused(tiny_cohort, tmp_path):
    draw_sets(SPEC, tmp_path, Painter(), tiny_cohort, 0, 2)
    for change in ({"seed": 1}, {"count": 8}, {"idh": "swapped"}, {"options": {"eta": 1.0}}):
        with pytest.raises(ValueError, match=next(iter(change))):
            draw_sets(replace(SPEC, **change), tmp_path, Painter(), tiny_cohort)
    with pytest.raises(ValueError, match="another painter"):
        draw_sets(SPEC, tmp_path, Painter(key="another painter"), tiny_cohort)


def test_what_cannot_be_drawn(tiny_cohort, tmp_path):
    for wrong in ({"count": 0}, {"seed": -1}, {"idh": "blue"}):
        with pytest.raises(ValueError, match=str(next(iter(wrong)))):
            replace(SPEC, **wrong)
    with pytest.raises(ValueError, match="shard"):
        draw_sets(SPEC, tmp_path, Painter(), tiny_cohort, shard=2, shards=2)
    bad = Painter()
    bad.draw = lambda specs: np.full((len(specs), 4, 256, 256), np.nan)
    with pytest.raises(ValueError, match="finite"):
        draw_sets(SPEC, tmp_path, bad, tiny_cohort)
    (tmp_path / "file").write_text("mine")
    for task in (draw_sets, lambda _, out, *more: draw.sample_subject(None, tmp_path, out)):
        with pytest.raises(ValueError, match="file"):  # before anything is read or drawn
            task(SPEC, tmp_path / "file", None, tiny_cohort)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_pipeline_draws_what_sequence_draws(smoke_pipe, tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke_pipe, "precision", torch.float32)
    spec = replace(SPEC, count=2, options={"num_inference_steps": 2})
    done = draw_sets(spec, tmp_path, smoke_pipe, tiny_cohort)
    one = sequence_specs(done.table, tiny_cohort)[1]
    wanted = smoke_pipe.sequence(one.idh, one.structure, one.seed, findings=one.findings, num_inference_steps=2)
    assert np.abs(done.images[1] - torch.stack(list(wanted.values())).numpy() * 255).max() <= 1
    assert done.about["sampler"].startswith(draw.weights_key(smoke_pipe))
    weight = next(smoke_pipe.unet.parameters())
    monkeypatch.setattr(weight, "data", weight + 1)
    with pytest.raises(ValueError, match="another sample set"):
        draw_sets(spec, tmp_path, smoke_pipe, tiny_cohort)


def test_findings_are_said_where_the_weights_know_them(tiny_cohort):
    pipe, said = build("D"), []
    pipe.encode = lambda sentences: said.append(sentences[1:])  # and then nothing to draw from
    [spec, *_] = sequence_specs(plan(SPEC, tiny_cohort), tiny_cohort)
    for known in (False, True):
        pipe.register_to_config(findings=known)
        with pytest.raises(TypeError):
            draw.PipelineSampler(pipe).draw([spec])
    assert said[0] == [sentence(modality, spec.idh) for modality in Modality]
    assert said[1] == [tiny_cohort.sentence(spec.row, modality) for modality in Modality]


def test_the_command(tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # and RANK is 0 where nobody sets it
    options = ["--count", "2", "--chunk", "1", "--steps", "1", "--weights", "smoke", "--device", "cpu"]
    options += ["--cohort", str(tiny_cohort.path), "--out", str(tmp_path)]
    app = typer.Typer()
    app.command()(draw.main)
    assert "missing" in CliRunner().invoke(app, options).output
    CliRunner().invoke(app, [*options, "--shard", "1"])
    assert len(SampleSet.open(tmp_path)) == 2
    wrong = CliRunner().invoke(app, [*options, "--seed", "5"])
    assert wrong.exit_code == 2 and "Error: " in wrong.output


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_nifti(tiny_subject(5), tmp_path_factory.mktemp("cases"))


def test_a_real_case_is_drawn_anew(case, smoke_pipe, tmp_path):
    done = draw.sample_subject(smoke_pipe, case, tmp_path, idh="mutant", steps=1, seed=4)
    assert list(done.synthetic) == list(done.real) == list(Modality) and len(done.files) == 9
    assert np.array_equal(done.structure, canny(done.real[Modality.T1GD]) > 0)
    assert done.slice_number == 26, "the middle of the lesion"
    picture, volume = (path for path in done.files if "_T1_" in path.name)
    text = Image.open(picture).text
    assert text["Description"] == NOTICE and text["Seed"] == "4" and "slice 26" in text["Source"]
    assert "IDH mutant" in text["Prompt"]
    assert nib.load(volume).header["descrip"].item().decode() == NOTICE
    alone = draw.sample_structure(smoke_pipe, done.structure, tmp_path, steps=1, seed=4)
    wanted = smoke_pipe.sequence(None, done.structure, 4, num_inference_steps=1)
    assert all(np.array_equal(alone.synthetic[m], wanted[m]) for m in Modality) and alone.real == {}


def test_slices_are_counted_as_in_the_file_and_sequences_may_be_missing(case, smoke_pipe, tmp_path):
    over = tmp_path / case.name  # the same case without T1 and T1Gd, its 60 slices stored from the top down
    over.mkdir()
    for path in [path for path in case.glob("*.nii.gz") if "t1" not in path.name.lower()]:
        image = nib.load(path)
        down = nib.orientations.axcodes2ornt(("R", "A", "I"))
        turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), down))
        nib.save(turned, over / path.name)
    options = {"steps": 1, "edges_of": "T2"}
    one = draw.sample_subject(smoke_pipe, case, tmp_path / "out", slice_number=20, **options)
    two = draw.sample_subject(smoke_pipe, over, tmp_path / "out", slice_number=39, **options)
    assert (one.slice_number, two.slice_number) == (20, 39)
    assert np.allclose(one.real["T2"], two.real["T2"], atol=2 / 255), "one slice, counted from either end"
    assert set(two.real) == {Modality.FLAIR, Modality.T2} and len(two.synthetic) == 4
    for folder, number, said in ((case, 60, "0 to 59"), (over, 20, "lacks T1Gd")):
        with pytest.raises(ValueError, match=said):
            draw.sample_subject(smoke_pipe, folder, tmp_path / "out", slice_number=number)
