"""The baseline as others use it: what it draws, what it saves, what it refuses to load."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mrtutor.baselines.networks import CLASSES, Discriminator, Generator, class_index
from mrtutor.baselines.stylegan2 import CONFIG, WEIGHTS, StyleGAN2, load_stylegan2
from mrtutor.files import CHECKSUMS, write_checksums
from mrtutor.presets import PRESETS, load_preset
from mrtutor.vocabulary import IDH

TINY = load_preset("smoke").stylegan2
SHIPPED = 6 * 2**20  # bytes that a repository can bear


@pytest.fixture(scope="module")
def gan() -> StyleGAN2:
    torch.manual_seed(0)
    generator = Generator(TINY).eval()
    with torch.no_grad():  # at the start noise has no strength; here it must be seen
        for level in generator.levels:
            level.layer.strength.fill_(0.1)
    return StyleGAN2(generator, TINY, {"steps": 0})


def test_sequences_have_the_promised_form(gan):
    drawn = gan.sequences([IDH.MUTANT, "wt"], seed=3)
    assert drawn.shape == (2, 4, 256, 256) and drawn.dtype == torch.float32
    assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.std() > 0.01


def test_a_sequence_depends_on_seed_place_and_type_alone(gan):
    three = gan.sequences([IDH.WILD, IDH.MUTANT, IDH.WILD], seed=5)
    assert torch.equal(gan.sequences([IDH.WILD], seed=5)[0], three[0])
    assert not torch.equal(three[0], three[2]), "same type, another place: another z"
    assert not torch.equal(three[0], gan.sequences([IDH.WILD], seed=6)[0])


def test_conditions_change_the_picture(gan):
    wild, mutant = (gan.sequences([idh], seed=1)[0] for idh in (IDH.WILD, IDH.MUTANT))
    assert all((wild[a] - wild[b]).abs().max() > 1e-3 for a in range(4) for b in range(a))
    assert all((wild[m] - mutant[m]).abs().max() > 1e-3 for m in range(4))


def test_conditions_change_the_verdict():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 256, 256).expand(CLASSES, -1, -1, -1) * 2 - 1
    verdicts = Discriminator(TINY)(image, torch.arange(CLASSES))
    assert verdicts.shape == (CLASSES,) and verdicts.dtype == torch.float32
    assert verdicts.unique().numel() == CLASSES


def test_every_pair_has_its_class():
    modality, idh = torch.arange(4).repeat_interleave(2), torch.arange(2).repeat(4)
    assert class_index(modality, idh).tolist() == list(range(CLASSES))


def test_saved_and_loaded_it_draws_the_same(gan, tmp_path):
    size = gan.save(tmp_path / "gan")
    assert size == sum(p.stat().st_size for p in (tmp_path / "gan").iterdir())
    loaded = load_stylegan2(str(tmp_path / "gan"), device="cpu")
    assert loaded.preset == TINY and loaded.about == {"steps": 0}
    before, after = (g.sequences([IDH.WILD], seed=2) for g in (gan, loaded))
    assert 0 < (before - after).abs().max() < 0.02, "float16 rounds, and no more"
    again = loaded.save(tmp_path / "again")
    assert again == size
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "gan" / WEIGHTS).read_bytes()
    assert "not for diagnosis" in (tmp_path / "gan" / "README.md").read_text()


def test_missing_and_damaged_folders_are_explained(gan, tmp_path):
    with pytest.raises(FileNotFoundError, match="mrtutor train stylegan2"):
        load_stylegan2(tmp_path / "none")
    folder = tmp_path / "gan"
    gan.save(folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="truncated or altered"):
        load_stylegan2(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_stylegan2(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / CHECKSUMS).unlink()
    with pytest.raises(FileNotFoundError, match=CHECKSUMS):
        load_stylegan2(folder)


@pytest.mark.parametrize("config", ['{"preset": {"layers": 3}, "about": {}}', "{}", "not json"])
def test_weights_of_another_version_are_refused(gan, tmp_path, config):
    gan.save(tmp_path / "gan")
    (tmp_path / "gan" / CONFIG).write_text(config)
    write_checksums(tmp_path / "gan")
    with pytest.raises(ValueError, match="train it anew"):
        load_stylegan2(tmp_path / "gan")


def test_weights_that_do_not_fit_the_sizes_are_refused(gan, tmp_path):
    StyleGAN2(gan.generator, replace(TINY, latent=8)).save(tmp_path / "gan")
    with pytest.raises(ValueError, match="train it anew"):
        load_stylegan2(tmp_path / "gan")


@pytest.mark.parametrize("idh", [[], "wild", ["glioma"]])
def test_wrong_types_are_named(gan, idh):
    with pytest.raises(ValueError, match="xpected"):
        gan.sequences(idh, seed=0)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_256_pixels_and_the_laptops_can_be_shipped(name):
    preset = load_preset(name).stylegan2
    with torch.device("meta"):
        generator, discriminator = Generator(preset), Discriminator(preset)
        z, label = torch.empty(2, preset.latent), torch.zeros(2, dtype=torch.long)
        noises = [[torch.empty(2, 1, 4 * 2**i, 4 * 2**i)] * 2 for i in range(len(preset.channels))]
        image = generator.synthesise(torch.empty(2, preset.latent), noises)
        assert image.shape == (2, 1, 256, 256)
        assert discriminator.dense.weight.shape[1] == 16 * preset.channels[0]
    if name == "laptop":
        assert 2 * sum(p.numel() for p in generator.parameters()) < SHIPPED
    assert z.shape[1] == generator.mapping.embed.weight.shape[0] and label.shape == (2,)


def test_folder_is_replaced_as_a_whole(gan, tmp_path: Path, monkeypatch):
    gan.save(tmp_path / "gan")
    before = (tmp_path / "gan" / WEIGHTS).read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mrtutor.baselines.stylegan2.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        gan.save(tmp_path / "gan")
    assert (tmp_path / "gan" / WEIGHTS).read_bytes() == before and not list(tmp_path.glob(".tmp-*"))
