"""Pictures of a study: balanced cases, held-out patients only, nothing drawn twice, nothing of another model."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cohorts import write_tiny_cohort
from diffusers import DDPMScheduler
from tiny_pipelines import build
from typer.testing import CliRunner

from mrtutor.data.cohort import Cohort
from mrtutor.data.examples import example_names, examples_cohort
from mrtutor.metrics.draws import weights_key
from mrtutor.study.pool import REAL, SIMULATED, Pool
from mrtutor.study.prepare import choose_cases, choose_partners, draw_pool, prepare_study
from mrtutor.study.store import open_study
from mrtutor.vocabulary import IDH

needs_examples = pytest.mark.skipif(not example_names(), reason="no data/examples")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_tiny_cohort(tmp_path_factory.mktemp("tiny"))


@needs_examples
def test_cases_of_the_shipped_examples_are_balanced_and_held_out() -> None:
    shipped = examples_cohort()
    cases = choose_cases(shipped, 20)
    partners = choose_partners(shipped, cases)
    people, splits, types = (shipped.table[name].to_numpy() for name in ("subject_id", "split", "idh"))
    assert len(set(cases)) == len(set(partners)) == 20
    assert {splits[c.row] for c in [*cases, *partners]} == {"test"}
    assert Counter(types[c.row] for c in cases) == {"mutant": 10, "wild": 10}
    assert all(
        people[c.row] != people[p.row] and types[c.row] == types[p.row] for c, p in zip(cases, partners, strict=True)
    )
    assert set(Counter(p.modality for p in partners).values()) == {5}
    assert max(Counter(people[c.row] for c in cases).values()) == 5
    assert choose_cases(shipped, 20) == cases != choose_cases(shipped, 20, seed=1)
    with pytest.raises(ValueError, match="gives 32 different cases"):
        choose_cases(shipped, 33)


def test_nothing_is_drawn_twice_and_nothing_of_another_model_is_taken(cohort: Cohort, tmp_path: Path) -> None:
    pipe, calls = build("D", steps=2), []
    draw = pipe.sequence

    def counted(*args: object, **more: object) -> dict:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args, **more)

    pipe.sequence = counted
    with pytest.raises(KeyboardInterrupt):
        draw_pool(pipe, cohort, 4, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "two whole files, no temporary one"
    pool = draw_pool(pipe, cohort, 4, tmp_path)
    assert len(calls) == 3 + 2, "the two that were there are not drawn again"
    again = draw_pool(pipe, cohort, 4, tmp_path)
    assert len(calls) == 5 and (again.synthetic == pool.synthetic).all() and again.origin == pool.origin
    pipe.unet.conv_out.weight.data *= 1.5
    other = draw_pool(pipe, cohort, 4, tmp_path)
    assert len(calls) == 9 and (other.synthetic != pool.synthetic).any()
    assert other.origin["weights"] == weights_key(pipe) != pool.origin["weights"]


@pytest.mark.parametrize("setting", [{"guidance_scale": 7.0}, {"guidance_interval": [0.2, 0.8]}, {"eta": 1.0}, "DDPM"])
def test_nothing_of_another_sampler_is_taken(cohort: Cohort, tmp_path: Path, setting: dict | str) -> None:
    pipe = build("D", steps=2)
    pool = draw_pool(pipe, cohort, 2, tmp_path)
    if setting == "DDPM":
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="fixed_large")
    else:
        pipe.register_to_config(**setting)
    other = draw_pool(pipe, cohort, 2, tmp_path)
    assert (other.synthetic != pool.synthetic).any() and other.origin != pool.origin
    assert len(list(tmp_path.iterdir())) == 4


def test_a_study_of_a_cohort_of_its_own(cohort: Cohort, tmp_path: Path) -> None:
    study = prepare_study(tmp_path / "study", build("D", steps=2), cohort.path, questions=2, minutes=5)
    read, pool = open_study(tmp_path / "study")
    assert read == study and (study.questions, study.minutes, study.source) == (2, 5.0, REAL)
    assert REAL in study.consent and set(pool.idh) == set(IDH) and pool.synthetic.shape == (2, 4, 256, 256)


@needs_examples
def test_the_command_says_what_it_made_and_what_is_wrong(tmp_path: Path) -> None:
    import typer

    from mrtutor.study.__main__ import prepare

    app = typer.Typer()
    app.command()(prepare)
    run = CliRunner().invoke(app, ["--weights", "smoke", "--questions", "2", "--out", str(tmp_path / "study")])
    assert run.exit_code == 0 and "2 questions and 30 min per test, beside the simulated cohort" in run.output
    assert open_study(tmp_path / "study")[1].source == SIMULATED
    run = CliRunner().invoke(app, ["--weights", "smoke", "--questions", "99", "--out", str(tmp_path / "study")])
    assert run.exit_code == 1 and "99 were asked for" in run.output and "Traceback" not in run.output


def test_a_pool_is_read_back(tmp_path: Path) -> None:
    from tests.study.pools import tiny_pool

    pool = tiny_pool(4)
    pool.save(tmp_path / "pool.npz")
    read = Pool.load(tmp_path / "pool.npz")
    for name in ("synthetic", "cohort"):
        assert np.array_equal(getattr(read, name), getattr(pool, name))
    assert (read.idh, read.modality, read.source, read.origin) == (pool.idh, pool.modality, pool.source, pool.origin)
    with pytest.raises(ValueError, match="Expected 4 slices of the cohort"):
        Pool(pool.synthetic, pool.idh, pool.cohort[:3], pool.modality, "", {})
    with pytest.raises(FileNotFoundError, match="make reader-study"):
        Pool.load(tmp_path / "none.npz")
