"""From a run's folder to a pipeline folder: complete, checked, with a card that says what was trained and measured."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mrtutor.metrics.draws import weights_key
from mrtutor.models.autoencoder import build_autoencoder
from mrtutor.models.mirror import save_mirrored
from mrtutor.models.residual import Residual, save_residual
from mrtutor.presets import load_preset
from mrtutor.sampling.card import _training_table, model_card
from mrtutor.sampling.origin import record_origin
from mrtutor.sampling.pack import pack_run
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.training import stages
from mrtutor.vocabulary import Modality
from tests.cohorts import write_tiny_cohort

STAGES = ["autoencoder", "text", "denoiser", "guidance-D"]
SIMULATED = {"source": "simulated", "patients": 484, "cohort_seed": 0, "cohort": "c0a146deb838", "device": "2 cores"}
REAL = {"source": "ucsf-pdgm", "patients": 398, "cohort_seed": None, "cohort": "aa11bb22cc33", "device": "a GPU"}
CLAIM = "nothing here was trained on a patient"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    work = stages.Run(load_preset("smoke"), write_tiny_cohort(folder), folder / "run", steps=2)
    for stage in stages.STAGES:
        stages.train(work, stage)
    return folder / "run"


def card_of(origins: dict[str, dict], runs: Path) -> str:
    return model_card(preset="smoke", variant="D", origins=origins, runs=runs)


def test_packed_weights_open_and_the_card_shows_every_stage(run: Path, tmp_path: Path) -> None:
    packed = pack_run(run, tmp_path / "out", preset="smoke", device="a test")
    assert packed.size_bytes == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert packed.unet == run / "unet-D" and not packed.measured
    assert load_pretrained(tmp_path / "out", device="cpu").variant == "D"
    card = (tmp_path / "out/README.md").read_text()
    for words in ("Not for diagnosis", "a test", "| autoencoder | 2 |", "| guidance-D | 2 |", "Not measured yet"):
        assert words in card, words
    assert "- Data: test cohort of 20 patients, seed 0 (`" in card and CLAIM not in card


def test_figures_of_other_weights_stay_out_of_the_card(run: Path, tmp_path: Path) -> None:
    out, results = tmp_path / "out", tmp_path / "weights.json"
    pack_run(run, out, preset="smoke")
    figure = {"value": 31.25, "ci95": [31.0, 31.5], "n": 9}
    report = {"seed": 7, "autoencoder": {"psnr_db": figure}, "cost": {"default_steps": 25}}
    for key, measured in ((weights_key(load_pretrained(out, device="cpu")), True), ("d0d0d0d0d0d0", False)):
        results.write_text(json.dumps(report | {"of": {"weights": key, "cohort": "c0a146deb838"}}))
        packed = pack_run(run, out, preset="smoke", results=results, key=weights_key)
        card = (out / "README.md").read_text()
        assert packed.measured == measured == ("31.25 | 31 … 31.5 | 9" in card)
        assert measured == ("Test patients of cohort `c0a146deb838`; seed 7" in card)


def test_the_card_claims_simulated_data_only_where_they_are(tmp_path: Path) -> None:
    card = card_of(dict.fromkeys(STAGES, SIMULATED), tmp_path)
    assert CLAIM in card and "simulated-data]" in card and "deformed template" in card
    assert (
        "- Data: simulated cohort of 484 patients, seed 0 (`c0a146deb838`), training split\n- Device: 2 cores" in card
    )
    further = dict.fromkeys(STAGES, SIMULATED) | {"guidance-D-further": REAL}
    given = dict.fromkeys(STAGES, SIMULATED) | {"autoencoder": {"given": "owner/model"}}
    foreign = dict.fromkeys(STAGES, SIMULATED) | {"guidance-D-further": SIMULATED | {"start": "elsewhere/unet-D"}}
    for origins, words in (
        (further, ("slices of patients", "further: ucsf-pdgm cohort of 398 patients (`aa11", "2 cores; a GPU")),
        (given, ("not all recorded", "autoencoder: taken from owner/model, not trained here")),
        (foreign, ("not all recorded", "training split, from elsewhere/unet-D")),
        ({stage: {} for stage in STAGES}, ("not all recorded", "- Data: not recorded", "- Device: not recorded")),
    ):
        card = card_of(origins, tmp_path)
        assert all(word in card for word in words), card
        assert not any(word in card for word in (CLAIM, "simulated-data", "deformed template", "*simulated* cohort"))


def test_a_note_on_a_stage_is_in_the_card(tmp_path: Path) -> None:
    for stage in STAGES:
        record_origin(tmp_path, stage, SIMULATED | ({"note": "an older loss."} if stage == "guidance-D" else {}))
    origins = json.loads((tmp_path / "runs/origin.json").read_text())
    assert "\n\nguidance-D: an older loss.\n\n## What was measured" in card_of(origins, tmp_path / "runs")


def test_a_decoder_is_what_is_packed_unless_it_belongs_to_another_encoder(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    shutil.copytree(own / "autoencoder", own / "decoder")
    crisp = AutoencoderKL.from_pretrained(own / "decoder")
    torch.nn.init.constant_(crisp.decoder.conv_out.bias, 0.25)
    crisp.save_pretrained(own / "decoder")
    record_origin(own, "decoder", SIMULATED)
    save_residual(Residual(0.03, 0.5), own / "decoder")
    save_mirrored([Modality.T2], own / "autoencoder")
    pack_run(own, tmp_path / "out", preset="smoke")
    packed = load_pretrained(tmp_path / "out", device="cpu")
    assert torch.all(packed.autoencoder.decoder.conv_out.bias == 0.25) and packed.residual == Residual(0.03, 0.5)
    assert packed.config.mirrored == ["T2"]
    assert "decoder: simulated cohort" in (tmp_path / "out/README.md").read_text()
    torch.nn.init.zeros_(crisp.encoder.conv_in.bias)
    other_size = build_autoencoder(load_preset("laptop").autoencoder)
    for other in (crisp, other_size):
        other.save_pretrained(own / "decoder")
        with pytest.raises(ValueError, match="was trained behind another encoder"):
            pack_run(own, tmp_path / "out", preset="smoke")


def test_a_further_round_is_what_is_packed(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet-D")
    with torch.no_grad():
        unet.conv_out.bias.fill_(0.5)
    unet.save_pretrained(folder / "unet-D-further")
    shutil.copytree(folder / "runs/guidance-D", folder / "runs/guidance-D-further")
    packed = pack_run(folder, tmp_path / "out", preset="smoke")
    assert packed.unet.name == "unet-D-further"
    assert (load_pretrained(tmp_path / "out", device="cpu").unet.conv_out.bias == 0.5).all()
    card = (tmp_path / "out/README.md").read_text()
    assert "| guidance-D | 2 |" in card and "| guidance-D-further | 2 |" in card
    assert "guidance-D-further: not recorded" in card
    with torch.no_grad():
        unet.conv_out.bias.fill_(0.25)
    for number in (2, 10):  # 10 comes after 2, whatever the alphabet says
        unet.save_pretrained(folder / f"unet-D-further-{number}")
        shutil.copytree(folder / "runs/guidance-D", folder / f"runs/guidance-D-further-{number}")
    packed = pack_run(folder, tmp_path / "last", preset="smoke")
    assert packed.unet.name == "unet-D-further-10"
    card = (tmp_path / "last/README.md").read_text()
    assert card.index("| guidance-D-further |") < card.index("further-2 |") < card.index("further-10 |")


def test_an_unfinished_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks guidance-B: run `mrtutor train all"):
        pack_run(run, tmp_path / "out", preset="smoke", variant="B")
    assert not (tmp_path / "out").exists()


def test_the_card_leaves_out_a_stage_that_is_not_finished_or_not_in_the_weights(run: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(run / "runs", tmp_path / "runs")
    shutil.copytree(runs / "denoiser", runs / "stylegan2")
    (runs / "text" / "cost.json").unlink()
    table = _training_table(runs, STAGES)
    assert "| autoencoder | 2 |" in table and "| text |" not in table and "stylegan2" not in table
