"""One resumable training loop for all stages, on as many processes as `accelerate launch` starts.

A step is a function of (seed, step), so on a CPU a resumed run ends with the same weights bit for bit. Micro-batches
are numbered over all processes: two processes see what one process sees that accumulates twice as many.
"""

import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from mrtutor.files import atomic_path, write_json
from mrtutor.presets import StagePreset

CHECKPOINT, LOG, COST = "checkpoint.pt", "log.csv", "cost.json"
LOG_EVERY = 10  # steps per row of the log

Logs = dict[str, Tensor]
Objective = Callable[[nn.Module, dict[str, Tensor], Generator], tuple[Tensor, Logs]]


@dataclass
class Stage:
    """What the loop needs to know of a stage; `validate` and `sheet` see the averaged weights."""

    name: str
    model: nn.Module  # its parameters that require a gradient are trained, averaged and saved
    objective: Objective  # one that learns itself, such as a discriminator, has state_dict and load_state_dict
    batches: Callable[[int, Generator], dict[str, Tensor]]  # (n, generator) -> a batch of n rows
    settings: StagePreset
    groups: list[dict] | None = None  # optimiser groups; default: all parameters at one learning rate
    validate: Callable[[nn.Module], dict[str, float]] | None = None  # figures for the log
    sheet: Callable[[nn.Module, Path], None] | None = None  # writes a picture
    inputs: dict[str, str] = field(default_factory=dict)  # what it reads; a checkpoint made from else is refused


class _Step(nn.Module):
    """Objective and model as one module, so that accelerate can wrap both for several processes."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Logs]:
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
    """Train `stage.model` in place; return it with the averaged weights, in eval mode.

    `folder` gets checkpoint.pt, log.csv, cost.json and sheets/. A loss that is not finite is a FloatingPointError, a
    full disk an OSError; the last good checkpoint stays.

    Args:
        resume: go on from the checkpoint in `folder`, if there is one (ValueError: of another run).
        mixed_precision: "no", "bf16" or "fp16" (accelerate); a resumed run keeps its own on the same kind of device.
        stop_after: leave after this many steps in all, as a kill would, but with a checkpoint.
    """
    folder, settings = Path(folder), stage.settings
    folder.mkdir(parents=True, exist_ok=True)
    # a run may move to another number of processes, as long as a step takes as many micro-batches in all
    total = settings.accumulation * PartialState(cpu=device == "cpu").num_processes
    recipe = str(asdict(settings) | {"accumulation": total})
    made_of = {"stage": stage.name, "seed": str(seed), "settings": recipe} | stage.inputs
    state = load_checkpoint(folder, made_of) if resume else None
    if state and state["device"] == device:
        mixed_precision = state["mixed_precision"]
    agreed = broadcast_object_list([mixed_precision])[0]  # each CPU's own probe may end differently
    AcceleratorState._reset_state()  # else a second `fit` in this Python could not take another number format
    precision = {"cpu": device == "cpu", "mixed_precision": agreed}
    accelerator = Accelerator(gradient_accumulation_steps=settings.accumulation, **precision)
    model = stage.model.to(memory_format=torch.channels_last).train()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters, betas = list(trained.values()), (0.9, settings.beta2)
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "betas": betas, "fused": True}
    optimizer = torch.optim.AdamW(stage.groups or parameters, **options)
    rates = [group["lr"] for group in optimizer.param_groups]
    wrapped, optimizer = accelerator.prepare(_Step(model, stage.objective), optimizer)
    ema = EMAModel(parameters, decay=settings.ema_decay, use_ema_warmup=True, power=3 / 4)
    learning = [("optimizer", optimizer), ("ema", ema)]
    learning += [("objective", stage.objective)] if hasattr(stage.objective, "state_dict") else []
    start, seconds, figures, rows = 0, 0.0, {}, []
    if state:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state["model"][name])
        for name, part in learning:
            part.load_state_dict(state[name])
        start, seconds, figures, rows = (state[name] for name in ("step", "seconds", "validation", "log"))
    ema.to(accelerator.device)

    main, end = accelerator.is_main_process, min(settings.steps, stop_after or settings.steps)
    began, recent = time.perf_counter() - seconds, []
    if main:
        _write_log(folder / LOG, rows)
    for step in tqdm(range(start, end), initial=start, total=settings.steps, desc=stage.name, disable=not main):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_factor(step, settings)
        recent.append(_optimise(accelerator, wrapped, optimizer, stage, seed, step))
        ema.step(parameters)
        done, last = step + 1, step + 1 == end
        if not main:
            continue
        if done % LOG_EVERY == 0:
            means = {name: sum(values[name] for values in recent) / len(recent) for name in recent[0]}
            rows += _write_log(folder / LOG, [[done, "train", *item] for item in means.items()], "a")
            recent = []
        if last or done % settings.validate_every == 0:
            ema.store(parameters)
            ema.copy_to(parameters)
            model.eval()
            figures = stage.validate(model) if stage.validate else {}
            if stage.sheet:
                stage.sheet(model, folder / "sheets" / f"{done:06d}.png")
            ema.restore(parameters)
            model.train()
            rows += _write_log(folder / LOG, [[done, "validation", *item] for item in figures.items()], "a")
        if last or done % settings.checkpoint_every == 0:
            seconds = time.perf_counter() - began
            state = {"step": done, "seconds": seconds, "validation": figures, "log": rows, "device": device}
            state |= {"mixed_precision": accelerator.mixed_precision}
            state |= {"model": {name: parameter.detach() for name, parameter in trained.items()}}
            save_checkpoint(folder, state | {name: part.state_dict() for name, part in learning}, made_of)
            cost = {"steps": done, "seconds": round(seconds, 1), "peak_mib": round(peak_memory_mib())}
            write_json(folder / COST, cost | {"threads": torch.get_num_threads(), "validation": figures})
    accelerator.wait_for_everyone()  # what the main process wrote is there for all
    ema.copy_to(parameters)
    return model.eval()


def _optimise(
    accelerator: Accelerator, wrapped: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, seed: int, step: int
) -> dict[str, float]:
    """One optimiser step over `accumulation` micro-batches on each process; returns mean loss and logs."""
    settings, parts = stage.settings, []
    for part in range(settings.accumulation):
        # the same micro-batches whether 1 process accumulates 2 or 2 processes take one each
        micro_batch = (step * settings.accumulation + part) * accelerator.num_processes + accelerator.process_index
        generator = step_generator(seed, micro_batch)
        batch = {k: v.to(accelerator.device) for k, v in stage.batches(settings.batch_size, generator).items()}
        with accelerator.accumulate(wrapped):
            with accelerator.autocast():
                loss, logs = wrapped(batch, generator)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(wrapped.parameters(), settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        parts.append({"loss": loss.detach(), **logs})
    means = {name: torch.stack([part[name].float() for part in parts]).mean() for name in parts[0]}
    values = {name: accelerator.reduce(value.to(accelerator.device), "mean").item() for name, value in means.items()}
    if not math.isfinite(values["loss"]):
        raise FloatingPointError(
            f"The loss of stage {stage.name} is {values['loss']} at step {step + 1}: start anew with another --seed "
            "or a lower learning rate (mrtutor/presets.py); the last good checkpoint is kept."
        )
    return values


def save_checkpoint(folder: str | Path, state: dict, made_of: dict[str, str]) -> None:
    """Write `state` (tensors, numbers, nested dicts and lists) to `folder`/checkpoint.pt, whole or not at all.

    `made_of`: stage, seed, settings and inputs of the run, by name; `load_checkpoint` refuses another.
    """
    path = Path(folder) / CHECKPOINT
    try:
        with atomic_path(path) as temporary:
            torch.save({"made_of": made_of, "state": state}, temporary)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        raise OSError(f"{path} not written ({error}): make room on the disk and go on with --resume.") from error


def load_checkpoint(folder: str | Path, made_of: dict[str, str]) -> dict | None:
    """State saved in `folder`, or None if there is none; ValueError if it is damaged or of another run."""
    path = Path(folder) / CHECKPOINT
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types for a damaged archive
        raise ValueError(f"{path} cannot be read ({error}): delete it and start the stage anew.") from error
    old = content["made_of"]
    changed = [f"{n} was {old.get(n)}, now {made_of.get(n)}" for n in old | made_of if old.get(n) != made_of.get(n)]
    if changed:
        raise ValueError(f"{path} is of another run ({'; '.join(changed)}): take another --out, or leave out --resume.")
    return content["state"]


def _write_log(path: Path, rows: list[list], mode: str = "w") -> list[list]:
    """Rows of log.csv; a resumed run writes those up to its checkpoint anew."""
    header = [["step", "split", "name", "value"]] if mode == "w" else []
    with open(path, mode, newline="") as file:
        csv.writer(file).writerows([*header, *rows])
    return rows


def peak_memory_mib() -> float:
    """Largest memory of this process so far, in MiB: resident, or what torch took on a GPU if that is more."""
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    if sys.platform == "win32":
        return max(gpu, psutil.Process().memory_info().peak_wset / 2**20)
    import resource  # not on Windows

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return max(gpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
