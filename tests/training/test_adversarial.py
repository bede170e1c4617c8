"""The decoder that learns against a discriminator: what moves, what does not, and what stays when it is cut."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Generator

from mrtutor.models.autoencoder import build_autoencoder, decode, encode, set_latent_statistics
from mrtutor.models.residual import Residual, load_residual, save_residual
from mrtutor.presets import load_preset
from mrtutor.training import stages
from mrtutor.training.adversarial import AdversarialObjective, PatchDiscriminator, decoder_parameters
from mrtutor.training.loop import fit
from mrtutor.training.objectives import reconstruction_loss
from mrtutor.training.run import Run
from mrtutor.training.statistics import lacking_grain, training_slices

SMOKE = load_preset("smoke")


@pytest.fixture
def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    model = build_autoencoder(SMOKE.autoencoder)
    set_latent_statistics(model, torch.randn(8, 4, 4, 4))
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    image = torch.full((2, 1, 64, 64), -1.0)
    image[..., 20:44, 20:44] = torch.rand(2, 1, 24, 24, generator=Generator().manual_seed(0))
    return {"image": image, "modality": torch.tensor([0, 3])}


@pytest.fixture
def run(tiny_cohort, tmp_path: Path) -> Run:
    work = stages.Run(SMOKE, tiny_cohort, tmp_path)
    stages.train(work, "autoencoder")
    save_residual(Residual(0.02, 0.5), tmp_path / "autoencoder")
    return work


def test_a_logit_sees_its_surroundings_alone() -> None:
    judge, images = PatchDiscriminator().eval(), torch.zeros(1, 1, 128, 128, requires_grad=True)
    judge(images, torch.tensor([0]))[0, 8, 8].backward()
    rows = images.grad[0, 0].abs().sum(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == 56


def test_a_logit_for_each_square_of_the_slice_s_modality() -> None:
    torch.manual_seed(0)
    judge, images = PatchDiscriminator().eval(), torch.rand(2, 1, 64, 48) * 2 - 1
    logits = judge(images, torch.tensor([1, 2]))
    assert logits.shape == (2, 8, 6)
    swapped = judge(images, torch.tensor([1, 0]))
    assert torch.equal(swapped[0], logits[0]) and not torch.allclose(swapped[1], logits[1])


def test_only_the_decoder_learns(autoencoder: AutoencoderKL, batch: dict) -> None:
    trained = decoder_parameters(autoencoder)
    objective = AdversarialObjective(Residual(), 1e-3)
    loss, _ = objective(autoencoder, batch, Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in [*autoencoder.encoder.parameters(), *autoencoder.quant_conv.parameters()])
    assert all(p.requires_grad for p in objective.discriminator.parameters())  # free again for its next step


def test_the_adversarial_pull_is_as_long_as_asked(autoencoder: AutoencoderKL, batch: dict, monkeypatch) -> None:
    """VQGAN, Eq. 7: with weight w its gradient at the picture is w times the reconstruction's."""
    pictures = []

    def watched(*args: object) -> torch.Tensor:
        pictures.append(decode(*args))
        return pictures[-1]

    monkeypatch.setattr("mrtutor.training.adversarial.decode", watched)
    objective = AdversarialObjective(Residual(), 0.0, weight=2.0)
    loss, _ = objective(autoencoder, batch, Generator().manual_seed(0))
    (both,) = torch.autograd.grad(loss, pictures[0])
    picture = pictures[0].detach().requires_grad_(True)
    (rebuilt,) = torch.autograd.grad(reconstruction_loss(picture - batch["image"]), picture)
    assert (both - rebuilt).norm().item() == pytest.approx(2 * rebuilt.norm().item(), rel=1e-4)


def test_nothing_is_judged_far_from_the_brain(batch: dict) -> None:
    objective = AdversarialObjective(Residual(0.05, 0.0), 1e-3)
    decoded = torch.zeros_like(batch["image"])
    shown = objective._as_shown(decoded, batch["image"], Generator().manual_seed(0))
    assert torch.equal(shown[..., :15, :], batch["image"][..., :15, :])
    inside = shown[..., 20:44, 20:44]
    assert inside.std().item() == pytest.approx(2 * 0.05, rel=0.1)  # grey values of [0, 1] are twice as many of [-1, 1]


def test_the_discriminator_learns_to_tell(autoencoder: AutoencoderKL, batch: dict) -> None:
    decoder_parameters(autoencoder)
    objective = AdversarialObjective(Residual(), 1e-2)
    logs = [objective(autoencoder, batch, Generator().manual_seed(i))[1] for i in range(20)]
    assert logs[-1]["discriminator"] < 0.5 * logs[0]["discriminator"] and logs[-1]["real"] > logs[-1]["fake"]


def test_stage_leaves_the_encoder_and_with_it_every_latent(run: Run) -> None:
    folder = stages.train(run, "decoder")
    before, after = (AutoencoderKL.from_pretrained(run.folder / name) for name in ("autoencoder", "decoder"))
    assert folder == run.folder / "decoder"
    image = torch.rand(1, 1, 64, 64, generator=Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latent = encode(before, image)
        assert torch.equal(latent, encode(after, image))
        assert not torch.allclose(decode(before, latent), decode(after, latent))
    assert load_residual(folder) == lacking_grain(after, training_slices(run.cohort)) != Residual(0.02, 0.5)
    assert "validation,psnr_db" in (run.folder / "runs/decoder/log.csv").read_text()


def test_resume_is_exact(run: Run) -> None:
    def trained(name: str, **options: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return fit(stages._decoder(run), run.folder / name, **options).state_dict()

    whole = trained("whole")
    trained("cut", stop_after=3)
    resumed = trained("cut", resume=True)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_needs_an_autoencoder_and_one_process(tiny_cohort, tmp_path: Path, monkeypatch) -> None:
    work = stages.Run(SMOKE, tiny_cohort, tmp_path)
    with pytest.raises(FileNotFoundError, match="train the earlier stages first"):
        stages.train(work, "decoder")
    monkeypatch.setattr(stages.Run, "processes", SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match="trains in one process"):
        stages._decoder(work)


def test_float16_would_lose_the_discriminators_gradients(run: Run) -> None:
    run.__dict__["precision"] = torch.float16
    assert stages._precision(run, "decoder") == torch.float32 and stages._precision(run, "text") == torch.float16
