"""What chapter 4 builds in plain torch equals the package and diffusers; definitions are lifted from its cells."""

import ast
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from mrtutor.models.denoiser import build_denoiser, build_scheduler
from mrtutor.models.guidance import STRUCTURE_CHANNELS, Variant, structure_condition
from mrtutor.presets import load_preset
from mrtutor.sampling.arguments import ETA_MAX
from mrtutor.training.objectives import DiffusionObjective, add_noise, min_snr_weight, velocity
from tests.notebooks.anatomy import ROOT, Chapter

CHAPTER = Chapter.read(ROOT / "notebooks/04_build_diffusion_model.ipynb")
SMOKE, LAPTOP = load_preset("smoke"), load_preset("laptop")
ODD = replace(SMOKE.denoiser, layers=2, attention=(True, False, True), widths=(16, 48, 24), heads=4)


@pytest.fixture(scope="module")
def book() -> SimpleNamespace:
    """The names that the cells tagged "imports" and "define" define."""
    names = {"preset": "smoke", "seed": 0, "__name__": "chapter_04"}
    for tag in ("imports", "define"):
        for place, cell in CHAPTER.tagged(tag):
            exec(compile(cell.source, f"chapter 4, cell {place}", "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture
def shelf() -> torch.Tensor:
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def noise(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_schedule_and_targets(book, shelf):
    alpha_bar = book.zero_terminal(book.stable_diffusion())
    assert torch.allclose(alpha_bar, build_scheduler().alphas_cumprod, atol=1e-6)
    assert torch.allclose(book.stable_diffusion(), build_scheduler("epsilon").alphas_cumprod, atol=1e-6)
    a, eps = alpha_bar[[0, 10, 300, 700, 998, 999]], noise(*shelf.shape)
    assert torch.allclose(book.forward_process(shelf, eps, a), add_noise(shelf, eps, a), atol=1e-6)
    assert torch.allclose(book.tangent(shelf, eps, a), velocity(shelf, eps, a), atol=1e-6)
    assert torch.allclose(book.min_snr(alpha_bar), min_snr_weight(alpha_bar, "v_prediction", floor=0.0), atol=1e-6)


def test_nothing_survives_the_last_step(book, shelf):
    plain, rescaled = book.stable_diffusion(), book.zero_terminal(book.stable_diffusion())
    eps = noise(*shelf.shape)
    assert torch.equal(book.forward_process(shelf, eps, rescaled[-1]), eps)
    chances = book.posterior(eps, rescaled[-1], shelf)
    assert torch.allclose(chances, torch.full_like(chances, 1 / len(shelf)))
    kept = book.forward_process(shelf, 0 * eps, plain[-1])
    assert torch.allclose(kept, 0.0683 * shelf, atol=1e-3)


@pytest.mark.parametrize("eta", [0.0, ETA_MAX])  # at 1 diffusers gives NaN on some CPUs
@pytest.mark.parametrize("steps", [1, 4, 20, 100])
def test_sampler_equals_ddim(book, shelf, steps, eta):
    alpha_bar, z = book.zero_terminal(book.stable_diffusion()), noise(3, *shelf.shape[1:])
    denoise = book.partial(book.memoriser, shelf=shelf, alpha_bar=alpha_bar)
    dice = [torch.Generator().manual_seed(5) for _ in range(2)]
    mine = book.ddim(denoise, z, alpha_bar, book.trailing(steps), eta, dice[0])
    theirs = book.by_diffusers(build_scheduler(), denoise, z, steps, eta=eta, generator=dice[1])
    assert torch.allclose(mine, theirs, atol=1e-3)


def test_eta_1_is_ddpm(book, shelf):
    alpha_bar, z = book.zero_terminal(book.stable_diffusion()), noise(2, *shelf.shape[1:])
    denoise = book.partial(book.memoriser, shelf=shelf, alpha_bar=alpha_bar)
    dice = [torch.Generator().manual_seed(5) for _ in range(2)]
    mine = book.ddim(denoise, z, alpha_bar, book.trailing(50), 1.0, dice[0])
    ddpm = DDPMScheduler.from_config(build_scheduler().config, variance_type="fixed_small")
    assert torch.allclose(mine, book.by_diffusers(ddpm, denoise, z, 50, generator=dice[1]), atol=1e-3)


@pytest.mark.parametrize("steps", [3, 25, 50])
def test_eta_1_stays_finite_where_rounding_bites(book, shelf, steps):
    alpha_bar = book.zero_terminal(book.stable_diffusion())
    denoise = book.partial(book.memoriser, shelf=shelf, alpha_bar=alpha_bar)
    assert torch.isfinite(book.ddim(denoise, noise(2, 4, 8, 8), alpha_bar, book.trailing(steps), 1.0)).all()


def test_sampler_is_short():
    cells = [ast.parse(cell.source) for _, cell in CHAPTER.tagged("define")]
    found = [node for tree in cells for node in tree.body if getattr(node, "name", "") == "ddim"]
    assert len(found) == 1
    assert found[0].end_lineno - found[0].lineno + 1 <= 15


def test_memoriser_draws_the_shelf_and_in_one_step_its_mean(book, shelf):
    alpha_bar, z = book.zero_terminal(book.stable_diffusion()), noise(4, *shelf.shape[1:])
    denoise = book.partial(book.memoriser, shelf=shelf, alpha_bar=alpha_bar)
    drawn = book.ddim(denoise, z, alpha_bar, book.trailing(50))
    assert torch.cdist(drawn.flatten(1), shelf.flatten(1)).min(1).values.max() < 1e-2
    once = book.ddim(denoise, z, alpha_bar, book.trailing(1))
    assert torch.allclose(once, shelf.mean(0).expand_as(once), atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "text", "extra"),
    [
        (SMOKE.denoiser, SMOKE.text.hidden, 0),
        (LAPTOP.denoiser, LAPTOP.text.hidden, 0),
        (LAPTOP.denoiser, LAPTOP.text.hidden, STRUCTURE_CHANNELS),
        (ODD, 20, 3),
    ],
    ids=["smoke", "laptop", "laptop, variant D", "odd sizes"],
)
@torch.no_grad()
def test_unet_equals_diffusers(book, sizes, text, extra):
    torch.manual_seed(0)
    theirs = build_denoiser(sizes, text, extra).eval()
    mine = book.rebuilt(theirs, sizes, text)  # strict: every weight of one has its place in the other
    z, t, words = noise(2, 4 + extra, 32, 32), torch.tensor([3, 999]), noise(2, 7, text)
    assert book.gap(mine(z, t, words), theirs(z, t, words).sample) < 1e-4


def test_a_misnamed_weight_is_refused(book):
    theirs = build_denoiser(SMOKE.denoiser, SMOKE.text.hidden)
    state = {book.our_name(name): value for name, value in theirs.state_dict().items()}
    state["entrance.weight"] = state.pop("enter.weight")
    with pytest.raises(RuntimeError, match="entrance"):
        book.UNet(SMOKE.denoiser, SMOKE.text.hidden).load_state_dict(state)


@pytest.mark.parametrize("variant", [Variant.NONE, Variant.D])
@torch.no_grad()
def test_loss_equals_the_objective(book, variant):
    torch.manual_seed(0)
    extra = STRUCTURE_CHANNELS if variant is Variant.D else 0
    theirs = build_denoiser(SMOKE.denoiser, SMOKE.text.hidden, extra).eval()
    z0, eps, t = noise(3, 4, 32, 32), noise(3, 4, 32, 32, seed=3), torch.tensor([5, 500, 999])
    text, edges = noise(3, 7, SMOKE.text.hidden), (noise(3, 1, 256, 256) > 2).float()
    alpha_bar = book.zero_terminal(book.stable_diffusion())
    condition = structure_condition(edges, variant) if extra else None
    mine = book.rebuilt(theirs, SMOKE.denoiser, SMOKE.text.hidden)
    rows = book.equation(mine, z0, text, t, eps, alpha_bar, condition)
    batch = {"latent": z0, "text": text, "structure": edges}
    loss, logs = DiffusionObjective(build_scheduler(), variant).at(theirs, batch, t, eps)
    assert rows.mean().item() == pytest.approx(logs["error"].item(), rel=1e-4)
    weighted = (book.min_snr(alpha_bar)[t].clamp(min=0.5) * rows).mean()
    assert weighted.item() == pytest.approx(loss.item(), rel=1e-4)


def test_guidance_interpolates_and_ignores_words_at_zero(book):
    theirs = build_denoiser(SMOKE.denoiser, SMOKE.text.hidden).eval()
    mine = book.rebuilt(theirs, SMOKE.denoiser, SMOKE.text.hidden)
    z, text, empty = noise(2, 4, 32, 32), noise(2, 7, SMOKE.text.hidden), noise(1, 7, SMOKE.text.hidden, seed=9)
    with torch.no_grad():
        zero, one, three = (book.guided(z, 500, mine, text, empty, scale, 0) for scale in (0.0, 1.0, 3.0))
        t = torch.full((2,), 500)
        assert torch.allclose(zero, mine(z, t, empty.expand(2, -1, -1)), atol=1e-5)
        assert torch.allclose(one, mine(z, t, text), atol=1e-5)
        assert torch.allclose(three, zero + 3 * (one - zero), atol=1e-5)
