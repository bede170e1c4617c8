"""Two processes train what one process trains that accumulates twice as many micro-batches.

`accelerate launch` starts two processes on the CPU, which talk by gloo, once for all tests of this file; what they do
stands in `two_processes.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from diffusers import AutoencoderKL, ControlNetModel
from torch import Tensor

from mrtutor.data.cohort import Cohort
from mrtutor.training.checkpoint import NAME
from mrtutor.training.loop import fit
from tests.training.two_processes import STEPS, autoencoder_stage

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "notebooks/accelerate"
LIMIT_S = 600
TOLERANCE = 1e-6  # of weights; on one thread each, no difference was ever seen


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads as each of the two processes has, so that sums are added in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def launched(tiny_cohort: Cohort, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Folder of what the two processes made, beside the same on one process."""
    out = tmp_path_factory.mktemp("distributed")
    fit(autoencoder_stage(tiny_cohort, 2), out / "one")
    fit(autoencoder_stage(tiny_cohort, 2), out / "moved", stop_after=5)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(CONFIGS / "two_cpus.yaml"), str(ROOT / "tests/training/two_processes.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tiny_cohort.path), str(out)], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def _state(folder: Path) -> dict:
    return torch.load(folder / NAME, weights_only=True)["state"]


def _gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


def _losses(folder: Path) -> pd.Series:
    log = pd.read_csv(folder / "log.csv").query("split == 'train' and name == 'loss'")
    return log.set_index("step")["value"]


def test_there_were_two_processes_on_the_cpu(launched: Path) -> None:
    said = [json.loads((launched / f"process-{i}.json").read_text()) for i in (0, 1)]
    assert [s["processes"] for s in said] == [2, 2] and {s["device"] for s in said} == {"cpu"}
    assert {s["backend"] for s in said} == {"gloo"}


def test_both_processes_hold_the_same_weights(launched: Path) -> None:
    first, second = (json.loads((launched / f"process-{i}.json").read_text())["sum"] for i in (0, 1))
    assert first == second


def test_loss_and_weights_equal_one_process_with_doubled_accumulation(launched: Path) -> None:
    one, two = _losses(launched / "one"), _losses(launched / "two")
    assert len(one) == STEPS // 10 and one.equals(two)
    assert _gap(_state(launched / "one")["model"], _state(launched / "two")["model"]) < TOLERANCE


def test_a_run_may_move_from_one_process_to_two(launched: Path) -> None:
    assert _state(launched / "moved")["step"] == STEPS
    assert _gap(_state(launched / "one")["model"], _state(launched / "moved")["model"]) < TOLERANCE


def test_a_run_may_not_move_where_a_step_would_take_another_batch(launched: Path, tiny_cohort: Cohort) -> None:
    with pytest.raises(ValueError, match="another run"):
        fit(autoencoder_stage(tiny_cohort, 1), launched / "two", resume=True)


def test_all_stages_run_on_two_processes_and_write_once(launched: Path) -> None:
    """Among them the paper's variant A, whose skip exits get no gradient, which DDP would wait for."""
    for i in (0, 1):
        assert json.loads((launched / f"process-{i}.json").read_text())["there"] == [True] * 4
    folder = launched / "run"
    assert not list(folder.rglob(".tmp-*")), "two processes wrote the same folder"
    assert len(list((folder / "runs").glob("latents-*.npy"))) == 1
    assert AutoencoderKL.from_pretrained(folder / "autoencoder").config.latents_std is not None
    assert ControlNetModel.from_pretrained(folder / "guidance-A").config.conditioning_channels == 64
    assert (folder / "tokenizer/tokenizer_config.json").is_file()


def test_a_second_fit_may_take_another_number_format(tiny_cohort: Cohort, tmp_path: Path) -> None:
    """accelerate keeps the first one's in a global state, which the loop resets."""
    for name, precision in (("first", "no"), ("second", "bf16"), ("third", "no")):
        fit(autoencoder_stage(tiny_cohort, 1), tmp_path / name, mixed_precision=precision, stop_after=1)
    first, second, third = (_state(tmp_path / name)["model"] for name in ("first", "second", "third"))
    assert _gap(first, third) == 0 < _gap(first, second)


@pytest.mark.parametrize(
    ("name", "processes", "machines"), [("one_gpu", 1, 1), ("four_gpus", 4, 1), ("two_nodes", 8, 2), ("two_cpus", 2, 1)]
)
def test_configurations_say_what_their_names_say(name: str, processes: int, machines: int) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert config.use_cpu is False and config.mixed_precision == "no"
