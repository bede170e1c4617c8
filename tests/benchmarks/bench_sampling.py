"""How much faster one batched, precomputed sequence is than the ordinary way of sampling it, at equal pictures.

    python tests/benchmarks/bench_sampling.py [--pipeline laptop | --random laptop --variant D] [--steps 25]

The ordinary way: one modality after another, classifier-free guidance as two calls, guidance network *with* its stem
(or the concatenation) at each step, float32, default memory layout. The first comparison is in float32 and asserts
equal pictures; the second lets the pipeline choose its number format and reports the difference.
"""

import argparse
import resource
import time
from pathlib import Path

import torch
from torch import Tensor

from mrtutor.data.structure import validate_structure
from mrtutor.models.autoencoder import decode
from mrtutor.models.guidance import Variant, predict, structure_condition
from mrtutor.models.text import encode_prompts
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.vocabulary import Modality, prompt

TOLERANCE = 2e-4  # of images in [0, 1]: float32 sums in another order, carried through all steps


@torch.no_grad()
def ordinary_sequence(pipe: MRPipeline, idh: str, structure: object, seed: int, steps: int) -> Tensor:
    """(4, 256, 256) in [0, 1], drawn as a textbook would: nothing shared, nothing computed beforehand."""
    maps = None if structure is None else validate_structure(structure)
    scale, side = pipe.config.guidance_scale, pipe.unet.config.sample_size
    pictures = []
    for modality in Modality:
        wanted = encode_prompts(pipe.text_encoder, pipe.tokenizer, [prompt(modality, idh)])
        empty = encode_prompts(pipe.text_encoder, pipe.tokenizer, [""])
        latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed))
        pipe.scheduler.set_timesteps(steps)
        for t in pipe.scheduler.timesteps:
            plain = _predict(pipe, latents, t, empty, maps)
            full = _predict(pipe, latents, t, wanted, maps)
            latents = pipe.scheduler.step(plain + scale * (full - plain), t, latents).prev_sample
        pictures.append(decode(pipe.autoencoder, latents)[0, 0])
    return (torch.stack(pictures) / 2 + 0.5).clamp(0, 1)


def _predict(pipe: MRPipeline, latents: Tensor, t: Tensor, text: Tensor, maps: Tensor | None) -> Tensor:
    condition = None if maps is None else structure_condition(maps, pipe.variant, pipe.autoencoder)
    return predict(pipe.unet, pipe.guidance, pipe.variant, latents, t, text, condition)


def our_sequence(pipe: MRPipeline, idh: str, structure: object, seed: int, steps: int) -> Tensor:
    """The same sequence by the pipeline, guided at every step."""
    options = {"num_inference_steps": steps, "guidance_interval": (0, 1)}
    return torch.stack(list(pipe.sequence(idh, structure, seed=seed, **options).values()))


def random_pipeline(preset: str, variant: str) -> MRPipeline:
    """A preset's sizes with random weights: cost does not depend on what they are."""
    from mrtutor.models import build_components
    from mrtutor.presets import load_preset

    torch.manual_seed(0)
    recipe = load_preset(preset)
    return MRPipeline(**build_components(recipe, Variant(variant)), variant=variant, guidance_scale=2.0)


def outline() -> Tensor:
    """A circle, (256, 256) bool, as structure."""
    y, x = torch.meshgrid(torch.arange(256) - 128, torch.arange(256) - 128, indexing="ij")
    return ((y**2 + x**2).float().sqrt() - 80).abs() < 0.7


def timed(draw, pipe: MRPipeline, steps: int, repeats: int) -> tuple[Tensor, float]:
    """Pictures and least seconds of `repeats` runs."""
    structure = None if pipe.variant is Variant.NONE else outline()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        pictures = draw(pipe, "wild", structure, 0, steps)
        best = min(best, time.perf_counter() - start)
    return pictures, best


def main() -> None:
    """Measure, assert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="laptop", help="name or folder of weights")
    parser.add_argument("--random", metavar="PRESET", help="random weights of this preset instead")
    parser.add_argument("--variant", default="D", help="of the random weights")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.random:
        pipe = random_pipeline(args.random, args.variant)
    else:
        from mrtutor.sampling.pretrained import load_pretrained

        pipe = load_pretrained(args.pipeline, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.precision = torch.float32
    ours, batched = timed(our_sequence, pipe, args.steps, args.repeats)
    pipe.precision = None
    chosen, fast = timed(our_sequence, pipe, args.steps, args.repeats)
    for network in (pipe.unet, pipe.guidance, pipe.autoencoder):
        if network is not None:
            network.to(memory_format=torch.contiguous_format)
    reference, ordinary = timed(ordinary_sequence, pipe, args.steps, args.repeats)
    difference = (ours - reference).abs().max().item()
    assert difference < TOLERANCE, f"pictures differ by {difference:.2g}, more than {TOLERANCE}"
    print(
        f"variant {pipe.variant}, {args.steps} steps, {torch.get_num_threads()} threads, least of {args.repeats} runs"
    )
    print(f"ordinary way, float32          {ordinary:7.2f} s")
    print(f"ours, float32                  {batched:7.2f} s   {ordinary / batched:.2f} x   differs by {difference:.1e}")
    error = (chosen - reference).abs()
    print(
        f"ours, {str(pipe._precision()).removeprefix('torch.'):24} {fast:7.2f} s   {ordinary / fast:.2f} x   ", end=""
    )
    print(f"differs by {error.mean():.1e} on average, {error.max():.1e} at most")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB ({Path(__file__).name})")


if __name__ == "__main__":
    main()
