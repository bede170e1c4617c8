"""The study end to end with a tiny pipeline, its report from figures made by hand, and its way to go on."""

import json

import numpy as np
import pytest
import torch

from mrtutor.metrics import attention_study as study
from mrtutor.metrics import interventions
from mrtutor.metrics.attention_case import EDGES, NONSENSE, PERMUTED, PLACE, WORDS, make_case, shuffled, word_maps
from mrtutor.metrics.attention_report import report
from mrtutor.metrics.interventions import INTERVENTIONS, change, draw, intervene
from mrtutor.metrics.localisation import prevalence
from mrtutor.sampling.attention import trace_attention
from mrtutor.vocabulary import IDH, Modality, prompt
from tests.cohorts import write_tiny_cohort
from tests.tiny_pipelines import build


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def pipe():
    made = build("D", steps=1)
    made.precision = torch.float32
    made.set_progress_bar_config(disable=True)
    return made


def brightness(images):
    """Features of a map: means of 16 patches."""
    return torch.nn.functional.adaptive_avg_pool2d(images[:, None], 4).flatten(1)


@pytest.fixture(scope="module")
def done(cohort, pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    options = {"steps": 1, "features": brightness, "output": folder / "report.json", "cases_folder": folder / "cases"}
    return study.attention_study(pipe, cohort, 4, **options), folder, options


def test_the_report_is_complete(done):
    found, folder, _ = done
    assert found == json.loads((folder / "report.json").read_text())
    assert found["n"] == 4 and found["simulated"] is False and list(found["words"]) == list(WORDS)
    assert set(found["nulls"]) == {PERMUTED, NONSENSE, EDGES, PLACE}
    assert set(found["causal"]) == set(INTERVENTIONS) and found["causal"]["other type"]["inside"]["n"] == 1
    assert len(found["layers"]) == 7 and set(found["modalities"]) == set(Modality)
    assert found["claim"]["p"] == max(row["p"] for row in found["nulls"].values())
    assert set(found["separation"]) == set(found["tsne"]) - {"idh"} == {"glioma", "(type)", "images"}
    assert all(len(table) == 4 for table in found["separation"].values())


def test_figures_are_what_the_maps_say(done, cohort, pipe):
    """One case measured once more, by hand."""
    _, folder, _ = done
    case = study.study_cases(cohort, 4)[0]
    stored = json.loads(next(folder.glob(f"cases/*/{case.name}.json")).read_text())
    with trace_attention(pipe) as trace:
        draw(pipe, [prompt(m, case.idh) for m in Modality], case.structure, case.seed, num_inference_steps=1)
    scores = trace.heat_map("glioma").numpy()
    inside = scores[case.brain & case.mask].max() >= scores[case.brain].max()
    assert stored["words"]["glioma"]["pointing"] == float(inside)
    assert stored["prevalence"] == pytest.approx(case.mask[case.brain].mean()) == prevalence(case.mask, case.brain)
    assert set(word_maps(trace, case.idh)) == set(WORDS)


def test_it_goes_on_where_it_was(done, cohort, pipe, monkeypatch):
    _, folder, options = done
    lost = sorted(folder.glob("cases/*/*.json"))[1]
    lost.unlink()
    measured = []
    monkeypatch.setattr(study, "measure_case", lambda _p, case, *a, **k: measured.append(case.name) or _old(lost))
    _old = lambda path: json.loads(next(p for p in path.parent.glob("*.json")).read_text())  # noqa: E731
    study.attention_study(pipe, cohort, 4, **options)
    assert measured == [lost.stem], "only what was missing is measured"
    study.attention_study(pipe, cohort, 2, **options)
    assert len(measured) == 1, "a smaller study is the beginning of the larger one"
    study.attention_study(pipe, cohort, 2, **options | {"seed": 1})
    assert len(measured) == 3, "another seed is another study"


def test_cases_are_balanced_and_held_out(cohort):
    cases = study.study_cases(cohort, 4)
    assert [c.idh for c in cases] == [IDH.MUTANT, IDH.WILD] * 2
    for case in cases:
        about = cohort.table.iloc[case.number]
        assert about["split"] == "test" and about["subject_id"] == case.patient and about["idh"] == case.idh
        assert np.array_equal(case.structure, cohort.structure(case.number, list(Modality)[case.number % 4]) > 0)
    for count in (0, 1, 500):
        with pytest.raises(ValueError, match="half of either type"):
            study.study_cases(cohort, count)


def test_rivals_find_what_they_should(cohort):
    rivals, sigma = study.fit_rivals(cohort)
    case = study.study_cases(cohort, 2)[0]
    maps = rivals(case)
    assert sigma in study.SIGMAS and set(maps) == {EDGES, PLACE}
    assert maps[EDGES].sum() == pytest.approx(case.structure.sum(), rel=0.02), "a blur moves, and does not add"
    assert 0 <= maps[PLACE].min() and 0 < maps[PLACE].max() <= 1


def test_shuffled_sentences():
    sentences = [prompt(m, "wild") for m in Modality]
    for seed in range(20):
        mixed, last = shuffled(sentences, seed)
        for sentence, new, word in zip(sentences, mixed, last, strict=True):
            assert sorted(new.split()) == sorted(sentence.replace(",", "").split())
            assert new.split()[-1] == word != "glioma"
        assert len({s.split().index("glioma") for s in mixed}) == 1, "one order for all"
    with pytest.raises(ValueError, match="as many words"):
        shuffled(["a b", "a"], 0)


def by_hand(effect, n=40):
    """Cases in which the map's AUPRC is `effect` above each null's."""
    rng, cases = np.random.default_rng(0), []
    for i in range(n):
        null = {name: 0.1 + 0.01 * rng.random() for name in ("auprc", "pointing", "iou")}
        word = {name: value + effect + 0.05 * rng.normal() for name, value in null.items()}
        cases.append(
            {"patient": str(i // 2), "idh": "wild" if i % 4 < 2 else "mutant", "prevalence": 0.1}
            | {"words": {"glioma": word}, "layers": {"up": word["auprc"]}, "modalities": {"T1": word["auprc"]}}
            | {"nulls": {"a": null, "b": null}}
        )
    return cases


def test_a_claim_that_holds_and_two_that_do_not():
    found = report(by_hand(0.3))
    assert found["claim"]["holds"] and found["claim"]["ratio"] == pytest.approx(4.05, abs=0.2)
    assert found["nulls"]["a"]["difference"]["value"] == pytest.approx(0.3, abs=0.03)
    assert found["patients"] == 20 and found["causal"] == found["elsewhere"] == {}
    weak = report(by_hand(0.1))["claim"]
    assert weak["above_all_nulls"] and not weak["at_least_3_times"] and not weak["holds"]
    none = report(by_hand(0.0))["claim"]
    assert not none["above_all_nulls"] and none["p"] > 0.01
    with pytest.raises(ValueError, match="No case"):
        report([])


def test_interventions_share_noise_and_structure(pipe, cohort):
    case = study.study_cases(cohort, 2)[0]
    made = intervene(pipe, case.idh, case.structure, 3, num_inference_steps=1)
    assert set(made) == {"as it is", *INTERVENTIONS}
    plain = draw(pipe, [prompt(m, case.idh) for m in Modality], case.structure, 3, num_inference_steps=1)
    assert np.allclose(made["as it is"], plain, atol=1e-4)
    for name in INTERVENTIONS:
        assert made[name].shape == (4, 256, 256)
        assert not np.allclose(made[name], made["as it is"], atol=1e-6), name


def test_interventions_are_not_drowned_by_rounding(pipe, cohort, monkeypatch):
    case, used, own = study.study_cases(cohort, 2)[0], [], pipe.precision
    monkeypatch.setattr(
        interventions, "draw", lambda pipe, *_, **__: used.append(pipe.precision) or np.zeros((8, 2, 2))
    )
    pipe.precision = torch.bfloat16
    intervene(pipe, case.idh, case.structure)
    assert set(used) == {torch.float32} and pipe.precision is torch.bfloat16
    with pytest.raises(KeyError), interventions.in_float32(pipe):
        raise KeyError
    assert pipe.precision is torch.bfloat16, "not put back after an error"
    pipe.precision = own


def test_change_by_hand():
    before, after = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    after[:, :2] = 0.5
    tumour, brain = np.zeros((4, 4)), np.ones((4, 4))
    tumour[0] = 2
    assert change(after, before, tumour, brain) == pytest.approx({"inside": 0.5, "outside": 0.5 / 3})
    with pytest.raises(ValueError, match="tumour"):
        change(after, before, brain, brain)


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        study.main(["--pipeline", "smoke", "--cohort", str(tmp_path / "none")])
    assert left.value.code == 2 and "Not possible" in capsys.readouterr().err


def test_edges_of_a_case(cohort):
    images = cohort.images[0].astype(np.float32) / 255
    for number in range(4):
        case = make_case(images, cohort.masks[0], "mut", "P", number)
        assert np.array_equal(case.structure, cohort.structure(0, list(Modality)[number]) > 0)
        assert case.idh is IDH.MUTANT and case.name == f"P-0000{number}"
