"""Training throughput: cached latents, bfloat16 and channels_last against the ordinary loop.

    python tests/benchmarks/bench_training.py --cohort outputs/cohort --run outputs/laptop

The ordinary loop encodes images and sentences at each step, in float32, in the default memory format. Both take the
same optimiser step on the same rows; before timing, their losses are compared (tolerance 5 %: bfloat16 and float16
rounding). Rounds alternate, and the ratio is that of the medians.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mrtutor.data.cohort import Cohort
from mrtutor.models.autoencoder import encode
from mrtutor.models.denoiser import build_scheduler
from mrtutor.models.guidance import Variant
from mrtutor.models.text import encode_prompts, load_text_encoder
from mrtutor.presets import load_preset
from mrtutor.training import stages
from mrtutor.training.loop import step_generator
from mrtutor.training.objectives import DiffusionObjective
from mrtutor.vocabulary import IDH, Modality, prompt

TOLERANCE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", type=Path, default=Path("outputs/cohort"))
    parser.add_argument("--run", type=Path, default=Path("outputs/laptop"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    run = stages.Run(load_preset("laptop"), Cohort.open(arguments.cohort), arguments.run)
    batches = stages.latent_batches(run, with_structure=True)
    objective = DiffusionObjective(build_scheduler(), Variant.D)
    autoencoder = AutoencoderKL.from_pretrained(run.component("autoencoder"))
    encoder, tokenizer = load_text_encoder(run.folder)
    rows = run.cohort.rows("train")

    def draw(step: int) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        g = step_generator(0, step)
        chosen = rows[torch.randint(len(rows), (arguments.batch,), generator=g).numpy()]
        return (
            chosen,
            torch.randint(4, (arguments.batch,), generator=g),
            torch.randint(4, (arguments.batch,), generator=g),
        )

    def ordinary_batch(step: int) -> dict[str, torch.Tensor]:
        chosen, modality, edges_of = draw(step)
        images = torch.from_numpy(run.cohort.images[chosen, modality.numpy()])[:, None].float() / 127.5 - 1
        idh = [IDH(word) for word in run.cohort.table["idh"].to_numpy()[chosen]]
        sentences = [prompt(list(Modality)[m], i) for m, i in zip(modality.tolist(), idh, strict=True)]
        with torch.no_grad():
            latent, text = encode(autoencoder, images), encode_prompts(encoder, tokenizer, sentences)
        return batches.at(chosen, modality, edges_of) | {"latent": latent, "text": text}

    def make(channels_last: bool) -> tuple[UNet2DConditionModel, torch.optim.Optimizer]:
        unet = UNet2DConditionModel.from_pretrained(run.component("unet-D")).train()
        if channels_last:
            unet = unet.to(memory_format=torch.channels_last)
        return unet, torch.optim.AdamW(unet.parameters(), lr=0.0)  # a rate of 0 keeps both networks comparable

    def step(unet, optimizer, batch: dict, dtype: torch.dtype) -> float:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = objective(unet, batch, step_generator(1, 0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    fast, plain = make(True), make(False)
    seconds: dict[str, list[float]] = {"ours": [], "ordinary": []}
    for i in range(arguments.rounds + 1):
        start = time.perf_counter()
        ours = step(*fast, batches.at(*draw(i)), run.precision)
        middle = time.perf_counter()
        ordinary = step(*plain, ordinary_batch(i), torch.float32)
        end = time.perf_counter()
        assert abs(ours - ordinary) < TOLERANCE * ordinary, f"losses differ: {ours:.4f} against {ordinary:.4f}"
        if i:  # the first round warms up
            seconds["ours"].append(middle - start)
            seconds["ordinary"].append(end - middle)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    print(f"batch {arguments.batch}, {arguments.rounds} rounds, {torch.get_num_threads()} threads, {run.precision}")
    print(f"ours {medians['ours']:.2f} s, ordinary {medians['ordinary']:.2f} s a step")
    print(f"ratio {medians['ordinary'] / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
