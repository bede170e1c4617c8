"""What a sequence and a training step cost, beside the ordinary way of doing the same.

The ordinary way to sample: one modality after another, classifier-free guidance as two calls, the structure led in
again at each step, float32, default memory layout. The ordinary way to train: images and sentences encoded at each
step, float32, default memory layout. Both are compared only after their results were found equal.

    python -m mrtutor.metrics.cost FOLDER     sampling cost of a pipeline as JSON, in a process of its own

Axes: B batch · H, W image pixels (256) · h, w latent pixels (32).
"""

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from mrtutor.data.cohort import Cohort
from mrtutor.data.structure import validate_structure
from mrtutor.metrics.intervals import estimate
from mrtutor.models.autoencoder import decode, encode
from mrtutor.models.guidance import predict, structure_condition
from mrtutor.models.text import encode_prompts
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.precision import autocast, autocast_dtype
from mrtutor.training.batches import idh_index
from mrtutor.training.logs import peak_memory_mib
from mrtutor.training.loop import step_generator
from mrtutor.training.objectives import DiffusionObjective
from mrtutor.vocabulary import IDH, Modality, prompt

PICTURE_TOLERANCE = 1e-3  # of images in [0, 1]: float32 sums in another order, carried through all steps
LOSS_TOLERANCE = 0.05  # relative: bfloat16 and float16 rounding


@torch.no_grad()
def ordinary_sequence(pipe: MRPipeline, idh: IDH | str, structure: object, seed: int, steps: int) -> Tensor:
    """(4, 256, 256) in [0, 1], drawn as a textbook would: nothing shared, nothing computed beforehand."""
    maps = None if structure is None else validate_structure(structure)
    scale, side = pipe.config.guidance_scale, pipe.unet.config.sample_size

    def call(latents: Tensor, t: Tensor, text: Tensor, strength: float = 1.0) -> Tensor:
        condition = None if maps is None else structure_condition(maps, pipe.variant, pipe.autoencoder)
        return predict(pipe.unet, pipe.guidance, pipe.variant, latents, t, text, condition, strength)

    pictures = []
    for modality in Modality:
        wanted = encode_prompts(pipe.text_encoder, pipe.tokenizer, [prompt(modality, idh)])
        empty = encode_prompts(pipe.text_encoder, pipe.tokenizer, [""])
        latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))
        pipe.scheduler.set_timesteps(steps)
        for t in pipe.scheduler.timesteps:
            plain = call(latents, t, empty, 0.0 if pipe.config.guide_structure else 1.0)
            latents = pipe.scheduler.step(
                plain + scale * (call(latents, t, wanted) - plain), t, latents, return_dict=False
            )[0]
        pictures.append(decode(pipe.autoencoder, latents)[0, 0])
    return (torch.stack(pictures) / 2 + 0.5).clamp(0, 1)


def our_sequence(pipe: MRPipeline, idh: IDH | str, structure: object, seed: int, steps: int) -> Tensor:
    """The same sequence by the pipeline, guided at every step, with one noise for all."""
    options = {"num_inference_steps": steps, "guidance_interval": (0, 1), "eta": 0.0, "grain": False, "mirror": False}
    return torch.stack(list(pipe.sequence(idh, structure, seed=seed, **options).values()))


def in_default_layout(pipe: MRPipeline) -> MRPipeline:
    """Copy of a pipeline whose networks are laid out as torch lays them out by default."""
    parts = copy.copy(pipe.components)
    for name in ("unet", "guidance", "autoencoder"):
        if parts[name] is not None:
            parts[name] = copy.deepcopy(parts[name])
    plain = MRPipeline(**parts, **pipe.parameters)
    for name in ("unet", "guidance", "autoencoder"):
        if parts[name] is not None:
            parts[name].to(memory_format=torch.contiguous_format)
    return plain


def seconds(task: Callable[[], object], repeats: int) -> list[float]:
    """Wall-clock seconds of each run, after one that warms up."""
    task()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return times


def outline() -> Tensor:
    """A circle as structure, (256, 256) bool: cost does not depend on what is drawn."""
    y, x = torch.meshgrid(torch.arange(256) - 128, torch.arange(256) - 128, indexing="ij")
    return ((y**2 + x**2).float().sqrt() - 80).abs() < 0.7


def sampling_cost(pipe: MRPipeline, repeats: int = 3, ordinary_steps: int = 10) -> dict:
    """Seconds of a four-modality sequence, peak memory, and the same in the ordinary way.

    The ordinary way is measured over `ordinary_steps` steps, beside ours with as many; `ordinary_s` is scaled to the
    default number of steps (the time is proportional to it but for one decoding).

    Raises:
        AssertionError: both ways, in float32, draw different pictures.
    """
    structure = None if not pipe.variant.has_network and pipe.variant == "none" else outline()
    pipe.set_progress_bar_config(disable=True)
    default = int(pipe.config.num_inference_steps)
    figures = {
        "default_s": estimate(seconds(lambda: pipe.sequence("wild", structure), repeats)),
        "ddim100_s": estimate(seconds(lambda: pipe.sequence("wild", structure, num_inference_steps=100), repeats)),
    }
    figures["peak_mib"] = estimate([peak_memory_mib()])
    few = ordinary_steps
    ours = seconds(lambda: our_sequence(pipe, "wild", structure, 0, few), repeats)
    plain = in_default_layout(pipe)
    ordinary = seconds(lambda: ordinary_sequence(plain, "wild", structure, 0, few), repeats)
    chosen = pipe.precision
    pipe.precision = torch.float32
    gap = (our_sequence(pipe, "wild", structure, 0, few) - ordinary_sequence(plain, "wild", structure, 0, few)).abs()
    pipe.precision = chosen
    assert gap.max() < PICTURE_TOLERANCE, f"pictures differ by {gap.max():.2g}, more than {PICTURE_TOLERANCE}"
    figures["ordinary_s"] = estimate([s * default / few for s in ordinary])
    figures["sampling_ratio"] = estimate([min(ordinary) / min(ours)])
    return figures | {"default_steps": default, "threads": torch.get_num_threads()}


def measure_in_own_process(folder: str) -> dict:
    """`sampling_cost` of a saved pipeline, so that the peak memory is that of sampling alone."""
    command = [sys.executable, "-m", "mrtutor.metrics.cost", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the cost of {folder} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def training_ratio(pipe: MRPipeline, cohort: Cohort, batch: int = 16, rounds: int = 5) -> dict:
    """How many times faster a training step is with cached latents, the fast number format and channels_last.

    Rounds of both ways alternate; the ratio of each round is one value.

    Raises:
        AssertionError: the two losses differ.
    """
    objective = DiffusionObjective(pipe.scheduler, pipe.variant)
    rows = cohort.rows("train")

    def batch_of(step: int, cached: dict | None) -> dict[str, Tensor]:
        g = step_generator(0, step)
        chosen = rows[torch.randint(len(rows), (batch,), generator=g).numpy()]
        modality = torch.randint(len(Modality), (batch,), generator=g)
        idh = idh_index(cohort, chosen)
        edges = np.stack([cohort.structure(r, list(Modality)[m]) for r, m in zip(chosen, modality, strict=True)])
        out = {"structure": torch.from_numpy(edges > 0)[:, None].float()}
        if cached is not None:
            return out | cached
        images = torch.from_numpy(cohort.images[chosen, modality.numpy()])[:, None].float() / 127.5 - 1
        sentences = [prompt(list(Modality)[m], list(IDH)[i]) for m, i in zip(modality, idh, strict=True)]
        with torch.no_grad():
            text = encode_prompts(pipe.text_encoder, pipe.tokenizer, sentences)
            return out | {"latent": encode(pipe.autoencoder, images), "text": text}

    def step(unet: torch.nn.Module, optimizer: torch.optim.Optimizer, data: dict, dtype: torch.dtype) -> float:
        with autocast("cpu", dtype):
            loss, _ = objective(unet, data, step_generator(1, 0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    networks = [
        copy.deepcopy(pipe.unet).train().to(memory_format=f) for f in (torch.channels_last, torch.contiguous_format)
    ]
    networks[0].set_attn_processor(AttnProcessor())  # as `mrtutor.training.stages` does on a CPU
    fast, plain = [  # rate 0: they stay equal
        (n, torch.optim.AdamW(n.parameters(), lr=0.0, fused=fused))
        for n, fused in zip(networks, (True, False), strict=True)
    ]
    ratios = []
    for i in range(rounds + 1):
        cached = batch_of(i, None)
        start = time.perf_counter()
        ours = step(*fast, batch_of(i, {k: cached[k] for k in ("latent", "text")}), autocast_dtype("cpu"))
        middle = time.perf_counter()
        ordinary = step(*plain, batch_of(i, None), torch.float32)
        end = time.perf_counter()
        assert abs(ours - ordinary) < LOSS_TOLERANCE * ordinary, f"losses differ: {ours:.4f} against {ordinary:.4f}"
        if i:  # the first round warms up
            ratios.append((end - middle) / (middle - start))
    return estimate(ratios)


if __name__ == "__main__":
    from mrtutor.sampling.pretrained import load_pretrained

    print(json.dumps(sampling_cost(load_pretrained(sys.argv[1], device="cpu"))))
