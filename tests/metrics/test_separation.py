"""Clouds that lie apart or in one another, and a ResNet from a folder."""

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from mrtutor.metrics.separation import resnet_features, separation, tsne

RNG = np.random.default_rng(0)
KINDS, PATIENTS = np.tile(["mutant", "wild"], 30), np.repeat(np.arange(20), 3)


def cloud(gap):
    points = RNG.normal(size=(60, 8))
    points[KINDS == "wild"] += gap
    return points


def test_apart_and_mixed():
    apart, mixed = separation(cloud(5), KINDS, PATIENTS), separation(cloud(0), KINDS, PATIENTS)
    assert apart["knn_accuracy"]["value"] == 1 and apart["silhouette"] > 0.5
    assert abs(mixed["knn_accuracy"]["value"] - 0.5) < 0.2 and abs(mixed["silhouette"]) < 0.1
    assert apart["chance"] == pytest.approx(0.5, abs=0.03) and apart["knn_accuracy"]["n"] == 60


def test_chance_is_what_leaving_a_patient_out_leaves():
    """Of four patients, two of each kind, the three others are one of his kind and two of the other."""
    features, people = RNG.normal(size=(40, 8)), np.repeat(np.arange(4), 10)
    assert separation(features, np.array(["mutant", "wild"])[people % 2], people)["chance"] < 0.42
    both = separation(features, np.tile(["mutant", "wild"], 20), people)  # each patient under both words
    assert both["chance"] == pytest.approx(0.5, abs=0.05)


def test_a_patient_is_not_his_own_neighbour():
    """Each patient a tight cluster of one kind in a random place: recognising him is not telling the kind."""
    people = np.repeat(np.arange(20), 7)
    points = (RNG.normal(size=(20, 8)) * 10)[people] + RNG.normal(size=(140, 8)) * 0.01
    kinds = np.where(RNG.permutation(20) < 10, "a", "b")[people]
    assert separation(points, kinds, people)["knn_accuracy"]["value"] < 0.8
    assert separation(points, kinds, np.arange(140))["knn_accuracy"]["value"] == 1.0


def test_scale_of_a_feature_does_not_count():
    points = cloud(1)
    scaled = points * np.array([1e3, 1, 1, 1e-3, 1, 1, 1, 1]) + 7
    assert separation(points, KINDS, PATIENTS)["silhouette"] == pytest.approx(
        separation(scaled, KINDS, PATIENTS)["silhouette"]
    )


@pytest.mark.parametrize(
    ("features", "kinds", "groups"),
    [
        (np.ones((3, 2)), ["a", "a", "a"], [1, 2, 3]),
        (np.ones((3, 2)), ["a", "b", "b"], [1, 1, 1]),
        (np.ones((3, 2)), ["a", "b"], [1, 2]),
        (np.ones(3), ["a", "b", "b"], [1, 2, 3]),
    ],
)
def test_what_cannot_be_told_apart(features, kinds, groups):
    with pytest.raises(ValueError, match="Expected"):
        separation(features, kinds, groups)


def test_tsne_keeps_clusters_and_repeats():
    points = cloud(8)
    first = tsne(points)
    assert first.shape == (60, 2) and np.array_equal(first, tsne(points))
    assert separation(first, KINDS, PATIENTS)["knn_accuracy"]["value"] > 0.95
    assert tsne(points[:4]).shape == (4, 2)
    with pytest.raises(ValueError, match="four points"):
        tsne(points[:3])


def test_resnet_from_a_folder(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic", num_labels=1000)
    torch.manual_seed(0)
    network = ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "whole")
    features = resnet_features(tmp_path / "whole")
    images = torch.rand(2, 256, 256)
    assert features(images).shape == (2, 1000) and not torch.equal(*features(images))
    flat = torch.full((1, 256, 256), 0.5)
    rgb = torch.stack([(flat[0, :224, :224] - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))])
    with torch.no_grad():
        assert torch.allclose(features(flat), network(rgb[None]).logits, atol=1e-5)
    ResNetModel(config).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="classifier"):
        resnet_features(tmp_path / "headless")
    with pytest.raises(FileNotFoundError, match="No ResNet"):
        resnet_features(tmp_path / "none")
