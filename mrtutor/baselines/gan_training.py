"""Training the StyleGAN2 baseline: two players, two optimisers, a penalty for each now and then.

A step is a pure function of (seed, step) and of the state before it, so a resumed run gives, on a CPU, the same weights
bit for bit as an uninterrupted one. Checkpoints, logs and costs are those of the other stages.

Axes: B batch · H, W image pixels.

Source: Karras et al., CVPR 2020, §3.1 (lazy regularisation); Karras et al., NeurIPS 2020 (augmentation, EMA).
"""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Generator as Random
from torch import Tensor, nn
from tqdm.auto import tqdm

from mrtutor.baselines.augment import AdaptiveChance, augment
from mrtutor.baselines.losses import discriminator_loss, generator_loss, path_lengths, path_penalty, r1_penalty
from mrtutor.baselines.networks import Discriminator, Generator, class_index
from mrtutor.baselines.stylegan2 import StyleGAN2
from mrtutor.presets import StagePreset, StyleGAN2Preset
from mrtutor.sampling.precision import autocast
from mrtutor.training.batches import SliceBatches, cohort_key
from mrtutor.training.checkpoint import load_checkpoint, save_checkpoint
from mrtutor.training.logs import Log
from mrtutor.training.loop import learning_rate_factor, step_generator, write_cost
from mrtutor.training.run import Run
from mrtutor.training.validation import write_sheet
from mrtutor.vocabulary import IDH

STAGE = "stylegan2"


def train_stylegan2(run: Run, *, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train the baseline on the cohort's training slices and save its averaged generator; returns the folder to ship.

    That folder is renewed with every checkpoint, so a run that is cut leaves one as well. While the learning rate is
    constant, a run may be resumed with another number of steps, fewer (then nothing is trained) or more.

    Args:
        resume: go on from the checkpoint in the run's folder, if there is one.
        stop_after: leave after this many steps in all, as a kill would, but with a checkpoint (tests).

    Raises:
        ValueError: more than one process; the checkpoint belongs to another run.
        FloatingPointError: a loss is not finite; the last good checkpoint stays.
    """
    if run.processes.num_processes > 1:
        raise ValueError("The StyleGAN2 baseline trains in one process: start it without `accelerate launch`.")
    settings, recipe, folder = run.settings(STAGE), run.preset.stylegan2, run.folder / "runs" / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    # without a gradient scaler float16 loses small gradients: float32 where bfloat16 is missing
    precision = torch.float32 if run.precision == torch.float16 else run.precision
    torch.manual_seed(run.seed)  # initial weights
    duel = Duel(recipe, settings, torch.device(run.device), precision)
    batches = SliceBatches(run.cohort, run.cohort.rows("train"), settings.crop)
    tied = replace(settings, steps=0) if settings.schedule == "constant" else settings  # steps change no step then
    fingerprint = f"{STAGE} seed={run.seed} {tied} {recipe} {run.preset.name} {cohort_key(run.cohort)}"
    start, seconds = 0, 0.0
    if resume and (state := load_checkpoint(folder, fingerprint)):
        duel.load_state(state["duel"])
        start, seconds = state["step"], state["seconds"]
    end = max(start, min(settings.steps, stop_after or settings.steps))
    began = time.perf_counter() - seconds
    with Log(folder, start) as log:
        bar = tqdm(range(start, end), initial=start, total=settings.steps, desc=STAGE)
        for step in bar:
            generator = step_generator(run.seed, step)
            values = duel.step(step, batches(settings.batch_size, generator), generator)
            log.add(step + 1, values)
            bar.set_postfix(D=f"{values['loss_discriminator']:.3f}", G=f"{values['loss']:.3f}", refresh=False)
            last = step + 1 == end
            if last or (step + 1) % settings.validate_every == 0:
                draw_sheet(StyleGAN2(duel.averaged, recipe), folder / "sheets" / f"{step + 1:06d}.png")
            if last or (step + 1) % settings.checkpoint_every == 0:
                seconds = time.perf_counter() - began
                save_checkpoint(folder, {"step": step + 1, "duel": duel.state(), "seconds": seconds}, fingerprint)
                _ship(run, duel, step + 1, seconds)
    write_cost(folder, end, seconds)
    if start == end:  # nothing to do, but the folder may be gone
        _ship(run, duel, end, seconds)
    return run.folder / STAGE


def _ship(run: Run, duel: "Duel", steps: int, seconds: float) -> None:
    """Save the averaged generator with what is known of its training."""
    about = {"preset": run.preset.name, "seed": run.seed, "steps": steps, "batch_size": duel.settings.batch_size}
    about |= {"seconds": round(seconds), "augmentation": round(duel.chance.p, 4)}
    sources = ", ".join(sorted(set(run.cohort.table["source"])))
    about |= {"cohort": f"{sources}, slices.npy {cohort_key(run.cohort)}, training split"}
    StyleGAN2(duel.averaged, duel.recipe, about).save(run.folder / STAGE)


def draw_sheet(gan: StyleGAN2, path: Path) -> None:
    """Two mutant and two wild-type sequences as PNG: a row each, one column per modality, always the same z."""
    sequences = gan.sequences([IDH.MUTANT, IDH.WILD] * 2, seed=0)
    write_sheet(path, [list(sequence.numpy()) for sequence in sequences])


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
        self.path_average = 0.0

    def _adam(self, player: nn.Module, every: int) -> torch.optim.Optimizer:
        """Adam whose moments count an extra penalty step after every `every` steps (StyleGAN2, Appendix B)."""
        share = every / (every + 1)
        rate, betas = self.settings.learning_rate * share, (0.0, self.settings.beta2**share)
        group = {"params": list(player.parameters()), "initial_lr": rate}
        return torch.optim.Adam([group], lr=rate, betas=betas, fused=True)

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
        values |= self._train_generator(fake, label, random)
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"The losses of stage {STAGE} are {values} at step {step + 1}: "
                "lower the learning rate; the last good checkpoint is kept."
            )
        if step % self.recipe.r1_every == 0:
            self._penalise_gradient(real, label, random)
        if step % self.recipe.path_every == 0:
            self._penalise_path(label[: math.ceil(len(label) / 2)], random)  # half a batch, as the paper does
        self._average(step)
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
