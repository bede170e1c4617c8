"""The whole evaluation on a tiny cohort and a model of noise: keys, numbers, and what a second run does not repeat."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrtutor.metrics import evaluation
from mrtutor.metrics import setting as settings
from mrtutor.metrics.clip_score import Scorer, build_scorer
from mrtutor.metrics.draws import Order, Sampler
from mrtutor.metrics.evaluation import SECTIONS, evaluate
from mrtutor.metrics.feature_training import build_network
from mrtutor.metrics.features import Features
from mrtutor.metrics.reader import Reader, build_reader
from mrtutor.metrics.setting import Setting
from mrtutor.models.text import build_tokenizer
from mrtutor.training.batches import cohort_key, recipe_key
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
    cohort = replace(cohort, table=table, manifest=cohort.manifest | {"cases_sha256": "a list of patients"})
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
    assert content["simulated"] is False, "the tiny cohort's slices call themselves otherwise"
    assert np.isfinite(list(numbers(content))).all()
    for column in ("FLAIR", "T1", "T1Gd", "T2", "average"):
        for model in ("ours", "ldm", "reconstruction"):
            assert {"value", "ci95", "n"} <= set(content["table1"]["fid_mr"][model][column])
        assert {"value", "ci95", "n"} <= set(content["floor"]["fid_mr"][column])
    assert set(content["structure"]) == {"ours", "reconstruction", "attainable", "null"}, "the LDM saw no structure"
    for figure in ("ssim", "nmi", "ncc"):
        assert {"gt", "prediction", "random", "ldm", "reconstruction"} == set(content["table2"][figure])
        assert {"mean", "sd", "n"} <= set(content["table2"][figure]["prediction"])
    for phrase in ("full", "modality", "idh"):
        assert set(content["table3"][phrase]["T1Gd"]["wild"]) == {"matched", "mismatched"}
    assert set(content["table3"]["retrieval"]) == {"ours", "ldm", "reconstruction", "cohort"}
    assert "follows_mask" in content["prompt_against_mask"]["ours"]
    assert "follows_mask" not in content["prompt_against_mask"]["ldm"], "it was given no mask"
    assert set(content["memorisation"]) == {"held_out", "ours", "ldm"}
    assert set(content["utility"]) == {"cohort", "few_patients", "ours", "ldm"}, "no validation patients to mix with"


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
    for name in whole:  # what Table 1's sections say was tested above; here only who is called
        parts = (name, "floor") if name == "table1" else (name,)
        known = {part: content[part] for part in parts}
        monkeypatch.setitem(evaluation.MEASURES, name, counted(name, lambda *_, known=known: known))
    assert evaluate(setting, output, folder / "draws") == content
    assert calls == list(whole), "a finished section was measured again, or one was forgotten"


def test_a_finished_report_draws_nothing(setting, report, monkeypatch):
    content, folder = report
    monkeypatch.setattr(evaluation, "draw_all", lambda *_: pytest.fail("drew again"))
    assert evaluate(setting, folder / "evaluation.json", folder / "draws") == content


def drawn_names(monkeypatch) -> list[str]:
    """Filled with the name of every set that is drawn or read from here on."""
    names, draw_set = [], settings.draw_set

    def counted(name, *args, **options):
        names.append(name)
        return draw_set(name, *args, **options)

    monkeypatch.setattr(settings, "draw_set", counted)
    return names


def test_a_model_that_joins_costs_its_own_rows_and_changes_no_other(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    ours = setting.samplers["ours"]
    third = Sampler("d", ours.draw, follows_structure=True)
    more = replace(setting, samplers=setting.samplers | {"variant_A": third})
    names = drawn_names(monkeypatch)
    joined = evaluate(more, output, folder / "draws")
    assert names == ["variant_A", "variant_A"], "own words and swapped ones"
    assert joined == json.loads(output.read_text())
    assert joined["of"] == more.key
    for figure in ("ssim", "nmi", "ncc"):
        assert joined["table2"][figure]["variant_A"] == content["table2"][figure]["prediction"], "the same sampler"
    for section in ("memorisation", "two_sample", "structure"):
        assert joined[section]["variant_A"] == content[section]["ours"]
    assert joined["table1"]["fid_mr"]["variant_A"] == content["table1"]["fid_mr"]["ours"]
    assert joined["table3"]["models"]["variant_A"] == content["table3"]["models"]["ours"]
    assert joined["prompt_against_mask"]["variant_A"] == content["prompt_against_mask"]["ours"]
    assert joined["utility"]["variant_A"] == content["utility"]["ours"]
    names.clear()
    assert evaluate(setting, output, folder / "draws") == joined, "left out this time, it keeps its rows"
    assert not names


def test_other_weights_of_a_baseline_replace_its_rows_alone(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    grey = Sampler("grey", lambda order: near_truth(setting.cohort)(order) * 0.5)
    names = drawn_names(monkeypatch)
    after = evaluate(replace(setting, samplers=setting.samplers | {"ldm": grey}), output, folder / "draws")
    assert names == ["ldm"]
    fd = {name: after["table1"]["fid_mr"][name]["average"] for name in ("ours", "ldm", "reconstruction")}
    assert fd["ldm"] != content["table1"]["fid_mr"]["ldm"]["average"]
    assert fd["ours"] == content["table1"]["fid_mr"]["ours"]["average"]
    assert after["table3"]["full"] == content["table3"]["full"], "of the prediction"


def test_another_prediction_leaves_the_baselines_rows(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    grey = Sampler("grey", lambda order: near_truth(setting.cohort)(order) * 0.5, follows_structure=True)
    names = drawn_names(monkeypatch)
    after = evaluate(replace(setting, samplers={**setting.samplers, "ours": grey}), output, folder / "draws")
    assert names == ["ours", "ours"]
    for figure in ("ssim", "nmi", "ncc"):
        before, now = content["table2"][figure], after["table2"][figure]
        assert now["ldm"] == before["ldm"]
        assert now["prediction"] != before["prediction"]
        assert after["table2"]["closeness"][figure] != content["table2"]["closeness"][figure]
    assert after["table3"]["full"] == after["table3"]["models"]["ours"]["full"] != content["table3"]["full"]
    assert set(after["table1"]["fid_mr"]) == set(content["table1"]["fid_mr"])


def test_another_reader_costs_its_own_section_alone(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    torch.manual_seed(9)
    reader = Reader(build_reader(1, 4).eval(), build_reader(4, 2).eval())
    called = []
    for name, measure in dict(evaluation.MEASURES).items():
        monkeypatch.setitem(
            evaluation.MEASURES, name, lambda *args, name=name, measure=measure: called.append(name) or measure(*args)
        )
    after = evaluate(replace(setting, reader=reader), output, folder / "draws")
    assert called == ["prompt_against_mask"]
    assert {k: v for k, v in after.items() if k not in ("of", "commit", *called)} == {
        k: v for k, v in content.items() if k not in ("of", "commit", *called)
    }


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


def test_another_seed_starts_anew(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    monkeypatch.setattr(evaluation, "draw_all", lambda _, __, missing: (_ for _ in ()).throw(InterruptedError(missing)))
    output.write_text(json.dumps(content))
    with pytest.raises(InterruptedError) as stopped:
        evaluate(replace(setting, seed=1), output, folder / "draws")
    assert set(stopped.value.args[0]) == set(evaluation.MEASURES)
    assert all("ours" in names for names in stopped.value.args[0].values())


def test_a_cohort_that_was_rounded_otherwise_leaves_the_rows_of_models_left_out(setting, report, tmp_path):
    """Another machine, the same patients: who adds a model there need not measure all of ours again."""
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    sums = setting.cohort.manifest["sha256"] | {"slices.npy": "f" * 64}
    rounded = replace(setting.cohort, manifest=setting.cohort.manifest | {"sha256": sums})
    ours = {"ours": setting.samplers["ours"]}
    here = replace(setting, cohort=rounded, samplers=ours)
    after = evaluate(here, output, folder / "draws", ["memorisation"])
    assert after["of"]["samplers"]["ours"].endswith("of cohort ffffffffffff")
    assert after["of"]["samplers"]["ldm"] == content["of"]["samplers"]["ldm"]
    assert after["memorisation"]["ldm"] == content["memorisation"]["ldm"]
    assert "ours" in after["memorisation"] and "ours" not in after["utility"]
    others = replace(rounded, manifest=rounded.manifest | {"cases_sha256": "another list of patients"})
    after = evaluate(replace(here, cohort=others), output, folder / "draws", ["memorisation"])
    assert set(after["memorisation"]) == {"held_out", "ours"} and "utility" not in after, "other patients"
    unnamed = replace(rounded, manifest={"sha256": sums})
    assert recipe_key(unnamed) == cohort_key(unnamed) == "f" * 12, "a cohort that names no cases is known by its pixels"


def test_more_sequences_renew_the_models_at_hand_and_leave_those_left_out_their_n(setting, report, tmp_path):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    ours = {"ours": setting.samplers["ours"]}
    chosen = ["table2", "memorisation"]
    after = evaluate(replace(setting, samplers=ours, count=10), output, folder / "draws", chosen)
    assert after["count"] == after["table2"]["ssim"]["prediction"]["n"] == after["table2"]["ssim"]["gt"]["n"] == 10
    assert after["table2"]["ssim"]["ldm"] == content["table2"]["ssim"]["ldm"], "of 8"
    assert after["memorisation"]["ours"]["near"]["average"]["n"] == 40
    assert after["memorisation"]["ldm"] == content["memorisation"]["ldm"]
    of = cohort_key(setting.cohort)
    assert after["of"]["samplers"]["ours"] == f"a, 10 sequences of cohort {of}"
    assert after["of"]["samplers"]["ldm"] == f"b, 8 sequences of cohort {of}"
    assert "ours" not in after["utility"], "its figures of eight would pass for those of ten"
    assert after["utility"]["ldm"] == content["utility"]["ldm"]


def test_a_section_alone_needs_no_reader_and_leaves_the_others(setting, report, tmp_path, monkeypatch):
    content, folder = report
    output = tmp_path / "evaluation.json"
    output.write_text(json.dumps(content))
    names = drawn_names(monkeypatch)
    third = Sampler("d", setting.samplers["ours"].draw, follows_structure=True)
    more = replace(setting, samplers=setting.samplers | {"variant_A": third}, reader=None)
    after = evaluate(more, output, folder / "draws", ["table2"])
    assert names == ["variant_A"], "no swapped words"
    assert after["table2"]["ssim"]["variant_A"] == content["table2"]["ssim"]["prediction"]
    assert {k: v for k, v in after.items() if k not in ("of", "commit", "table2")} == {
        k: v for k, v in content.items() if k not in ("of", "commit", "table2")
    }
    assert after["of"]["reader"] == content["of"]["reader"], "the reader of the section that was left alone"
    with pytest.raises(ValueError, match="asks the independent reader"):
        evaluate(more, output, folder / "draws")
    with pytest.raises(ValueError, match="Unknown section tabel1: expected one of table2"):
        evaluate(setting, output, folder / "draws", ["tabel1"])
    assert json.loads(output.read_text()) == after


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
