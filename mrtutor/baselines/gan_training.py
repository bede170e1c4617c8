"""Training the StyleGAN2 baseline: steps of the duel, with checkpoints, log, sheets and a folder to ship.

A step is a pure function of (seed, step) and of the state before it, so a resumed run gives, on a CPU, the same weights
bit for bit as an uninterrupted one. Checkpoints, logs and costs are those of the other stages.

A finished generator may be trained on (`Run.start`). Its folder holds no discriminator: a new one first learns alone.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from mrtutor.baselines.duel import STAGE, Duel
from mrtutor.baselines.stylegan2 import StyleGAN2, load_stylegan2
from mrtutor.files import CHECKSUMS, sha256
from mrtutor.training.batches import SliceBatches, cohort_key, label_keys
from mrtutor.training.checkpoint import load_checkpoint, save_checkpoint
from mrtutor.training.logs import Log
from mrtutor.training.loop import step_generator, write_cost
from mrtutor.training.run import Run
from mrtutor.training.validation import write_sheet
from mrtutor.vocabulary import IDH

LOSSES = {"D": "loss_discriminator", "G": "loss"}  # beside the progress bar; the second is missing while D is alone


def train_stylegan2(run: Run, *, resume: bool = False, stop_after: int | None = None) -> Path:
    """Train the baseline on the cohort's training slices and save its averaged generator; returns the folder to ship.

    That folder is renewed with every checkpoint, so a run that is cut leaves one as well. While the learning rate is
    constant, a run may be resumed with another number of steps, fewer (then nothing is trained) or more.

    Args:
        resume: go on from the checkpoint in the run's folder, if there is one.
        stop_after: leave after this many steps in all, as a kill would, but with a checkpoint (tests).

    Raises:
        FileNotFoundError: no baseline where the run is to start.
        ValueError: more than one process; the checkpoint belongs to another run; a start of other sizes.
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
    before = _begin_from(run, duel) if run.start else {}
    batches = SliceBatches(run.cohort, run.cohort.rows("train"), settings.crop)
    tied = replace(settings, steps=0) if settings.schedule == "constant" else settings  # steps change no step then
    fingerprint = f"{STAGE} seed={run.seed} {tied} {recipe} {run.preset.name} {cohort_key(run.cohort)}"
    fingerprint += f" labels {label_keys(run.cohort)['labels']}"  # the classes
    fingerprint += f" after {sha256(run.start / CHECKSUMS)}" if before else ""
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
            shown = {who: f"{values[name]:.3f}" for who, name in LOSSES.items() if name in values}
            bar.set_postfix(shown, refresh=False)
            last = step + 1 == end
            if last or (step + 1) % settings.validate_every == 0:
                draw_sheet(StyleGAN2(duel.averaged, recipe), folder / "sheets" / f"{step + 1:06d}.png")
            if last or (step + 1) % settings.checkpoint_every == 0:
                seconds = time.perf_counter() - began
                save_checkpoint(folder, {"step": step + 1, "duel": duel.state(), "seconds": seconds}, fingerprint)
                _ship(run, duel, step + 1, seconds, before)
    write_cost(folder, end, seconds)
    if start == end:  # nothing to do, but the folder may be gone
        _ship(run, duel, end, seconds, before)
    return run.folder / STAGE


def _begin_from(run: Run, duel: Duel) -> dict:
    """Put the generator of `run.start` into the duel; returns what is known of its training.

    Raises:
        FileNotFoundError: see `load_stylegan2`.
        ValueError: see `load_stylegan2`; other sizes than the preset's; the folder that this run will write.
    """
    if run.start.resolve() == (run.folder / STAGE).resolve():
        raise ValueError(f"This run would write over {run.start}, from which it starts: choose another --out.")
    earlier = load_stylegan2(run.start, run.device)
    if earlier.preset != run.preset.stylegan2:
        raise ValueError(
            f"{run.start} has the sizes {earlier.preset}, expected those of preset {run.preset.name}, "
            f"{run.preset.stylegan2}: start from a baseline of this preset."
        )
    duel.begin_from(earlier.generator, steps=earlier.about["steps"])
    return earlier.about


def _ship(run: Run, duel: Duel, steps: int, seconds: float, before: dict) -> None:
    """Save the averaged generator with what is known of its training; `before`: of that which it started from."""
    about = {"preset": run.preset.name, "seed": run.seed, "steps": steps, "batch_size": duel.settings.batch_size}
    about |= {"seconds": round(seconds), "augmentation": round(duel.chance.p, 4)}
    if before:  # totals; the rounds one by one
        rounds = [*before.get("rounds", [_round(before)]), _round(about)]
        about |= {key: before[key] + about[key] for key in ("steps", "seconds")} | {"rounds": rounds}
    sources = ", ".join(sorted(set(run.cohort.table["source"])))
    about |= {"cohort": f"{sources}, slices.npy {cohort_key(run.cohort)}, training split"}
    StyleGAN2(duel.averaged, duel.recipe, about).save(run.folder / STAGE)


def _round(about: dict) -> dict:
    return {key: about[key] for key in ("steps", "seconds", "seed")}


def draw_sheet(gan: StyleGAN2, path: Path) -> None:
    """Two mutant and two wild-type sequences as PNG: a row each, one column per modality, always the same z."""
    sequences = gan.sequences([IDH.MUTANT, IDH.WILD] * 2, seed=0)
    write_sheet(path, [list(sequence.numpy()) for sequence in sequences])
