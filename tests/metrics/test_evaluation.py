"""The whole evaluation on a tiny cohort and a model of noise: keys, numbers, and what a second run does not repeat."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrtutor.metrics import evaluation
from mrtutor.metrics.clip_score import Scorer, build_scorer
from mrtutor.metrics.draws import Order, Sampler
from mrtutor.metrics.evaluation import SECTIONS, Setting, evaluate
from mrtutor.metrics.feature_training import build_network
from mrtutor.metrics.features import Features
from mrtutor.metrics.reader import Reader, build_reader
from mrtutor.models.text import build_tokenizer
from tests.cohorts import write_tiny_cohort


def near_truth(cohort):
    """A model that draws the slices of the structure's patient, with a little noise."""

    def draw(order: Order) -> torch.Tensor:
        noise = torch.randn(4, 256, 256, generator=torch.Generator().manual_seed(order.seed))
        return (torch.from_numpy(cohort.images[order.row] / 255).float() + 0.01 * noise).clamp(0, 1)

    return draw


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    cohort = write_tiny_cohort(tmp_path_factory.mktemp("evaluation"))
    table = cohort.table.copy()  # the two-sample test needs more held-out patients than a tenth of twenty
    table.loc[table["subject_id"].isin(sorted(set(table["subject_id"]))[:8]), "split"] = "test"
    cohort = replace(cohort, table=table)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    return Setting(
        cohort,
        {"ours": Sampler("a", near_truth(cohort), follows_structure=True), "ldm": Sampler("b", near_truth(cohort))},
        reader=Reader(build_reader(1, 4).eval(), build_reader(4, 2).eval()),
        judges={"tiny": Scorer("tiny", build_scorer(tokenizer).eval(), tokenizer)},
        features=Features(build_network().eval()),
        count=8,
        swaps=4,
        references={"reconstruction": Sampler("c", near_truth(cohort))},
        steps=1,
        resamples=10,
    )


@pytest.fixture(scope="module")
def report(setting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return evaluate(setting, folder / "evaluation.json", folder / "draws"), folder


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def test_the_report_has_the_contracts_keys_and_finite_numbers(report):
    content, folder = report
    assert content == json.loads((folder / "evaluation.json").read_text())
    assert set(SECTIONS) | {"seed", "commit", "preset", "of", "count", "simulated"} == set(content)
    assert {"table1", "table2", "table3", "floor", "memorisation", "two_sample", "utility"} <= set(content)
    assert np.isfinite(list(numbers(content))).all()
    for column in ("FLAIR", "T1", "T1Gd", "T2", "average"):
        for model in ("ours", "ldm", "reconstruction"):
            assert {"value", "ci95", "n"} <= set(content["table1"]["fid_mr"][model][column])
        assert {"value", "ci95", "n"} <= set(content["floor"]["fid_mr"][column])
    for figure in ("ssim", "nmi", "ncc"):
        assert {"gt", "prediction", "random", "ldm", "reconstruction"} == set(content["table2"][figure])
        assert {"mean", "sd", "n"} <= set(content["table2"][figure]["prediction"])
    for phrase in ("full", "modality", "idh"):
        assert set(content["table3"][phrase]["T1Gd"]["wild"]) == {"matched", "mismatched"}
    assert set(content["table3"]["retrieval"]) == {"ours", "ldm", "reconstruction", "cohort"}
    assert "follows_mask" in content["prompt_against_mask"]["ours"]
    assert "follows_mask" not in content["prompt_against_mask"]["ldm"], "it was given no mask"
    assert (
        set(content["memorisation"])
        == {"held_out", "ours", "ldm"}
        == set(content["utility"]) - {"cohort"} | {"held_out"}
    )


def test_a_cut_run_goes_on_where_it_was(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    calls = []

    def counted(name, measure, dies=False):
        def measured(*args):
            if dies:
                raise KeyboardInterrupt
            calls.append(name)
            return measure(*args)

        return measured

    whole = dict(evaluation.MEASURES)
    for name, measure in whole.items():
        monkeypatch.setitem(evaluation.MEASURES, name, counted(name, measure, dies=name == "table1"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(setting, output, folder / "draws")
    assert calls == ["table2", "table3", "prompt_against_mask"]
    assert set(json.loads(output.read_text())) >= set(calls)
    for name in SECTIONS:  # what Table 1's sections say was tested above; here only who is called
        monkeypatch.setitem(evaluation.MEASURES, name, counted(name, lambda *_, name=name: {name: content[name]}))
    assert evaluate(setting, output, folder / "draws") == content
    assert calls == list(SECTIONS), "a finished section was measured again, or one was forgotten"


def test_a_finished_report_draws_nothing(setting, report, monkeypatch):
    content, folder = report
    monkeypatch.setattr(evaluation, "draw_all", lambda *_: pytest.fail("drew again"))
    assert evaluate(setting, folder / "evaluation.json", folder / "draws") == content


def test_the_key_changes_with_every_network_that_decides(setting):
    def touched(network) -> dict:
        first = next(network.parameters())
        original = first.detach().clone()
        with torch.no_grad():
            first.add_(1)
            key = setting.key
            first.copy_(original)  # subtracting 1 again would round
        return key

    before, judge = setting.key, setting.judges["tiny"].model
    for name, network in (
        ("judges", judge),
        ("reader", setting.reader.idh),
        ("reader", setting.reader.modality),
        ("features", setting.features.network),
    ):
        after = touched(network)
        assert [part for part in before if after[part] != before[part]] == [name]
    assert json.loads(json.dumps(before)) == before, "a key that JSON changes would never be found again"


def test_other_weights_start_anew(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    other = replace(setting, samplers={"ours": Sampler("z", setting.samplers["ours"].draw)})
    monkeypatch.setattr(evaluation, "draw_all", lambda *_: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        evaluate(other, output, folder / "draws")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samplers": {}}, "at least one sampler"),
        ({"count": 4}, "at least 8 sequences"),
        ({"swaps": 9}, "4 to 8 swaps"),
        ({"references": {"ours": Sampler("a", None)}}, "named both"),
    ],
)
def test_bad_settings_fail_before_anything_is_drawn(setting, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        evaluate(replace(setting, **change), tmp_path / "evaluation.json", tmp_path / "draws")
    assert not list(tmp_path.iterdir())
