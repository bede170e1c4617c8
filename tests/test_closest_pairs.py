"""The pairs shown are those of the report: their distance, measured anew, is the stored one."""

from pathlib import Path

import pytest
import torch

from mrtutor.metrics import table1
from mrtutor.metrics.draws import Order, Sampler, draw_set, held_out_rows
from mrtutor.metrics.memorisation import nearest_distance
from mrtutor.training.batches import cohort_key
from mrtutor.vocabulary import Modality
from tests.cohorts import write_tiny_cohort
from tools.closest_pairs import closest, draw


def test_the_pairs_are_those_of_the_report(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "tiny")

    def slices(order: Order) -> torch.Tensor:
        return torch.from_numpy(cohort.images[order.row] / 255).float().roll(order.seed % 5, dims=-1)

    sampler, rows = Sampler("a, b", slices), held_out_rows(cohort, 6)
    images = draw_set("model", sampler, cohort, rows, tmp_path / "draws", 3).images
    report = {"seed": 3, "memorisation": table1.memorisation({"model": images}, rows, cohort)}
    report["of"] = {"samplers": {"model": f"a, b, 6 sequences of cohort {cohort_key(cohort)}"}}
    pairs = closest(report, cohort, tmp_path / "draws", Modality.T2)
    assert list(pairs) == ["held_out", "model"]
    for picture, nearest, distance in pairs.values():
        assert nearest_distance(picture[None], nearest[None])[0] == pytest.approx(distance, abs=1e-6)
    draw(pairs, Modality.T2, tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 10_000


def test_sequences_of_another_model_are_not_taken(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "tiny")
    found = {"closest": {"T2": [{"query": 0, "row": 0, "distance": 0.1}]}, "near": {"T2": {"n": 2}}}
    report = {"seed": 0, "memorisation": {"model": found}, "of": {"samplers": {"model": "k, 2 sequences of cohort c"}}}
    with pytest.raises(FileNotFoundError, match="lacks sequences of model k"):
        closest(report, cohort, tmp_path, Modality.T2)
