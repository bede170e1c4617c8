"""Table 1 on a tiny cohort with features that a test can understand: the form of the answers, and their order."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mrtutor.data.cohort import Cohort
from mrtutor.metrics import table1, utility
from mrtutor.metrics.draws import orders
from mrtutor.metrics.features import Features
from mrtutor.metrics.generation import of_another
from mrtutor.metrics.intervals import ratio
from mrtutor.metrics.nulls import NULLS, noisy
from mrtutor.vocabulary import Modality
from tests.cohorts import write_tiny_cohort

COLUMNS = {*map(str, Modality), "average"}


class Patches(nn.Module):
    """Mean and spread of 2 x 2 blocks, (B, 1, 256, 256) -> (B, 8, 1, 1): brightness and roughness."""

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        steps = images.diff(dim=-1).abs()
        pooled = [nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) for x in (images, 5 * steps)]
        return SimpleNamespace(pooler_output=torch.cat(pooled, dim=1)[..., None, None])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_tiny_cohort(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def features() -> Features:
    return Features(Patches())


@pytest.fixture(scope="module")
def rows(cohort: Cohort) -> np.ndarray:
    return np.resize(cohort.rows("test"), 6)  # four slices of two patients; two come twice


def test_image_quality(cohort: Cohort, features: Features, rows: np.ndarray) -> None:
    real = np.asarray(cohort.images[rows])
    sets = {"good": noisy(real, sd=0.004), "bad": noisy(real, sd=0.2)}
    report = table1.image_quality(sets, cohort, features, rows=rows, resamples=20)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for key in ("fid_mr", "kid_mr"):
        assert set(report[key]) == {"good", "bad", *NULLS}
        assert all(set(row) == COLUMNS for row in [*report[key].values(), report["floor"][key]])
        value = {name: row["average"]["value"] for name, row in report[key].items()}
        assert value["good"] < value["bad"]
        assert report["floor"][key]["average"]["value"] < min(value["wrong modality"], value["noisy real"])
        low, high = report[key]["good"]["average"]["ci95"]
        assert low <= value["good"] <= high
    assert report["fid_mr"]["good"]["T1"]["n"] == 6 and report["fid_mr"]["good"]["average"]["n"] == 24
    assert report["floor"]["fid_mr"]["T1"]["n"] == 4, "the floor has the slices that the structures are of, each once"
    assert report["reference_n"] == len(cohort.rows("train"))


def test_a_copier_beats_the_floor_and_is_caught_by_its_distances(
    cohort: Cohort, features: Features, rows: np.ndarray
) -> None:
    train = cohort.rows("train")
    copied = train[np.linspace(0, len(train) - 1, len(rows)).astype(int)]
    sets = {"copier": np.asarray(cohort.images[copied]), "honest": noisy(np.asarray(cohort.images[rows]), 0.01)}
    quality = table1.image_quality(sets, cohort, features, rows=rows, resamples=5)
    assert quality["kid_mr"]["copier"]["average"]["value"] < quality["kid_mr"]["honest"]["average"]["value"]
    report = table1.memorisation(sets, rows, cohort, pairs=2)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == {"held_out", *sets}
    assert report["copier"]["distance"]["average"]["value"] < 1e-3 < report["honest"]["distance"]["average"]["value"]
    assert report["copier"]["near"]["average"]["value"] == 1
    first = report["copier"]["closest"]["T2"][0]
    assert first["row"] == copied[first["query"]] and first["distance"] < 1e-3
    assert set(report["held_out"]["closest"]["T1"][0]) == {"query", "row", "distance"}
    assert report["held_out"]["closest"]["T1"][0]["query"] in rows


def test_structure_is_1_for_pictures_with_the_very_edges(cohort: Cohort, rows: np.ndarray) -> None:
    wanted = orders(cohort, rows, seed=3)
    source = [np.asarray(cohort.images[o.row, list(Modality).index(o.edges_of)]) for o in wanted]
    sets = {"faithful": np.stack([np.stack([image] * 4) for image in source])}
    sets |= {"deaf": np.roll(sets["faithful"], len(rows) // 2, axis=0), "real": np.asarray(cohort.images[rows])}
    report = table1.structure(sets, rows, cohort, seed=3)
    value = {name: entry["value"] for name, entry in report.items()}
    assert value["faithful"] == 1 and report["faithful"]["n"] == len(rows)
    assert value["deaf"] < 0.9 and value["null"] < 0.9
    assert report["real"] == report["attainable"]


def test_the_null_of_the_structure_is_another_patients() -> None:
    patients = np.array(["a", "b", "c", "a", "b", "c"])  # half the set further on is the same patient again
    other = of_another(patients)
    assert (patients[other] != patients).all() and len(set(other)) == len(patients)
    with pytest.raises(ValueError, match="two patients"):
        of_another(np.array(["a", "a"]))


def test_two_sample(cohort: Cohort, features: Features, rows: np.ndarray) -> None:
    sets = {"same": np.asarray(cohort.images[rows]), "bad": noisy(np.asarray(cohort.images[rows]), sd=0.2)}
    report = table1.two_sample(sets, rows, cohort, features, steps=8)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == {"same", "bad", "cohort"} and set(report["bad"]) == {"features", "pixels"}
    assert report["bad"]["features"]["value"] > 0.9
    assert report["same"]["features"]["value"] == 0.5, "the very same slices cannot be told apart"
    assert report["same"]["pixels"]["value"] == 0.5
    assert report["bad"]["pixels"]["n"] == 2 * 4 * len(np.unique(rows))


def test_utility(cohort: Cohort, rows: np.ndarray) -> None:
    report = utility.utility({"real": np.asarray(cohort.images[rows])}, rows, cohort, steps=2, repeats=2)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report) == {"cohort", "real", "more_patients", "few_patients"}
    assert report["cohort"]["n"] == len(cohort.rows("test"))
    assert set(report["real"]) == {f"{kind}{of}" for kind in ("synthetic", "both", "with_few") for of in ("", "_ratio")}
    assert set(report["more_patients"]) == {"both", "both_ratio"}
    for kind, base in {"both": "cohort", "with_few": "few_patients"}.items():
        over = report["real"][kind]["value"] / report[base]["value"]
        assert report["real"][f"{kind}_ratio"]["value"] == pytest.approx(over)
    for arm in (report["cohort"], report["few_patients"], report["real"]["both"]):
        assert len(set(arm["by_seed"])) == 2, "two seeds, one segmenter"
        assert arm["value"] == pytest.approx(np.mean(arm["by_seed"]))


def test_no_patient_teaches_and_judges(cohort: Cohort, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[set[bytes]] = []

    def train(images: np.ndarray, masks: np.ndarray, **_: int) -> set[bytes]:
        taught.append({m.tobytes() for m in masks})
        return taught[-1]

    def judge(model: set[bytes], images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        assert not model & {m.tobytes() for m in masks}, "a mask was seen in training"
        return np.ones(len(images))

    monkeypatch.setattr(utility, "train_segmenter", train)
    monkeypatch.setattr(utility, "dice", judge)
    report = utility.utility({"a": np.asarray(cohort.images[rows])}, rows, cohort, repeats=1)
    assert len(taught) == 12 and report["a"]["both_ratio"]["value"] == 1
    more = {m.tobytes() for m in np.asarray(cohort.masks[cohort.rows("validation")])}
    others = [False, False, True, False, False, False] * 2
    assert [more <= masks for masks in taught] == others, "true slices of other patients"


def test_few_patients_are_few_and_change_with_the_repeat(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(24)  # of twelve patients
    monkeypatch.setattr(Cohort, "rows", lambda self, split: rows if split == "test" else rows[:0])
    people, masks = cohort.table["subject_id"].to_numpy(), np.asarray(cohort.masks)
    owner = {masks[row].tobytes(): people[row] for row in rows}
    taught: list[set[str]] = []
    monkeypatch.setattr(
        utility, "train_segmenter", lambda images, masks, **_: taught.append({owner[m.tobytes()] for m in masks})
    )
    monkeypatch.setattr(utility, "dice", lambda model, images, masks: np.ones(len(images)))
    utility.utility({"a": np.asarray(cohort.images[rows])}, rows, cohort, repeats=3)
    whole, few, mixed = taught[0::5], taught[1::5], taught[4::5]
    assert {len(names) for names in whole} == {6} and {len(names) for names in few} == {utility.FEW}
    assert len(set.union(*few[:3])) > utility.FEW, "three repeats, always the same patients"
    assert all(rare < every for rare, every in zip(few, whole, strict=True)) and mixed == whole


def test_ratio_by_hand() -> None:
    got = ratio(np.array([0.4, 0.8, 0.6]), np.array([0.5, 1.0, 0.75]), np.array(["a", "a", "b"]))
    assert got["value"] == pytest.approx(0.8) and got["ci95"] == pytest.approx([0.8, 0.8]) and got["n"] == 3


def test_errors(cohort: Cohort, features: Features, rows: np.ndarray) -> None:
    real = np.asarray(cohort.images[rows])
    for wrong in (real / 255, real[:1], real[:, :3]):
        with pytest.raises(ValueError, match="at least two sequences"):
            table1.image_quality({"x": wrong}, cohort, features)
        with pytest.raises(ValueError, match="at least two sequences"):
            table1.memorisation({"x": wrong}, rows, cohort)
    with pytest.raises(ValueError, match="row of the cohort for each"):
        utility.utility({"x": real}, rows[:3], cohort)
    with pytest.raises(ValueError, match="row of the cohort for each"):
        table1.two_sample({"x": real}, rows[:3], cohort, features)
