"""Do points of two kinds lie apart? Figure 5 of the paper, with numbers beside the cloud.

Axes: n points · D features · H, W image pixels.

Source: Kim et al., WACV 2024, Fig. 5; Rousseeuw, 1987 (silhouette); van der Maaten & Hinton, JMLR 2008 (t-SNE).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor
from transformers import ResNetForImageClassification

from mrtutor.metrics.intervals import estimate

NEIGHBOURS = 5
_MEAN, _STD, _SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224  # of ImageNet, as ResNet-18 was trained


def separation(features: np.ndarray, labels: list | np.ndarray, groups: list | np.ndarray) -> dict:
    """How far two or more kinds of points lie apart, in all D dimensions (a t-SNE picture can invent clusters).

    Args:
        features: (n, D); each is standardised first.
        labels: (n,) kind of each point.
        groups: (n,) patient of each point; a point's own patient is no neighbour, or it would be recognised.

    Returns:
        {"knn_accuracy": estimate over points by the majority of 5 neighbours, "chance": the same with the
        kinds of the patients shuffled, "silhouette": mean silhouette, from -1 to 1; 0 where the kinds
        lie in one another}.

    Raises:
        ValueError: fewer than two kinds or groups, or counts that do not match.
    """
    features, labels, groups = np.asarray(features, np.float64), np.asarray(labels), np.asarray(groups)
    if features.ndim != 2 or not len(features) == len(labels) == len(groups):
        raise ValueError(
            f"Expected features (n, D) with n labels and groups, got {features.shape}, {len(labels)} and {len(groups)}."
        )
    kinds, coded = np.unique(labels, return_inverse=True)
    if len(kinds) < 2 or len(np.unique(groups)) < 2 or len(features) <= len(kinds):
        raise ValueError(f"Expected two kinds and two patients at least, got kinds {list(kinds)}: take more points.")
    points = _standardised(features)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance[groups[:, None] == groups[None]] = np.inf
    near = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    counts = np.isfinite(np.take_along_axis(distance, near, 1))

    def right(coded: np.ndarray) -> np.ndarray:
        votes = np.stack([((coded[near] == k) & counts).sum(axis=1) for k in range(len(kinds))], axis=1)
        best = votes == votes.max(axis=1, keepdims=True)
        return best[np.arange(len(coded)), coded] / best.sum(axis=1)  # a tie is right by its share

    return {
        "knn_accuracy": estimate(right(coded), groups),
        "chance": float(np.mean([right(other).mean() for other in _shuffled(coded, groups)])),
        "silhouette": float(silhouette_score(points, coded)),
    }


def _shuffled(coded: np.ndarray, groups: np.ndarray, times: int = 200) -> Iterator[np.ndarray]:
    """The kinds (n,) dealt out anew, as they might lie if features said nothing of them.

    Whole patients change their kind, where each has one; else the points of each patient. Below one half for two kinds:
    with a patient's own points left out, the others are less often of his kind.
    """
    rng, (_, first, of) = np.random.default_rng(0), np.unique(groups, return_index=True, return_inverse=True)
    by_patient = np.argsort(of, kind="stable")
    for _ in range(times):
        if np.array_equal(coded[first][of], coded):
            yield rng.permutation(coded[first])[of]
        else:  # a patient of several kinds
            dealt = np.empty_like(coded)
            dealt[by_patient] = coded[np.lexsort((rng.random(len(of)), of))]
            yield dealt


def _standardised(features: np.ndarray) -> np.ndarray:
    return (features - features.mean(axis=0)) / features.std(axis=0).clip(1e-9)


def tsne(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, D) -> (n, 2) for a picture: neighbours stay neighbours, distances and sizes of clusters mean nothing.

    Raises:
        ValueError: fewer than four points.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 4:
        raise ValueError(f"Expected features (n, D) of four points at least, got {features.shape}: take more points.")
    perplexity = min(30.0, (len(features) - 1) / 3)
    embedding = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(_standardised(features))
    return embedding.astype(np.float64)


def resnet_features(folder: str | Path) -> Callable[[Tensor], Tensor]:
    """The paper's features: the 1,000 outputs of ResNet-18, from a folder as the hub has it (microsoft/resnet-18).

    Returns:
        a function (B, H, W) in [0, 1] -> (B, 1000) float32; grey is repeated to three channels.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder without a ResNet or without its classifier.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"No ResNet in {folder}: expected config.json and the weights, as on the hub.")
    try:
        network, report = ResNetForImageClassification.from_pretrained(
            folder, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no ResNet that can be read: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{folder} lacks {missing[0]} and {len(missing) - 1} more weights: no ResNet with classifier.")
    network.eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        small = F.interpolate(images[:, None].float(), (_SIDE, _SIDE), mode="bilinear", antialias=True)
        return network((small.expand(-1, 3, -1, -1) - mean) / std).logits

    return features
