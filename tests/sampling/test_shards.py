"""Sharded generation: the same sequences however many processes draw them, and after any of them was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrtutor.data.examples import examples_cohort
from mrtutor.sampling import shards
from mrtutor.sampling.pipeline import MRPipeline
from mrtutor.sampling.pretrained import load_pretrained, save_pipeline
from mrtutor.sampling.shards import Plan, collect, generate, main, missing, open_plan, resolved
from mrtutor.vocabulary import IDH, Modality

ROOT = Path(__file__).resolve().parents[2]
PLAN = Plan(count=7, seed=3, chunk=2, steps=1, weights="smoke")


@pytest.fixture(scope="module")
def pipe():
    return load_pretrained("smoke", device="cpu")


@pytest.fixture(scope="module")
def cohort():
    return examples_cohort()


@pytest.fixture(scope="module")
def whole(pipe, cohort, tmp_path_factory):
    """One process draws everything."""
    out = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes started below
    assert generate(PLAN, out, pipe, cohort, progress=False) == 7
    torch.set_num_threads(threads)
    return out, np.load(collect(PLAN, out))


def run(pipe, cohort, out, shard, of, plan=PLAN):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = generate(plan, out, pipe, cohort, shard, of, progress=False)
    torch.set_num_threads(threads)
    return drawn


def test_every_sequence_once(whole):
    out, sequences = whole
    index = json.loads((out / "index.json").read_text())
    assert sequences.shape == (7, 4, 256, 256) and sequences.dtype == np.uint8
    assert [one["number"] for one in index["sequences"]] == list(range(7))
    assert [one["idh"] for one in index["sequences"]] == [str(list(IDH)[n % 2]) for n in range(7)]
    assert len({one["seed"] for one in index["sequences"]}) == 7
    assert index["synthetic"] is True and index["plan"] == json.loads((out / "plan.json").read_text())
    assert index["plan"]["count"] == 7 and index["plan"]["scheduler"]["class"] == "DDIMScheduler"


def test_a_sequence_is_the_pipelines_own(whole, pipe, cohort):
    """A batch of chunks gives what `MRPipeline.sequence` gives alone, but for the last bits of a sum."""
    _, sequences = whole
    one = PLAN.draw(3, cohort.rows("test"))
    structure = torch.as_tensor(cohort.structure(one["row"], one["edges_of"]) > 0).float().reshape(1, 1, 256, 256)
    pipe.precision = torch.float32
    alone = pipe.sequence(one["idh"], structure, seed=one["seed"], num_inference_steps=1)
    alone = np.stack([(alone[m] * 255).round().numpy() for m in Modality])
    assert np.abs(alone - sequences[3]).max() <= 1


@pytest.mark.parametrize("of", [2, 3, 9])
def test_any_number_of_shards_draws_the_same(tmp_path, whole, pipe, cohort, of):
    assert sum(run(pipe, cohort, tmp_path, shard, of) for shard in reversed(range(of))) == 7
    assert np.array_equal(np.load(collect(PLAN, tmp_path)), whole[1])


def test_a_killed_worker_leaves_a_gap_that_is_seen_and_filled(tmp_path, whole, pipe, cohort):
    run(pipe, cohort, tmp_path, 1, 2)
    (tmp_path / "parts/.tmp-half.npz").write_bytes(b"half")  # what a kill leaves
    assert missing(PLAN, tmp_path) == [0, 1, 4, 5]
    with pytest.raises(ValueError, match=r"4 of 7 sequences are missing \(first: 0\): run the same command again"):
        collect(PLAN, tmp_path)
    assert run(pipe, cohort, tmp_path, 0, 1) == 4  # resumed by one process instead of two
    assert run(pipe, cohort, tmp_path, 0, 1) == 0
    assert np.array_equal(np.load(collect(PLAN, tmp_path)), whole[1])


def test_kill_9_in_a_process_of_its_own(tmp_path, whole, pipe, cohort):
    """Shard 0 of 2 is killed once its first chunk is written; the command run again completes the set."""
    script = (
        "import sys, time\nfrom mrtutor.sampling import shards\ndraw = shards._draw\n"
        "shards._draw = lambda pipe, cohort, about, steps: (time.sleep(600 * (about[0]['number'] > 0)),"
        " draw(pipe, cohort, about, steps))[1]\nshards.main(sys.argv[1:])"
    )
    options = ["--count", "7", "--seed", "3", "--steps", "1", "--pipeline", "smoke", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *options, "--shard", "0", "--shards", "2", "--device", "cpu"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not (tmp_path / "parts/000000.npz").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert missing(PLAN, tmp_path) == [2, 3, 4, 5, 6]
    run(pipe, cohort, tmp_path, 1, 2)
    run(pipe, cohort, tmp_path, 0, 2)
    assert np.array_equal(np.load(collect(PLAN, tmp_path)), whole[1])


def test_the_command_takes_its_shard_from_the_launcher(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--count", "2", "--chunk", "1", "--steps", "1", "--pipeline", "smoke", "--out", str(tmp_path)]
    for rank, words in (("1", "1 still missing"), ("0", "all 2 joined in")):
        monkeypatch.setenv("RANK", rank)
        main([*options, "--device", "cpu"])
        assert words in capsys.readouterr().out
    assert np.load(tmp_path / "sequences.npy").shape == (2, 4, 256, 256)


def test_a_number_decides_its_sequence_alone():
    rows = np.arange(50)
    assert PLAN.draw(4, rows) == replace(PLAN, count=1000, chunk=5).draw(4, rows)
    assert PLAN.draw(4, rows) != replace(PLAN, seed=4).draw(4, rows)
    assert [list(chunk) for chunk in PLAN.chunks] == [[0, 1], [2, 3], [4, 5], [6]]


def test_parts_of_another_count_are_not_joined(tmp_path, whole, pipe, cohort):
    run(pipe, cohort, tmp_path, 0, 1)
    (tmp_path / "parts/000001.npz").write_bytes((tmp_path / "parts/000000.npz").read_bytes())
    with pytest.raises(ValueError, match="do not number 0 to 6"):
        collect(PLAN, tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_other_weights_under_the_same_name_are_not_joined(tmp_path, pipe, cohort):
    folder, plan = tmp_path / "weights", Plan(count=2, chunk=1, steps=1, weights="weights")
    out = open_plan(resolved(plan, load_pretrained(save_pipeline(pipe, folder)), cohort), tmp_path / "out")
    open_plan(resolved(plan, load_pretrained(folder), cohort), tmp_path / "out")
    bias = pipe.unet.conv_out.bias
    with torch.no_grad():
        bias.add_(1)
    other = load_pretrained(save_pipeline(pipe, folder))
    with torch.no_grad():
        bias.sub_(1)
    with pytest.raises(ValueError, match=r"another plan \(weights_sha256 was [0-9a-f]{64}, now"):
        generate(plan, tmp_path / "out", other, cohort)
    assert not list(out.iterdir())


def test_another_cohort_or_sampler_under_the_same_name_is_not_joined(tmp_path, pipe, cohort):
    open_plan(resolved(PLAN, pipe, cohort), tmp_path)
    changed = replace(cohort, manifest={"sha256": {"slices.npy": "f" * 64}})
    with pytest.raises(ValueError, match=r"\(cohort_key was [0-9a-f]{12}, now ffffffffffff\)"):
        generate(PLAN, tmp_path, pipe, changed)
    guided = MRPipeline(**pipe.components, **(pipe.parameters | {"guidance_scale": 9.0}))
    with pytest.raises(ValueError, match=r"\(guidance_scale was 2.0, now 9.0\)"):
        generate(PLAN, tmp_path, guided, cohort)


def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--count", "0", "--pipeline", "smoke", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert "Error: Expected count and chunk from 1 and seed from 0, got count 0," in capsys.readouterr().err


def test_mistakes(tmp_path, pipe, cohort):
    open_plan(resolved(PLAN, pipe, cohort), tmp_path)
    with pytest.raises(ValueError, match=r"another plan \(seed was 3, now 4\): choose another --out"):
        generate(replace(PLAN, seed=4), tmp_path, pipe, cohort)
    with pytest.raises(ValueError, match="shard from 0 to 1, got 2"):
        generate(PLAN, tmp_path, pipe, cohort, 2, 2)
    with pytest.raises(ValueError, match="no slices in 'validation'"):
        generate(replace(PLAN, split="validation"), tmp_path / "other", pipe, cohort)
    for bad in ({"count": 0}, {"chunk": 0}, {"seed": -1}, {"precision": "float8"}):
        with pytest.raises(ValueError, match=r"Expected count|Unknown precision"):
            Plan(**({"count": 4} | bad))
    assert shards.missing(PLAN, tmp_path) == list(range(7))
