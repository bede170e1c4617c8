"""Batches: which slices are drawn how often, views of them, what is said of them, and cached latents."""

import numpy as np
import pytest
import torch
from torch import Generator

from mrtutor.data.cohort import Cohort, write_cohort
from mrtutor.models import build_components
from mrtutor.models.autoencoder import encode
from mrtutor.presets import load_preset
from mrtutor.training.data import (
    ANY,
    FACTS,
    LatentBatches,
    SliceBatches,
    TrainingSlices,
    cache_latents,
    codes,
    drop,
    emphasis_map,
    latent_key,
    wording,
)
from mrtutor.vocabulary import IDH, Findings, Modality, modalities_in

SIDE = list(FACTS).index("side")


@pytest.fixture(scope="module")
def real(tiny_cohort: Cohort, tmp_path_factory) -> Cohort:
    """Five real patients: four of site A without T2, one of site B of unknown IDH type; one slice tumour-free."""
    images, masks = np.array(tiny_cohort.images[:10]), np.array(tiny_cohort.masks[:10])
    images[:8, 3], masks[9] = 0, 0
    table = tiny_cohort.table.iloc[:10].assign(split="train", idh=["wild"] * 8 + [""] * 2, source=["A"] * 8 + ["B"] * 2)
    table["sequences"] = ["FLAIR T1 T1Gd"] * 8 + ["FLAIR T1 T1Gd T2"] * 2
    table.loc[9, ["tumour_px", "side", "place", "size", "enhancement", "necrosis", "oedema"]] = [0, *[""] * 6]
    return write_cohort(tmp_path_factory.mktemp("real") / "real", images, masks, table)


@pytest.fixture(scope="module")
def both(tiny_cohort: Cohort, real: Cohort) -> TrainingSlices:
    return TrainingSlices([tiny_cohort, real])


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


def test_half_of_the_draws_are_real_and_no_collection_rules(both: TrainingSlices, generator: Generator) -> None:
    source = both.table["source"]
    shares = both.chance.numpy() / both.chance.sum().item()
    assert shares[source == "simulated"].sum() == pytest.approx(0.5)
    assert shares[source == "A"].sum() == pytest.approx(2 * shares[source == "B"].sum())  # 4 patients, 1: the root of 4
    draw = both.draw(4000, generator)
    assert (source[draw.index.numpy()] != "simulated").mean() == pytest.approx(0.5, abs=0.04)
    assert all(map(torch.equal, draw, both.draw(4000, Generator().manual_seed(0))))
    lacks = torch.from_numpy((source[draw.index.numpy()] == "A").to_numpy())
    assert (draw.modality[lacks] != 3).all() and (draw.edges_of[lacks] != 3).all()  # a missing sequence
    assert set(draw.modality[~lacks].tolist()) == {0, 1, 2, 3} and (both.spread(8).view == 0).all()


def test_training_never_sees_other_splits(tiny_cohort: Cohort, real: Cohort) -> None:
    assert {cohort.table["split"].iat[row] for cohort, row in TrainingSlices([tiny_cohort]).places} == {"train"}
    with pytest.raises(ValueError, match="validation"):
        TrainingSlices([real], "validation")  # it has training patients only


def test_a_flipped_picture_has_its_words_flipped_and_others_change_a_little(both: TrainingSlices) -> None:
    index = int(np.flatnonzero(both.table["source"] == "B")[0])
    (plain, mask), (flipped, _), (changed, moved) = (both.pictures(index, view) for view in range(3))
    assert np.array_equal(plain[..., ::-1], flipped)
    draw = both.spread(1)._replace(
        index=torch.tensor([index] * 4), view=torch.arange(4), modality=torch.zeros(4).long()
    )
    assert both.facts(draw._replace(edges_of=draw.modality))[:, SIDE].tolist() == [0, 1, 0, 1]
    assert both.views[index] > 3 and 0 < abs(changed.astype(float) - plain).mean() < 25
    assert (moved > 0).sum() == pytest.approx((mask > 0).sum(), rel=0.2) and (changed[:, :8] == 0).all()
    assert np.array_equal(changed, both.pictures(index, 2)[0])


def test_findings_are_left_out_but_never_the_modality(generator: Generator) -> None:
    facts = torch.tensor([codes(Modality.T2, IDH.WILD, Findings(side="left", simulated=True))] * 200)
    dropped = drop(facts, 0.5, generator)
    kept = (dropped != ANY).float().mean(dim=0)
    assert all(kept[list(FACTS).index(name)] == 1 for name in ("modality", "tumour", "simulated"))
    assert all(0.3 < kept[list(FACTS).index(name)] < 0.7 for name in ("idh", "side")) and kept[-1] == 0
    free = torch.tensor([codes(Modality.T2, None, Findings(tumour=False))])
    assert wording(drop(free, 1.0, generator)[0].tolist(), generator, 1.0) == "A T2 modality MR image, no tumour"


def test_slices_come_whole_or_cropped(both: TrainingSlices, generator: Generator) -> None:
    whole, cropped = SliceBatches(both)(3, generator), SliceBatches(both, crop=64)(3, generator)
    assert whole["image"].shape == (3, 1, 256, 256) and cropped["image"].shape == (3, 1, 64, 64)
    assert whole["image"].min() == -1 and whole["image"].max() <= 1
    assert whole["facts"].shape == (3, len(FACTS)) and torch.equal(whole["facts"][:, 0], whole["modality"])


def test_the_emphasis_is_on_tumour_and_agent() -> None:
    images, tumour = np.full((2, 4, 64, 64), 100, np.uint8), np.zeros((2, 64, 64), bool)
    tumour[:, :8, :4], images[:, 2, 32, 32] = True, 200
    maps = emphasis_map(images, tumour, torch.tensor([2, 3]), 8, np.ones((2, 4), bool))
    assert maps[0, 0, 0, 0] == 0.5 and maps[0, 0, 4, 4] == 1 and maps[1, 0, 4, 4] == 0 and maps.sum() == 2
    without = np.array([[True, False, True, True]] * 2)
    assert emphasis_map(images, tumour, torch.tensor([2, 2]), 8, without)[0, 0, 4, 4] == 0


def test_latents_are_computed_once_for_every_view(real: Cohort, tmp_path) -> None:
    slices = TrainingSlices([real])
    slices.views, slices.first = np.full(len(slices), 2), 2 * np.arange(len(slices))
    autoencoder = build_components(load_preset("smoke"), "none")["autoencoder"]
    cached, key = cache_latents(slices, autoencoder, tmp_path, torch.float32), latent_key(autoencoder)
    channels = autoencoder.config.latent_channels
    assert cached.shape == (20, 4, channels, 32, 32)
    picture = torch.from_numpy(slices.pictures(3, 1)[0][2] / 127.5 - 1).float()[None, None]
    with torch.no_grad():
        assert np.allclose(cached[7, 2], encode(autoencoder, picture)[0], atol=2e-2)
        autoencoder.decoder.conv_out.bias.add_(1)
    assert latent_key(autoencoder) == key  # a crisper decoder leaves latents as they are
    cache_latents(slices, autoencoder, tmp_path, torch.float32)
    assert len(list(tmp_path.iterdir())) == 1
    autoencoder.register_to_config(latents_std=[2.0] * channels)
    assert latent_key(autoencoder) != key


def test_latent_batches_speak_and_draw_of_one_slice(both: TrainingSlices, generator: Generator) -> None:
    heard = []

    def encoder(sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        heard.extend(sentences)
        return torch.zeros(len(sentences), 8, 4), torch.ones(len(sentences), 8, dtype=torch.bool)

    latents = np.arange(both.views.sum(), dtype=np.float16)[:, None, None, None, None] * np.ones((1, 4, 2, 32, 32))
    batch = LatentBatches(both, latents, encoder, drop_prompt=0.5)(64, generator)
    assert batch["latent"].shape == (64, 2, 32, 32) and batch["structure"].shape == (64, 1, 256, 256)
    assert set(batch["structure"].unique().tolist()) == {0, 1} and batch["text_mask"].shape == (64, 8)
    draw = both.draw(64, Generator().manual_seed(0))
    assert batch["latent"][:, 0, 0, 0].tolist() == (both.first[draw.index.numpy()] + draw.view.numpy()).tolist()
    assert 16 < heard.count("") < 48
    for sentence, modality in zip(heard, draw.modality.tolist(), strict=True):
        assert not sentence or modalities_in(sentence) == {list(Modality)[modality]}


def test_one_dataset_serves_chapters_and_training(tiny_cohort):
    slices = TrainingSlices([tiny_cohort])
    item = slices[0]
    cohort, row = slices.places[0]
    assert item["image"].shape == (4, 256, 256) and 0 <= item["image"].min() <= item["image"].max() <= 1
    assert (item["mask"] == cohort.masks[row]).all() and item["sentence"][2] == cohort.sentence(row, "T1Gd")
