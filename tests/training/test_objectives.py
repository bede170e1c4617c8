"""What the stages minimise."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from mrtutor.models import build_components
from mrtutor.models.autoencoder import decode
from mrtutor.models.guidance import VARIANTS, guidance_of
from mrtutor.models.text import build_clip, build_tokenizer
from mrtutor.presets import load_preset
from mrtutor.training import objectives
from mrtutor.training.data import ANY, FACTS, OPTIONAL, codes
from mrtutor.training.objectives import (
    AdversarialObjective,
    AutoencoderObjective,
    ContrastiveObjective,
    DiffusionObjective,
    PatchDiscriminator,
    contrastive_loss,
    min_snr_weight,
    positives,
    reconstruction_loss,
)
from mrtutor.vocabulary import IDH, Findings, Modality

SMOKE = load_preset("smoke")


@pytest.fixture
def generator() -> Generator:
    return Generator().manual_seed(0)


@pytest.fixture
def parts() -> dict:
    torch.manual_seed(0)
    return build_components(SMOKE, "none")


@pytest.fixture
def picture(generator) -> dict[str, torch.Tensor]:
    image = torch.full((2, 1, 64, 64), -1.0)
    image[..., 20:44, 20:44] = torch.rand(2, 1, 24, 24, generator=generator)
    return {"image": image, "modality": torch.tensor([0, 3])}


def test_reconstruction_counts_value_and_slope_and_both_halves_learn(parts, picture, generator) -> None:
    step = F.pad(torch.full((1, 1, 4, 4), 0.5), (0, 4))
    assert reconstruction_loss(step).item() == pytest.approx(0.25 + 2 * 0.125 + 0.5 * 0.5 / 7)
    loss, _ = AutoencoderObjective()(parts["autoencoder"], picture, generator)
    loss.backward()
    assert all(p.grad is not None for p in parts["autoencoder"].parameters())


def test_the_discriminator_sees_patches_of_the_slice_s_modality() -> None:
    torch.manual_seed(0)
    network, images = PatchDiscriminator().eval(), torch.zeros(1, 1, 128, 128, requires_grad=True)
    network(images, torch.tensor([0]))[0, 8, 8].backward()
    rows = images.grad[0, 0].abs().sum(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == 56
    pair = torch.rand(2, 1, 64, 48) * 2 - 1
    first, second = network(pair, torch.tensor([1, 2])), network(pair, torch.tensor([1, 0]))
    assert first.shape == (2, 8, 6) and torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])


def test_only_decoder_and_discriminator_learn_with_a_pull_as_long_as_asked(parts, picture, monkeypatch) -> None:
    """Esser et al., Eq. 7: with weight w the adversarial gradient at the picture is w times the reconstruction's."""
    pictures, objective, autoencoder = [], AdversarialObjective(1e-3, weight=2.0), parts["autoencoder"]
    monkeypatch.setattr(objectives, "decode", lambda *args: pictures.append(decode(*args)) or pictures[-1])
    before = [p.clone() for p in objective.discriminator.parameters()]
    loss, _ = objective(autoencoder, picture, None)
    both = torch.autograd.grad(loss, pictures[0], retain_graph=True)[0]
    pull = torch.autograd.grad(reconstruction_loss(pictures[0] - picture["image"]), pictures[0], retain_graph=True)[0]
    assert (both - pull).norm().item() == pytest.approx(2 * pull.norm().item(), rel=1e-3)
    loss.backward()
    assert all(p.grad is None for p in autoencoder.encoder.parameters())
    assert all(p.grad is not None for p in autoencoder.decoder.parameters())
    after = list(objective.discriminator.parameters())
    assert not any(map(torch.equal, before[::3], after[::3]))
    again = AdversarialObjective(1e-3)
    again.load_state_dict(objective.state_dict())
    assert all(map(torch.equal, again.discriminator.parameters(), after)) and again.optimizer.state_dict()["state"]


def test_a_caption_is_true_if_each_part_it_says_is() -> None:
    left, right = Findings(side="left"), Findings(side="right")
    said = [(Modality.T1, IDH.WILD, left), (Modality.T1, None, Findings()), (None, None, right)]
    said += [(Modality.T1, IDH.MUTANT, right)]
    images = torch.tensor([codes(Modality.T1, IDH.WILD, left), codes(Modality.T1, None, right)])
    true, possible = positives(images, torch.tensor([codes(*caption) for caption in said]))
    assert true.tolist() == [[True, True, False, False], [False, True, True, False]]
    assert possible.tolist() == [[True, True, False, False], [False, True, True, True]]  # its type was never tested


def test_one_positive_a_row_is_clip_s_loss_and_the_possible_do_not_count(generator) -> None:
    a, b = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    logits = 10 * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    order, true = torch.arange(5), torch.eye(5, dtype=torch.bool)
    wanted = (F.cross_entropy(logits, order) + F.cross_entropy(logits.T, order)) / 2
    assert torch.allclose(contrastive_loss(a, b, true, torch.tensor(10.0).log()), wanted, rtol=1e-5)
    assert contrastive_loss(a, b, true, torch.tensor(1.0), torch.ones(5, 5).bool()).item() == pytest.approx(0, abs=1e-6)


def test_captions_say_what_they_say_and_mr_clip_learns_from_them(generator) -> None:
    tokenizer = build_tokenizer(SMOKE.text.max_length)
    objective = ContrastiveObjective(tokenizer)
    told = codes(Modality.T1GD, IDH.MUTANT, Findings(side="left", size="large", simulated=True))
    said, first, second = objective.captions(torch.tensor([told] * 150), generator)
    side, modality, tumour = (said[:, list(FACTS).index(name)] for name in ("side", "modality", "tumour"))
    for words in (first, second):
        assert all("left" in text.lower() for text, code in zip(words, side.tolist(), strict=True) if code != ANY)
        assert all("simulated" in text.lower() for text in words)
    assert 10 < (modality == ANY).sum() < 60 and first != second
    assert torch.equal(tumour == ANY, (said[:, OPTIONAL] == ANY).all(dim=1)) and (tumour == ANY).any()
    torch.manual_seed(0)
    model = build_clip(SMOKE.text, tokenizer)
    facts = torch.tensor([codes(m, i, Findings()) for m in Modality for i in IDH])
    loss, _ = objective(model, {"image": torch.rand(8, 1, 256, 256) * 2 - 1, "facts": facts}, generator)
    loss.backward()
    assert model.text_model.embeddings.token_embedding.weight.grad.abs().sum() > 0
    assert model.vision_model.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.0, 0.25, 1.0, 5.0, 100.0])
    alpha_bar = snr / (1 + snr)
    assert min_snr_weight(alpha_bar, "epsilon").tolist() == pytest.approx([0.5, 1, 1, 1, 0.5], rel=1e-3)
    assert min_snr_weight(alpha_bar, "v_prediction").tolist() == pytest.approx([0.5, 0.5, 0.5, 5 / 6, 0.5], rel=1e-3)


@pytest.fixture
def batch(parts, generator) -> dict[str, torch.Tensor]:
    latent = torch.randn(2, parts["unet"].config.out_channels, 32, 32, generator=generator)
    text = torch.randn(2, 8, SMOKE.text.hidden, generator=generator)
    structure = (torch.rand(2, 1, 256, 256, generator=generator) > 0.95).float()
    return {"latent": latent, "text": text, "text_mask": torch.arange(8).expand(2, 8) < 3, "structure": structure}


def test_the_target_is_the_velocity_and_tumours_count_more(parts, batch) -> None:
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) latent (Salimans & Ho, 2022)."""
    random, scheduler = Generator().manual_seed(5), parts["scheduler"]
    t, noise = torch.randint(1000, (2,), generator=random), torch.randn(batch["latent"].shape, generator=random)
    alpha_bar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    answer = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * batch["latent"]
    emphasis = torch.zeros(2, 1, 32, 32)
    emphasis[0, 0, 0, 0] = 1

    class Exact(nn.Module):
        def forward(self, *_, **__):
            return type("Output", (), {"sample": answer})

    def loss(weight: float) -> float:
        objective = DiffusionObjective(scheduler, tumour_weight=weight)
        return objective(Exact(), batch | {"emphasis": emphasis}, Generator().manual_seed(5))[0].item()

    assert loss(4.0) == pytest.approx(0, abs=1e-8)
    answer[0, :, 0, 0] += 1
    assert loss(4.0) == pytest.approx(5 * loss(0.0)) and loss(0.0) > 0


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_has_a_loss_trains_what_it_says_and_reads_no_padding(name, parts, batch) -> None:
    method = guidance_of(name)
    unet, network = method.build(parts["unet"])
    model = nn.ModuleDict({"unet": unet} | ({"guidance": network} if network else {}))
    groups, objective = method.trainable_groups(unet, network, 1e-3), DiffusionObjective
    objective = DiffusionObjective(parts["scheduler"], method, parts["autoencoder"])
    loss, _ = objective(model, batch, Generator().manual_seed(0))
    loss.backward()
    listed = {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} == listed
    assert all(p.grad is None for p in model.parameters() if id(p) not in listed)
    batch["text"][:, 3:] = 7.0
    assert objective(model, batch, Generator().manual_seed(0))[0].item() == pytest.approx(loss.item(), rel=1e-5)
    batch.pop("text_mask")
    assert objective(model, batch, Generator().manual_seed(0))[0].item() != pytest.approx(loss.item(), rel=1e-6)


def test_structure_is_dropped_for_a_share_of_the_rows(parts, batch, generator) -> None:
    seen, method = [], guidance_of("D")
    watched = type("Watched", (type(method),), {"condition": lambda self, s, _: seen.append(s) or method.condition(s)})
    objective = DiffusionObjective(parts["scheduler"], watched(), drop_structure=1.0)
    objective(method.build(parts["unet"])[0], batch, generator)
    assert seen[0].sum() == 0 and batch["structure"].sum() > 0
