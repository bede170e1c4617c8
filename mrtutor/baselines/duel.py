"""The two players of StyleGAN2 and one step of their game, with a penalty for each now and then.

Axes: B batch · H, W image pixels.

Source: Karras et al., CVPR 2020, §3.1 (lazy regularisation); Karras et al., NeurIPS 2020 (augmentation, EMA).
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Generator as Random
from torch import Tensor, nn

from mrtutor.baselines.augment import AdaptiveChance, augment
from mrtutor.baselines.losses import discriminator_loss, generator_loss, path_lengths, path_penalty, r1_penalty
from mrtutor.baselines.networks import Discriminator, Generator, class_index
from mrtutor.presets import StagePreset, StyleGAN2Preset
from mrtutor.sampling.precision import autocast
from mrtutor.training.loop import learning_rate_factor

STAGE = "stylegan2"
ALONE = 200  # steps of a new discriminator against a trained generator before that one moves


@dataclass
class Duel:
    """Both players, their optimisers, the averaged generator, and what goes on from step to step."""

    recipe: StyleGAN2Preset
    settings: StagePreset
    device: torch.device
    precision: torch.dtype
    measured: dict[str, float] = field(default_factory=lambda: {"r1": 0.0, "path_length": 0.0})  # last values

    def __post_init__(self) -> None:
        r, layout = self.recipe, {"device": self.device, "memory_format": torch.channels_last}
        self.generator, self.discriminator = Generator(r).to(**layout), Discriminator(r).to(**layout)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.optimizers = {
            "generator": self._adam(self.generator, r.path_every),
            "discriminator": self._adam(self.discriminator, r.r1_every),
        }
        self.chance = AdaptiveChance(r.ada_target, r.ada_images)
        self.path_average: float | None = 0.0
        self.earlier, self.alone = 0, 0  # steps of a generator that was trained before, and for how many it waits

    def _adam(self, player: nn.Module, every: int) -> torch.optim.Optimizer:
        """Adam whose moments count an extra penalty step after every `every` steps (StyleGAN2, Appendix B)."""
        share = every / (every + 1)
        rate, betas = self.settings.learning_rate * share, (0.0, self.settings.beta2**share)
        group = {"params": list(player.parameters()), "initial_lr": rate}
        return torch.optim.Adam([group], lr=rate, betas=betas, fused=True)

    def begin_from(self, generator: Generator, *, steps: int) -> None:
        """Go on from a generator that was trained for `steps`. The discriminator is new and first learns alone.

        Its opinion at the start is that of random weights: followed, it would undo what the generator had learnt.
        """
        for mine in (self.generator, self.averaged):
            mine.load_state_dict(generator.state_dict())
        self.earlier, self.alone, self.path_average = steps, ALONE, None

    def step(self, step: int, batch: dict[str, Tensor], random: Random) -> dict[str, float]:
        """One step of each player; `batch` as `SliceBatches` gives it. Returns what the log shows.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        for optimizer in self.optimizers.values():
            group = optimizer.param_groups[0]
            group["lr"] = group["initial_lr"] * learning_rate_factor(step, self.settings)
        real = batch["image"].to(self.device, memory_format=torch.channels_last)
        label = class_index(batch["modality"], batch["idh"]).to(self.device)
        with autocast(self.device, self.precision):
            fake = self.draw(label, random)  # serves both players: drawing is a fifth of the cost
        values = self._train_discriminator(real, fake.detach(), label, random)
        if moves := step >= self.alone:
            values |= self._train_generator(fake, label, random)
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"The losses of stage {STAGE} are {values} at step {step + 1}: "
                "lower the learning rate; the last good checkpoint is kept."
            )
        if step % self.recipe.r1_every == 0:
            self._penalise_gradient(real, label, random)
        if moves and step % self.recipe.path_every == 0:
            self._penalise_path(label[: math.ceil(len(label) / 2)], random)  # half a batch, as the paper does
        if moves:
            self._average(self.earlier + step)
        return values | self.measured | {"augmentation": self.chance.p}

    def draw(self, label: Tensor, random: Random) -> Tensor:
        """Slices (B, 1, H, W) of given classes, in the number format of the surroundings."""
        return self.generator(*self._inputs(len(label), random, label))

    def _inputs(self, count: int, random: Random, label: Tensor) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        z = torch.randn(count, self.recipe.latent, generator=random).to(self.device)
        noises = self.generator.draw_noises(count, random)
        return z, label, [[noise.to(self.device) for noise in level] for level in noises]

    def _train_discriminator(self, real: Tensor, fake: Tensor, label: Tensor, random: Random) -> dict[str, float]:
        p = self.chance.p
        with autocast(self.device, self.precision):
            seen = self.discriminator(augment(real, p, random), label)
            loss = discriminator_loss(seen, self.discriminator(augment(fake, p, random), label))
        self._descend("discriminator", loss)
        self.chance.observe(seen)
        return {"loss_discriminator": loss.item(), "sign_real": seen.detach().sign().mean().item()}

    def _train_generator(self, fake: Tensor, label: Tensor, random: Random) -> dict[str, float]:
        with frozen(self.discriminator), autocast(self.device, self.precision):
            loss = generator_loss(self.discriminator(augment(fake, self.chance.p, random), label))
        self._descend("generator", loss)
        return {"loss": loss.item()}

    def _penalise_gradient(self, real: Tensor, label: Tensor, random: Random) -> None:
        """R1 in float32, weighted for the steps that went without."""
        seen = augment(real, self.chance.p, random).requires_grad_(True)
        penalty = r1_penalty(self.discriminator(seen, label), seen)
        self._descend("discriminator", penalty * (self.recipe.r1_weight / 2 * self.recipe.r1_every))
        self.measured["r1"] = penalty.item()

    def _penalise_path(self, label: Tensor, random: Random) -> None:
        """Path length in float32, weighted for the steps that went without."""
        z, label, noises = self._inputs(len(label), random, label)
        w = self.generator.mapping(z, label)
        images = self.generator.synthesise(w, noises)
        direction = torch.randn(images.shape, generator=random).to(self.device)
        lengths = path_lengths(images, w, direction)
        if self.path_average is None:  # a trained generator's paths have their length: not to be drawn to 0
            self.path_average = lengths.detach().mean().item()
        penalty, self.path_average = path_penalty(lengths, self.path_average)
        self._descend("generator", penalty * (self.recipe.path_weight * self.recipe.path_every))
        self.measured["path_length"] = lengths.detach().mean().item()

    def _descend(self, player: str, loss: Tensor) -> None:
        optimizer = self.optimizers[player]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """The averaged generator forgets half in `ema_images` images, sooner at the start."""
        batch, seen = self.settings.batch_size, (step + 1) * self.settings.batch_size
        half_life = min(self.recipe.ema_images, self.recipe.ema_rampup * seen)
        for kept, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            kept.lerp_(now, 1 - 0.5 ** (batch / half_life))

    def state(self) -> dict:
        """Everything the next step depends on."""
        parts = {"generator": self.generator, "discriminator": self.discriminator, "averaged": self.averaged}
        return {
            "weights": {name: part.state_dict() for name, part in parts.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "chance": asdict(self.chance),
            "path_average": self.path_average,
            "measured": dict(self.measured),
        }

    def load_state(self, state: dict) -> None:
        """Take over what `state` gave."""
        for name, weights in state["weights"].items():
            getattr(self, name).load_state_dict(weights)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.chance = AdaptiveChance(**state["chance"])
        self.path_average, self.measured = state["path_average"], dict(state["measured"])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within the block no graph is kept for the weights of `network`; gradients still pass through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
