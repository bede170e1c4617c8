"""Many sequences by many processes: no sequence twice, none forgotten, whoever is killed when.

    python -m mrtutor.sampling.shards --count 1000 --out outputs/many                      # one process
    python -m mrtutor.sampling.shards --count 1000 --out outputs/many --shard 0 --shards 8  # one of eight, anywhere
    accelerate launch --config_file notebooks/accelerate/four_gpus.yaml \\
        -m mrtutor.sampling.shards --count 1000 --out outputs/many --device cuda

Sequence i is a function of (seed, i): its IDH type, the slice whose edges are its structure, the noise. Sequences are
drawn in chunks; a chunk is one file, under its final name only when whole. Shard k of K draws chunks k, k + K, … and
passes over those that are there. So after a kill, run again with as many shards as you like; the process that finds
all chunks joins them, and counts.

Axes: n sequences · M = 4 modalities · H, W image pixels (256).
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mrtutor.data.cohort import Cohort
from mrtutor.data.examples import examples_cohort
from mrtutor.data.structure import SIZE
from mrtutor.files import CHECKSUMS, atomic_path, sha256, write_json
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import load_pretrained
from mrtutor.training.batches import cohort_key
from mrtutor.vocabulary import IDH, Modality, prompt

PLAN, ALL, INDEX, PARTS = "plan.json", "sequences.npy", "index.json", "parts"


@dataclass(frozen=True)
class Plan:
    """What is to be drawn; the same for every process.

    Attributes:
        count: sequences.
        seed: of structures and noise.
        chunk: sequences in one file, drawn in one batch of ``chunk * 4`` pictures (twice that with guidance).
        steps: sampling steps; None for the pipeline's.
        precision: number format of the denoiser; fixed, since processes that chose for themselves might differ.
        split: of the cohort whose structures are used.
        weights: name or folder of the pipeline.
        cohort: folder of the cohort; None for the examples.
    """

    count: int
    seed: int = 0
    chunk: int = 2
    steps: int | None = None
    precision: str = "float32"
    split: str = "test"
    weights: str = "laptop"
    cohort: str | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.chunk < 1 or self.seed < 0:
            got = f"count {self.count}, chunk {self.chunk} and seed {self.seed}"
            raise ValueError(f"Expected count and chunk from 1 and seed from 0, got {got}.")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"Unknown precision {self.precision!r}: expected float32, bfloat16 or float16.")

    @property
    def chunks(self) -> list[range]:
        """Numbers of the sequences of each chunk."""
        return [range(i, min(i + self.chunk, self.count)) for i in range(0, self.count, self.chunk)]

    def draw(self, number: int, rows: np.ndarray) -> dict:
        """What sequence ``number`` is drawn from: IDH type (they alternate), row, modality of the edges, seed."""
        rng = np.random.default_rng([self.seed, number])
        return {
            "number": number,
            "idh": str(list(IDH)[number % 2]),
            "row": int(rng.choice(rows)),
            "edges_of": str(list(Modality)[rng.integers(len(Modality))]),
            "seed": int(rng.integers(2**31)),
        }


def resolved(plan: Plan, pipe: MRPipeline, cohort: Cohort) -> dict:
    """The plan as JSON, with what its names stand for: keys of weights and cohort, all settings of the sampler."""
    checksums = Path(pipe.name_or_path or "") / CHECKSUMS  # weights in memory ("smoke") have none
    scheduler = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
    keys = {
        "weights_sha256": sha256(checksums) if checksums.is_file() else None,
        "cohort_key": cohort_key(cohort),
        **pipe.parameters,
        "scheduler": {"class": type(pipe.scheduler).__name__, **scheduler},
    }
    return json.loads(json.dumps(asdict(plan) | keys))  # as it will be read back


def open_plan(plan: dict, out: str | Path) -> Path:
    """Write the `resolved` plan, or compare it with the one that is there; returns the folder of the parts.

    Raises:
        ValueError: the folder holds other sequences.
    """
    out = Path(out)
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    if not (out / PLAN).is_file():
        write_json(out / PLAN, plan)
    old = json.loads((out / PLAN).read_text(encoding="utf-8"))
    if different := [f"{k} was {old.get(k)}, now {v}" for k, v in plan.items() if old.get(k) != v]:
        raise ValueError(f"{out} holds sequences of another plan ({'; '.join(different)}): choose another --out.")
    return out / PARTS


def generate(
    plan: Plan,
    out: str | Path,
    pipe: MRPipeline,
    cohort: Cohort,
    shard: int = 0,
    shards: int = 1,
    progress: bool = True,
) -> int:
    """Draw the missing chunks of one shard; returns how many sequences it drew.

    Raises:
        ValueError: a shard outside 0 … shards - 1; another plan in ``out``; no slices in the split.
        OSError: no permission, a full disk: finished chunks are kept, run again.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"Expected a shard from 0 to {shards - 1}, got {shard}.")
    rows = cohort.rows(plan.split)
    if not len(rows):
        raise ValueError(f"The cohort has no slices in {plan.split!r}: choose another split.")
    parts = open_plan(resolved(plan, pipe, cohort), out)
    pipe.precision = getattr(torch, plan.precision)
    pipe.set_progress_bar_config(disable=True)
    mine = [(k, chunk) for k, chunk in enumerate(plan.chunks) if k % shards == shard]
    drawn = 0
    for k, chunk in tqdm(mine, desc=f"shard {shard} of {shards}", unit="chunk", disable=not progress):
        if (parts / _name(k)).is_file():
            continue
        about = [plan.draw(number, rows) for number in chunk]
        sequences = _draw(pipe, cohort, about, plan.steps)
        with atomic_path(parts / _name(k)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, sequences=sequences, about=json.dumps(about))
        drawn += len(chunk)
    return drawn


def _name(chunk: int) -> str:
    return f"{chunk:06d}.npz"


def _draw(pipe: MRPipeline, cohort: Cohort, about: Sequence[dict], steps: int | None) -> np.ndarray:
    """Sequences (n, 4, 256, 256) uint8 in one batch; the modalities of a sequence share structure and noise."""
    pairs = [(one, modality) for one in about for modality in Modality]
    maps = torch.stack([torch.as_tensor(cohort.structure(one["row"], one["edges_of"]) > 0) for one, _ in pairs])
    generators = [torch.Generator().manual_seed(one["seed"]) for one, _ in pairs]
    prompts = [prompt(modality, one["idh"]) for one, modality in pairs]
    structure = None if pipe.variant == "none" else maps.float().reshape(-1, 1, SIZE, SIZE)
    images = pipe(prompts, structure, generator=generators, num_inference_steps=steps).images
    return (images * 255).round().to(torch.uint8).numpy().reshape(len(about), len(Modality), SIZE, SIZE)


def missing(plan: Plan, out: str | Path) -> list[int]:
    """Numbers of the sequences that are not on disk."""
    parts = Path(out) / PARTS
    return [number for k, chunk in enumerate(plan.chunks) if not (parts / _name(k)).is_file() for number in chunk]


def collect(plan: Plan, out: str | Path) -> Path:
    """Join all chunks into ``sequences.npy`` and ``index.json``, one chunk in memory at a time; the parts stay.

    Raises:
        ValueError: sequences are missing, or one is there twice.
    """
    out = Path(out)
    if gaps := missing(plan, out):
        raise ValueError(
            f"{len(gaps)} of {plan.count} sequences are missing (first: {gaps[0]}): run the same command again."
        )
    about: list[dict] = []
    with atomic_path(out / ALL) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (plan.count, len(Modality), SIZE, SIZE)}
        np.lib.format.write_array_header_1_0(file, header)
        for k in range(len(plan.chunks)):
            with np.load(out / PARTS / _name(k)) as part:
                file.write(np.ascontiguousarray(part["sequences"]).data)
                about += json.loads(str(part["about"]))
    if [one["number"] for one in about] != list(range(plan.count)):
        raise ValueError(f"The parts in {out / PARTS} do not number 0 to {plan.count - 1}: delete them and run again.")
    drawn_by = json.loads((out / PLAN).read_text(encoding="utf-8"))
    write_json(out / INDEX, {"synthetic": True, "plan": drawn_by, "sha256": sha256(out / ALL), "sequences": about})
    return out / ALL


def main(arguments: Sequence[str] | None = None) -> None:
    """One process: its shard, and the joining if it finds everything there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, required=True, help="sequences in all")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=2, help="sequences in one batch and one file")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--split", default="test", help="of the cohort whose structures are used")
    parser.add_argument("--pipeline", default="laptop", help="name or folder of the weights")
    parser.add_argument("--cohort", help="folder of a cohort; default the examples of the course")
    parser.add_argument("--device", help="cpu or cuda; default CUDA where there is some")
    parser.add_argument("--shard", type=int, default=int(os.environ.get("RANK", 0)), help="default RANK of a launcher")
    parser.add_argument("--shards", type=int, default=int(os.environ.get("WORLD_SIZE", 1)))
    try:
        print(_run(parser.parse_args(arguments)))
    except (ValueError, OSError) as error:
        parser.exit(2, f"Error: {error}\n")


def _run(args: argparse.Namespace) -> str:
    """Draw a shard, join what is whole, and say so in a line."""
    options = (args.count, args.seed, args.chunk, args.steps, args.precision, args.split, args.pipeline, args.cohort)
    plan = Plan(*options)
    cohort = Cohort.open(args.cohort) if args.cohort else examples_cohort()
    device = args.device
    if device == "cuda" and torch.cuda.device_count() > 1:
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', args.shard)) % torch.cuda.device_count()}"
    pipe = load_pretrained(args.pipeline, device=device)
    began = time.monotonic()
    drawn = generate(plan, args.out, pipe, cohort, args.shard, args.shards)
    each = f" in {(time.monotonic() - began) / drawn:.2f} s each" if drawn else ""
    gaps = len(missing(plan, args.out))
    joined = f"{gaps} still missing" if gaps else f"all {plan.count} joined in {collect(plan, args.out)}"
    return f"Done: shard {args.shard} of {args.shards} drew {drawn} synthetic sequences{each}; {joined}."


if __name__ == "__main__":
    main()
