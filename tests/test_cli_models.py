"""The commands train, pack, unpack, sample, examples, evaluate: the whole path on tiny models; mistakes in one line."""

import errno
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from subjects import write_case
from typer.testing import CliRunner

import mrtutor.cli_models
import mrtutor.cli_weights  # noqa: F401 - and its
from mrtutor.cli import app
from mrtutor.metrics import evaluation, reader
from mrtutor.metrics.draws import held_out_rows, orders
from mrtutor.training import stages
from tests.cohorts import write_tiny_cohort


def run(*arguments: object):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ") and all(word in last for word in words), last


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cohort(tmp_path_factory.mktemp("cli")).path


def test_train_pack_sample(cohort: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    trained = run("train", "all", "--preset", "smoke", "--cohort", cohort, "--out", out, "--steps", 2)
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.count("Done: ") == 4
    again = run("train", "text", "--preset", "smoke", "--cohort", cohort, "--out", out, "--steps", 2, "--resume")
    assert again.exit_code == 0, again.output
    packed = run("pack", "--run", out, "--out", weights, "--preset", "smoke")
    assert packed.exit_code == 0 and "Done: pipeline of" in packed.stdout, packed.output
    unpacked = run("unpack", weights, "--out", tmp_path / "again")
    assert unpacked.exit_code == 0 and f"its U-Net in {tmp_path / 'again/unet-D'}.\n" in unpacked.stdout
    refused(run("unpack", weights, "--out", tmp_path / "again"), "is not empty", "--out")
    plain, alone = tmp_path / "plain", weights.with_name(f"{weights.name}-A")
    assert f"its U-Net in {plain / 'unet'}.\n" in run("unpack", weights, "--plain", "--out", plain).stdout
    beside = ("pack", "--run", plain, "--variant", "A", "--beside", weights, "--out", alone)
    refused(run(*beside), "train guidance --variant A")
    paper = ("guidance", "--variant", "A", "--steps", 2, "--preset", "smoke", "--cohort", cohort, "--out", plain)
    assert run("train", *paper).exit_code == 0
    done = run(*beside)
    assert done.exit_code == 0 and f"in {alone}, U-Net of {plain / 'unet'}; no figures" in done.stdout, done.output
    case = write_case(tmp_path / "CASE-1")
    sampled = run("sample", "--subject", case, "--pipeline", weights, "--steps", 2, "--out", tmp_path / "pictures")
    assert sampled.exit_code == 0, sampled.output
    assert "NCC T1Gd: " in sampled.stdout and "mirror image" in sampled.stdout
    assert sampled.stdout.endswith(f"Done: 9 files of synthetic images in {tmp_path / 'pictures'}.\n")


def test_mistakes_are_one_line(cohort: Path, tmp_path: Path) -> None:
    base = ("--cohort", cohort, "--out", tmp_path / "run")
    refused(run("train", "vae", "--preset", "smoke", *base), "Unknown stage 'vae'", "autoencoder, text")
    refused(run("train", "guidance", "--preset", "smoke", *base), "train the earlier stages first")
    refused(run("train", "all", "--preset", "desktop", *base), "smoke, laptop, colab, paper")
    refused(run("train", "all", "--cohort", tmp_path / "none"), "No folder")
    refused(run("pack", "--run", tmp_path / "none", "--out", tmp_path / "w"), "lacks autoencoder")
    refused(run("sample"), "--subject", "--structure")
    refused(run("sample", "--subject", tmp_path, "--pipeline", "nobody"), "No weights 'nobody'")
    refused(run("sample", "--structure", tmp_path / "no.png", "--pipeline", "smoke"), "No structure map")
    refused(run("evaluate", "--quick", "--variants", 2, "--cohort", cohort), "--quick or --variants")
    refused(run("evaluate", "--cohort", tmp_path / "none"), "No folder")
    models = ("evaluate", "--cohort", cohort, "--out", tmp_path / "e.json", "--draws", tmp_path / "draws")
    refused(run(*models, "--pipeline", "nobody"), "No weights 'nobody'")
    refused(run(*models, "--section", "table4"), "Unknown section table4", "table2, table3")
    refused(run(*models, "--pipeline", "smoke", "--ldm", tmp_path / "ldm"), "No weights")
    refused(run(*models, "--pipeline", "smoke", "--clip", tmp_path / "clip"), "No CLIP in", "vit-base-patch16")
    smoke = ("--variants", 2, "--preset", "smoke", "--cohort", cohort, "--run", tmp_path)
    refused(run("evaluate", *smoke, "--out", tmp_path / "e.json"), "is missing")
    assert not (tmp_path / "e.json").exists() and not (tmp_path / "draws").exists()
    assert not (tmp_path / "w").exists() and not list(Path(tmp_path).rglob(".tmp-*"))


def test_an_option_of_another_stage_is_named(cohort: Path, tmp_path: Path) -> None:
    base = ("--preset", "smoke", "--cohort", cohort, "--out", tmp_path / "run")
    for stage, option, value, of in (
        ("stylegan2", "--variant", "A", "guidance or all"),
        ("denoiser", "--text-encoder", "x", "text or all"),
        ("text", "--unet", "x", "denoiser or all"),
        ("guidance", "--vae", "x", "autoencoder or all"),
        ("all", "--start", tmp_path, "guidance or stylegan2"),
    ):
        refused(run("train", stage, option, value, *base), f"{option} is for `train {of}`, got it with {stage!r}")
    refused(run("train", "guidance", "--variant", "Z", *base), "Unknown guidance variant 'Z'", "none, A, B, C, D")
    assert not (tmp_path / "run").exists()


def test_an_option_of_another_way_to_evaluate_is_named(cohort: Path, tmp_path: Path) -> None:
    base, full = ("--cohort", cohort, "--out", tmp_path / "e.json"), "without --quick or --variants"
    for mode, option, value, of in (
        (("--quick",), "--section", "table1", full),
        (("--quick",), "--ldm", tmp_path, full),
        (("--variants", 2), "--clip", tmp_path, full),
        ((), "--real", tmp_path, "--quick"),
        ((), "--trained-on", "a GPU", "--quick"),
        (("--quick",), "--preset", "smoke", "--variants"),
    ):
        got = f"got it with {(mode[0] if mode else full)!r}"
        refused(run("evaluate", *mode, option, value, *base), f"{option} is for `evaluate {of}`", got)
    assert not (tmp_path / "e.json").exists()


def test_other_weights_or_patients_never_write_over_the_shipped_figures(cohort: Path) -> None:
    for mode, name in (((), "evaluation"), (("--quick",), "weights"), (("--variants", 2), "variants")):
        path = Path("data/results") / f"{name}.json"
        before = path.read_bytes()
        own = f"{path} is of the weights laptop on the course's own cohort"
        refused(run("evaluate", *mode, "--cohort", cohort), own, f"got laptop on {cohort}", "--out")
        assert path.read_bytes() == before
    refused(run("evaluate", "--cohort", cohort, "--pipeline", "smoke"), "got smoke on", "--out")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "" if torch.cuda.is_available() else "cuda"])
def test_a_device_that_is_not_there_is_refused(cohort: Path, tmp_path: Path, device: str) -> None:
    base = ("--out", tmp_path / "run", "--device", device)
    refused(run("train", "text", "--preset", "smoke", "--cohort", cohort, *base), f"No device {device!r}", "cpu")
    refused(run("simulate", "--patients", 1, *base), f"No device {device!r}", "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "run the same command with --resume to go on"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "run the same command with --resume"),
        (FloatingPointError("The loss of stage text is nan"), 2, "Error: The loss of stage text is nan"),
    ],
)
def test_trouble_while_training(cohort: Path, tmp_path: Path, monkeypatch, error, status, message) -> None:
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(stages, "train", fail)
    stopped = run("train", "text", "--preset", "smoke", "--cohort", cohort, "--out", tmp_path / "run")
    assert stopped.exit_code == status and message in stopped.stderr


def test_evaluate_hands_the_models_down(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed = []
    monkeypatch.setattr(reader, "train_reader", lambda _, folder: f"reader of {folder}")
    monkeypatch.setattr(evaluation, "evaluate", lambda *given: handed.append(given) or {"of": {}, "table2": {}})
    gan = SimpleNamespace(sequences=lambda idh, seed: torch.full((len(idh), 4, 256, 256), 0.25))
    baseline = ModuleType("mrtutor.baselines.stylegan2")
    baseline.load_stylegan2 = lambda _: gan
    monkeypatch.setitem(sys.modules, "mrtutor.baselines", ModuleType("mrtutor.baselines"))
    monkeypatch.setitem(sys.modules, "mrtutor.baselines.stylegan2", baseline)
    (tmp_path / "SHA256SUMS").write_text("")
    options = ("--count", 8, "--seed", 3, "--out", tmp_path / "e.json", "--draws", tmp_path / "draws")
    baselines = ("--stylegan2", tmp_path, "--ldm", "smoke", "--paper-variant", "smoke")
    done = run("evaluate", "--cohort", cohort, "--pipeline", "smoke", *baselines, *options)
    assert done.exit_code == 0 and done.stdout.endswith(f"Done: table2 in {tmp_path / 'e.json'}.\n"), done.output
    ((setting, out, draws, sections),) = handed
    assert sections == list(evaluation.MEASURES)
    assert (out, draws) == (tmp_path / "e.json", tmp_path / "draws")
    assert (setting.count, setting.swaps, setting.seed, setting.preset) == (8, 8, 3, "smoke")
    assert list(setting.samplers) == ["ours", "ldm", "ldm_alone", "variant_A", "stylegan2"]
    assert list(setting.references) == ["reconstruction"]
    assert [s.follows_structure for s in setting.samplers.values()] == [True, False, False, True, False]
    (order,) = orders(setting.cohort, held_out_rows(setting.cohort, 1))
    for sampler in (setting.samplers["stylegan2"], setting.references["reconstruction"]):
        assert tuple(sampler.draw(order).shape) == (4, 256, 256)
    setting.check()


def test_examples(cohort: Path, tmp_path: Path) -> None:
    people = (cohort / "patients.csv").read_text().splitlines()
    if "mismatch" not in people[0]:  # the tiny cohort has no phenotype; give it one
        rows = [people[0] + ",mismatch,ring_necrosis", *(row + ",False,False" for row in people[1:])]
        (cohort / "patients.csv").write_text("\n".join(rows) + "\n")
    made = run("examples", "--cohort", cohort, "--out", tmp_path / "examples")
    assert made.exit_code == 0, made.output
    assert "simulated examples in" in made.stdout
