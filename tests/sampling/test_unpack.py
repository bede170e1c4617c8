"""A pipeline as a run again: the same weights, and training goes on from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mrtutor.models.mirror import save_mirrored
from mrtutor.models.residual import Residual, save_residual
from mrtutor.presets import load_preset
from mrtutor.sampling.pack import pack_run
from mrtutor.sampling.pretrained import load_pretrained, save_pipeline
from mrtutor.sampling.unpack import unpack_pipeline
from mrtutor.training import stages
from mrtutor.vocabulary import Modality
from tests.cohorts import write_tiny_cohort


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> stages.Run:
    folder = tmp_path_factory.mktemp("unpack")
    run = stages.Run(load_preset("smoke"), write_tiny_cohort(folder), folder / "run", steps=2)
    for stage in stages.STAGES:
        stages.train(run, stage)
    save_residual(Residual(0.03, 0.5), run.folder / "autoencoder")
    save_mirrored([Modality.FLAIR], run.folder / "autoencoder")
    pack_run(run.folder, folder / "packed", preset="smoke")
    return run


def same(a: Path, b: Path) -> bool:
    first, second = (load_pretrained(folder, device="cpu") for folder in (a, b))
    parts = [(getattr(p, n).state_dict() for p in (first, second)) for n in ("autoencoder", "text_encoder", "unet")]
    equal = all(torch.equal(x, y) for one, other in parts for x, y in zip(one.values(), other.values(), strict=True))
    return equal and first.parameters == second.parameters


def test_packed_again_it_is_the_same_and_its_origin_is_known(work: stages.Run, tmp_path: Path) -> None:
    packed = work.folder.parent / "packed"
    assert unpack_pipeline(packed, tmp_path / "run") == tmp_path / "run/unet-D"
    pack_run(tmp_path / "run", tmp_path / "again", preset="smoke")
    assert same(packed, tmp_path / "again")
    card = (tmp_path / "again/README.md").read_text()
    assert f"- Data: taken from {packed}, not trained here\n" in card and "No log of the training" in card
    origin = json.loads((tmp_path / "again/origin.json").read_text())
    assert {of["cohort"] for of in origin.values()} == {stages.cohort_key(work.cohort)}


def test_training_goes_on_from_it(work: stages.Run, tmp_path: Path) -> None:
    start = unpack_pipeline(work.folder.parent / "packed", tmp_path / "run")
    further = replace(work, folder=tmp_path / "run", start=start)
    assert stages.train(further, "guidance").name == "unet-D-further"
    assert stages.train(further, "decoder").name == "decoder"
    packed = pack_run(tmp_path / "run", tmp_path / "on", preset="smoke")
    assert packed.unet.name == "unet-D-further"
    card = (tmp_path / "on/README.md").read_text()
    assert "decoder, guidance-D-further: test cohort of 20" in card
    assert not same(work.folder.parent / "packed", tmp_path / "on")


@pytest.mark.parametrize(("variant", "folders"), [("none", {"unet"}), ("B", {"unet", "guidance-B"})])
def test_other_variants(variant: str, folders: set[str], tmp_path: Path) -> None:
    save_pipeline(load_pretrained("smoke", variant, device="cpu"), tmp_path / "pipeline")
    unpack_pipeline(tmp_path / "pipeline", tmp_path / "run")
    found = {p.name for p in (tmp_path / "run").iterdir()}
    assert found == folders | {"autoencoder", "text_encoder", "tokenizer", "runs"}


def test_a_run_is_not_overwritten(work: stages.Run, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty: its weights would be lost\. Name a new"):
        unpack_pipeline(work.folder.parent / "packed", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]
    with pytest.raises(FileNotFoundError, match="No weights 'nothing'"):
        unpack_pipeline("nothing", tmp_path / "new")
