"""Train the StyleGAN2 baseline: both networks take a step in turn, with a penalty for each now and then.

    python -m experiments.stylegan2.training --cohort outputs/cohort --out outputs/stylegan2 --steps 7000 [--resume]

A step is a function of (seed, step) and of the state before it, so a resumed run gives, on a CPU, the same weights bit
for bit as one that was never cut.

Axes: B batch · C channels · H, W image pixels · Z width of the style.

Source: Karras et al., CVPR 2020, §3.1 and §3.2 (path length, lazy regularisation); R1: Mescheder et al., ICML 2018;
augmentation: Karras et al., NeurIPS 2020, §3.1 and Appendix B.
"""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Generator as Random
from torch import Tensor, nn
from tqdm.auto import tqdm

from experiments.stylegan2.networks import Discriminator, Generator, StyleGAN2Config, class_index
from experiments.stylegan2.sampler import StyleGAN2
from mrtutor.data.cohort import Cohort
from mrtutor.models.precision import autocast, autocast_dtype
from mrtutor.plot import sheet
from mrtutor.presets import StagePreset
from mrtutor.training.data import ANY, FACTS, SliceBatches, TrainingSlices
from mrtutor.training.loop import load_checkpoint, save_checkpoint, step_generator
from mrtutor.vocabulary import IDH, Modality

SHIFT = 0.125  # largest shift of the augmentation as a share of the side
BRIGHTNESS = 0.2  # standard deviation, of images in [-1, 1]
CONTRAST = 0.5  # standard deviation of the factor's binary logarithm
SETTINGS = StagePreset(10_000, 8, 2e-3, schedule="constant")


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """E ‖∇D(x)‖²: logits (B,) of `images` (B, 1, H, W), which require a gradient."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """‖Jᵀ y‖ for each sample, (B,): how far the picture moves for a step of the style, in the random direction y.

    Of images (B, 1, H, W) made from styles (B, Z), which require a gradient. y is standard normal `noise` (B, 1, H, W)
    over √(H·W), so that lengths do not depend on the image's size.
    """
    y = noise / (images.shape[-2] * images.shape[-1]) ** 0.5
    (gradient,) = torch.autograd.grad((images * y).sum(), styles, create_graph=True)
    return gradient.square().sum(dim=1).sqrt()


def augment(images: Tensor, p: float, generator: Random) -> Tensor:
    """Flip, turn, shift, brighten and stretch each image (B, C, H, H), each change with probability `p` in [0, 1].

    Cohort and drawn slices pass the same changes, so a discriminator cannot learn a small cohort by heart. It is
    differentiable, and the identity at p = 0.
    """
    if p == 0:
        return images
    count, side = len(images), images.shape[-1]

    def chance(share: float = 1.0) -> Tensor:
        return torch.rand(count, generator=generator) < p * share

    flipped, shifted = chance(0.5), chance()
    turns = torch.randint(1, 4, (count,), generator=generator) * chance(0.75)  # no turn is one of the four
    reach = round(SHIFT * side)
    shifts = torch.randint(-reach, reach + 1, (count, 2), generator=generator) * shifted[:, None]
    brightness = BRIGHTNESS * torch.randn(count, generator=generator) * chance()
    contrast = torch.exp2(CONTRAST * torch.randn(count, generator=generator) * chance())
    padded, moved = F.pad(images, [reach] * 4, mode="replicate"), []
    for row in range(count):
        y, x = (reach + shifts[row]).tolist()
        image = padded[row, :, y : y + side, x : x + side]
        image = image.flip(-1) if flipped[row] else image
        moved.append(torch.rot90(image, int(turns[row]), (-2, -1)))
    factor, offset = (v.to(images.device)[:, None, None, None] for v in (contrast, brightness))
    return torch.stack(moved) * factor + offset


@dataclass
class AdaptiveChance:
    """The p of `augment`, driven by r = E[sign D(cohort)]: 0 for a discriminator that guesses, 1 for one that knows.

    p moves by a fixed step towards r = `target`, every `every` batches, and needs `images` images from 0 to 1.
    """

    target: float = 0.6
    images: int = 50_000
    every: int = 4
    p: float = 0.0
    signs: float = 0.0  # sum since the last move
    count: int = 0  # images since the last move
    batches: int = 0

    def observe(self, logits: Tensor) -> None:
        """Logits (B,) of cohort slices, augmented as they were seen."""
        self.signs += logits.detach().sign().sum().item()
        self.count += len(logits)
        self.batches += 1
        if self.batches == self.every:
            excess, step = self.signs / self.count - self.target, self.count / self.images
            self.p = min(1.0, max(0.0, self.p + (step if excess > 0 else -step)))
            self.signs, self.count, self.batches = 0.0, 0, 0


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within the block no graph is kept for the weights of `network`; gradients still pass through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def known_types(facts: Tensor, random: Random) -> Tensor:
    """IDH types (B,) of facts (B, P); patients of unknown type take turns at being either: both learn from them."""
    idh = facts[:, list(FACTS).index("idh")]
    return torch.where(idh == ANY, torch.randint(len(IDH), idh.shape, generator=random), idh)


class Game:
    """Both networks, their optimisers, the averaged generator, and what goes on from step to step."""

    def __init__(self, config: StyleGAN2Config, settings: StagePreset, device: torch.device, precision: torch.dtype):
        self.config, self.settings, self.device, self.precision = config, settings, device, precision
        layout = {"device": device, "memory_format": torch.channels_last}
        self.generator, self.discriminator = Generator(config).to(**layout), Discriminator(config).to(**layout)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimizers = {
            "generator": self._adam(self.generator, config.path_every),
            "discriminator": self._adam(self.discriminator, config.r1_every),
        }
        self.chance = AdaptiveChance(config.ada_target, config.ada_images)
        self.path_average = 0.0

    def _adam(self, network: nn.Module, every: int) -> torch.optim.Optimizer:
        """Adam whose moments count an extra penalty step after every `every` steps (StyleGAN2, Appendix B)."""
        share = every / (every + 1)
        rate, betas = self.settings.learning_rate * share, (0.0, self.settings.beta2**share)
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)

    def step(self, step: int, batch: dict[str, Tensor], random: Random) -> dict[str, float]:
        """One step of each network; `batch` as `SliceBatches` gives it. A loss not finite: FloatingPointError."""
        real = batch["image"].to(self.device, memory_format=torch.channels_last)
        label = class_index(batch["modality"], known_types(batch["facts"], random)).to(self.device)
        p = self.chance.p
        with autocast(self.device, self.precision):
            fake = self.generator(*self._inputs(label, random))  # serves both networks: drawing is a fifth of the cost
            seen = self.discriminator(augment(real, p, random), label)
            rejected = self.discriminator(augment(fake.detach(), p, random), label)
            loss_discriminator = F.softplus(-seen).mean() + F.softplus(rejected).mean()
        self._descend("discriminator", loss_discriminator)
        self.chance.observe(seen)
        with frozen(self.discriminator), autocast(self.device, self.precision):
            loss = F.softplus(-self.discriminator(augment(fake, self.chance.p, random), label)).mean()
        self._descend("generator", loss)
        values = {"loss": loss.item(), "loss_discriminator": loss_discriminator.item(), "augmentation": self.chance.p}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(f"The losses are {values} at step {step + 1}: lower the learning rate.")
        if step % self.config.r1_every == 0:
            self._penalise_gradient(real, label, random)
        if step % self.config.path_every == 0:
            self._penalise_path(label[: math.ceil(len(label) / 2)], random)  # half a batch, as the paper does
        self._average(step)
        return values

    def _inputs(self, label: Tensor, random: Random) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        z = torch.randn(len(label), self.config.latent, generator=random).to(self.device)
        noises = self.generator.draw_noises(len(label), random)
        return z, label, [[noise.to(self.device) for noise in level] for level in noises]

    def _penalise_gradient(self, real: Tensor, label: Tensor, random: Random) -> None:
        """R1 in float32, weighted for the steps that went without."""
        seen = augment(real, self.chance.p, random).requires_grad_(True)
        penalty = r1_penalty(self.discriminator(seen, label), seen)
        self._descend("discriminator", penalty * (self.config.r1_weight / 2 * self.config.r1_every))

    def _penalise_path(self, label: Tensor, random: Random) -> None:
        """Squared distance of path lengths from their running average, weighted for the steps that went without."""
        z, label, noises = self._inputs(label, random)
        w = self.generator.mapping(z, label)
        images = self.generator.synthesise(w, noises)
        lengths = path_lengths(images, w, torch.randn(images.shape, generator=random).to(self.device))
        self.path_average += 0.01 * (lengths.detach().mean().item() - self.path_average)
        penalty = (lengths - self.path_average).square().mean()
        self._descend("generator", penalty * (self.config.path_weight * self.config.path_every))

    def _descend(self, network: str, loss: Tensor) -> None:
        optimizer = self.optimizers[network]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """The averaged generator forgets half in `ema_images` images, sooner at the start."""
        batch, seen = self.settings.batch_size, (step + 1) * self.settings.batch_size
        half_life = min(self.config.ema_images, self.config.ema_rampup * seen)
        for kept, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            kept.lerp_(now, 1 - 0.5 ** (batch / half_life))

    def state(self) -> dict:
        """Everything the next step depends on."""
        networks = {"generator": self.generator, "discriminator": self.discriminator, "averaged": self.averaged}
        return {
            "weights": {name: network.state_dict() for name, network in networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "chance": asdict(self.chance),
            "path_average": self.path_average,
        }

    def load_state(self, state: dict) -> None:
        """Take over what `state` gave."""
        for name, weights in state["weights"].items():
            getattr(self, name).load_state_dict(weights)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.chance = AdaptiveChance(**state["chance"])
        self.path_average = state["path_average"]


def train_stylegan2(
    cohorts: list[Cohort],
    out: Path,
    *,
    config: StyleGAN2Config | None = None,
    settings: StagePreset = SETTINGS,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    stop_after: int | None = None,
) -> StyleGAN2:
    """Train the baseline on the training slices of one or more cohorts; `out` is renewed with every checkpoint.

    `stop_after`: leave after this many steps in all, as a kill would, but with a checkpoint. ValueError: the checkpoint
    in `out` belongs to another run. FloatingPointError: a loss is not finite; the last good checkpoint stays.
    """
    config = config or StyleGAN2Config()
    precision = autocast_dtype(device)
    # without a gradient scaler float16 loses small gradients: float32 where bfloat16 is missing
    precision = torch.float32 if precision == torch.float16 else precision
    torch.manual_seed(seed)  # initial weights
    game = Game(config, settings, torch.device(device), precision)
    slices = TrainingSlices(cohorts)
    batches = SliceBatches(slices, settings.crop)
    made_of = {"seed": str(seed), "config": str(config), "cohorts": slices.key()}
    made_of |= {"batch": str(settings.batch_size), "rate": str(settings.learning_rate)}
    run, start, seconds = Path(out) / "training", 0, 0.0
    state = load_checkpoint(run, made_of) if resume else None
    if state:
        game.load_state(state["game"])
        start, seconds = state["step"], state["seconds"]
    end = max(start, min(settings.steps, stop_after or settings.steps))
    began = time.perf_counter() - seconds
    for step in tqdm(range(start, end), initial=start, total=settings.steps, desc="stylegan2"):
        generator = step_generator(seed, step)
        game.step(step, batches(settings.batch_size, generator), generator)
        if step + 1 == end or (step + 1) % settings.checkpoint_every == 0:
            seconds = time.perf_counter() - began
            save_checkpoint(run, {"step": step + 1, "game": game.state(), "seconds": seconds}, made_of)
            about = {"steps": step + 1, "batch_size": settings.batch_size, "seed": seed, "seconds": round(seconds)}
            about["cohorts"] = [cohort.key for cohort in cohorts]
            StyleGAN2(game.averaged, config, about).save(Path(out) / "stylegan2")
    gan = StyleGAN2(game.averaged, config)
    drawn = gan.sequences(["mutant", "wild"], seeds=[0, 0])
    sheet({"mutant": list(drawn[0]), "wild": list(drawn[1])}, list(Modality), path=run / "sheet.png")
    return gan


def main(
    cohort: Annotated[list[Path], typer.Option()],
    out: Path = Path("outputs/stylegan2"),
    steps: int = SETTINGS.steps,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
) -> None:
    """Train the StyleGAN2 baseline; cohorts may be given several times."""
    cohorts = [Cohort.open(path) for path in cohort]
    train_stylegan2(cohorts, out, settings=replace(SETTINGS, steps=steps), seed=seed, device=device, resume=resume)


if __name__ == "__main__":
    typer.run(main)
