"""One training loop for all stages, on accelerate, on as many processes as `accelerate launch` starts.

A step is a pure function of (seed, step): data, noise and drop-out are drawn from a generator seeded by both. So a
resumed run gives, on a CPU, the same final weights bit for bit as an uninterrupted one. Micro-batches are numbered over
all processes: two processes see what one process sees that accumulates twice as many.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from mrtutor.files import write_json
from mrtutor.presets import StagePreset
from mrtutor.training.checkpoint import load_checkpoint, save_checkpoint
from mrtutor.training.logs import Log, peak_memory_mib
from mrtutor.training.objectives import Objective

Batches = Callable[[int, Generator], dict[str, Tensor]]


@dataclass
class Stage:
    """What the loop needs to know of a stage.

    `batches(n, generator)` draws a batch of n rows; `validate(model)` and `sheet(model, path)` see the EMA weights.
    An objective that learns itself, such as one with a discriminator, has `state_dict` and `load_state_dict`.
    """

    name: str
    model: nn.Module
    objective: Objective
    batches: Batches
    settings: StagePreset
    groups: list[dict] | None = None  # optimiser groups; default: all parameters at one learning rate
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    sheet: Callable[[nn.Module, Path], None] | None = None
    tags: dict = field(default_factory=dict)  # goes into the checkpoint's fingerprint
    inputs: dict[str, str] = field(default_factory=dict)  # keys of what it reads; goes into the checkpoint too


class _Step(nn.Module):
    """Objective and model as one module, so that accelerate can wrap both for several processes."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch, generator)


def learning_rate_factor(step: int, settings: StagePreset) -> float:
    """Linear warm-up, then cosine decay to `final_rate` (or constant); `step` counts from 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def step_generator(seed: int, micro_batch: int) -> Generator:
    """Generator of one micro-batch; the large odd factor keeps the streams of neighbouring seeds apart."""
    return Generator().manual_seed((seed * 1_000_003 + micro_batch) % 2**63)


@contextmanager
def averaged(ema: EMAModel, model: nn.Module) -> Iterator[nn.Module]:
    """Within the block `model` carries the EMA weights."""
    trainable = list(model.parameters())
    ema.store(trainable)
    ema.copy_to(trainable)
    model.eval()
    try:
        yield model
    finally:
        ema.restore(trainable)
        model.train()


def fit(
    stage: Stage,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    device: str = "cpu",
    mixed_precision: str = "no",
    stop_after: int | None = None,
) -> nn.Module:
    """Train `stage.model` in place and leave the EMA weights in it.

    Args:
        folder: gets checkpoint.pt, log.csv, cost.json, TensorBoard events and sample sheets.
        resume: go on from the checkpoint in `folder`, if there is one.
        mixed_precision: "no", "bf16" or "fp16" (accelerate); a resumed run keeps its own on the same kind of device.
        stop_after: leave after this many steps in all, as a kill would, but with a checkpoint (tests, tutorials).

    Returns:
        the model, with averaged weights, in eval mode.

    Raises:
        ValueError: the checkpoint belongs to another run (see `load_checkpoint`).
        FloatingPointError: the loss is not finite; the last good checkpoint stays.
    """
    folder, settings = Path(folder), stage.settings
    folder.mkdir(parents=True, exist_ok=True)
    # a run may move to another number of processes, as long as a step takes as many micro-batches in all
    processes = PartialState(cpu=device == "cpu").num_processes
    in_all = replace(settings, accumulation=settings.accumulation * processes)
    fingerprint = f"{stage.name} seed={seed} {in_all} {stage.tags}"
    state = load_checkpoint(folder, fingerprint, stage.inputs) if resume else None
    if state and state.get("device") == device:
        mixed_precision = state["mixed_precision"]
    accelerator = _accelerator(device, mixed_precision, settings.accumulation)
    model = stage.model.to(memory_format=torch.channels_last).train()
    groups = stage.groups or [{"params": list(model.parameters()), "lr": settings.learning_rate}]
    optimizer = torch.optim.AdamW(
        groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, settings.beta2), fused=True
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    wrapped, optimizer = accelerator.prepare(_Step(model, stage.objective), optimizer)
    ema = EMAModel(model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=3 / 4)
    ema.to(accelerator.device)

    start, seconds = 0, 0.0
    if state:
        start, seconds = _restore(state, stage, optimizer, ema), state["seconds"]
    main = accelerator.is_main_process
    end = min(settings.steps, stop_after or settings.steps)
    began = time.perf_counter() - seconds
    with Log(folder, start, enabled=main) as log:
        bar = tqdm(range(start, end), initial=start, total=settings.steps, desc=stage.name, disable=not main)
        for step in bar:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate_factor(step, settings)
            values = _optimise(accelerator, wrapped, optimizer, stage, seed, step)
            ema.step(model.parameters())
            log.add(step + 1, values)
            bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
            last = step + 1 == end
            if main and (last or (step + 1) % settings.validate_every == 0):
                with averaged(ema, model):
                    log.validation(step + 1, stage.validate(model) if stage.validate else {})
                    if stage.sheet:
                        stage.sheet(model, folder / "sheets" / f"{step + 1:06d}.png")
            if main and (last or (step + 1) % settings.checkpoint_every == 0):
                state = _snapshot(step + 1, stage, optimizer, ema) | {"seconds": time.perf_counter() - began}
                state |= {"device": device, "mixed_precision": accelerator.mixed_precision}
                save_checkpoint(folder, state, fingerprint, stage.inputs)
    if main:
        write_cost(folder, end, time.perf_counter() - began)
    accelerator.wait_for_everyone()  # what the main process wrote is there for all
    ema.copy_to(model.parameters())
    return model.eval()


def _accelerator(device: str, mixed_precision: str, accumulation: int) -> Accelerator:
    """Accelerator of this process; every process takes the main one's number format."""
    PartialState(cpu=device == "cpu")
    agreed = broadcast_object_list([mixed_precision])[0]  # each CPU's own probe may end differently
    AcceleratorState._reset_state()  # else a second `fit` in this Python could not take another number format
    return Accelerator(cpu=device == "cpu", mixed_precision=agreed, gradient_accumulation_steps=accumulation)


def _optimise(
    accelerator: Accelerator, wrapped: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, seed: int, step: int
) -> dict[str, float]:
    """One optimiser step over `accumulation` micro-batches on each process; returns mean loss and logs."""
    settings, world = stage.settings, accelerator.num_processes
    totals: dict[str, Tensor] = {}
    for part in range(settings.accumulation):
        # the same micro-batches whether 1 process accumulates 2 or 2 processes take one each
        micro = (step * settings.accumulation + part) * world + accelerator.process_index
        generator = step_generator(seed, micro)
        batch = {k: v.to(accelerator.device) for k, v in stage.batches(settings.batch_size, generator).items()}
        with accelerator.accumulate(wrapped):
            with accelerator.autocast():
                loss, logs = wrapped(batch, generator)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for name, value in {"loss": loss.detach(), **logs}.items():
            totals[name] = totals.get(name, 0.0) + torch.as_tensor(value, dtype=torch.float32) / settings.accumulation
    values = {name: accelerator.reduce(value.to(accelerator.device), "mean").item() for name, value in totals.items()}
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"The loss of stage {stage.name} is {values['loss']} at step {step + 1}, and probably again with --resume: "
            "start anew with another --seed, or lower the learning rate of the stage (its StagePreset in "
            "mrtutor/presets.py); the last good checkpoint is kept until then."
        )
    return values


def _snapshot(step: int, stage: Stage, optimizer: torch.optim.Optimizer, ema: EMAModel) -> dict:
    state = {
        "step": step,
        "model": stage.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": {"shadow": ema.shadow_params, "step": ema.optimization_step},
    }
    return state | ({"objective": stage.objective.state_dict()} if hasattr(stage.objective, "state_dict") else {})


def _restore(state: dict, stage: Stage, optimizer: torch.optim.Optimizer, ema: EMAModel) -> int:
    stage.model.load_state_dict(state["model"])
    if "objective" in state:
        stage.objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    for shadow, saved in zip(ema.shadow_params, state["ema"]["shadow"], strict=True):
        shadow.copy_(saved)
    ema.optimization_step = state["ema"]["step"]
    return state["step"]


def write_cost(folder: Path, steps: int, seconds: float) -> None:
    """What the stage took: wall-clock seconds over all resumed pieces, and the process's peak memory."""
    cost = {"steps": steps, "seconds": round(seconds, 1), "peak_mib": round(peak_memory_mib())}
    cost["threads"] = torch.get_num_threads()
    write_json(folder / "cost.json", cost)
