"""Nothing but the picture tells where it is from."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mrtutor.data.examples import example_names, examples_cohort
from mrtutor.study.pictures import FLOOR, RIM, brain_support, clean, encode, served
from tests.study.pools import brain


def plain_png(image: np.ndarray) -> bytes:
    """What one would serve without a thought."""
    return cv2.imencode(".png", image)[1].tobytes()


def traces(png: bytes) -> np.ndarray:
    """All that a look at file and background gives: bytes, header, trailer, background."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).astype(float)
    assert image.shape == (256, 256)
    frame = np.concatenate([image[:20].ravel(), image[-20:].ravel(), image[:, :20].ravel(), image[:, -20:].ravel()])
    dim = image[image < 5]
    background = [frame.mean(), frame.max(), frame.std(), dim.mean(), dim.std(), (image == 0).mean() > 0]
    return np.array([len(png), *png[:41], *png[-12:], *background], float)


def guessed(encoded: list[bytes], truth: list[int]) -> float:
    """Accuracy of a trivial classifier, cross-validated."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    return float(cross_val_score(model, np.stack([traces(png) for png in encoded]), truth, cv=5).mean())


def painted() -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(0)
    truth = [i % 2 for i in range(60)]
    return [brain(rng, real=bool(t)) for t in truth], truth


def decoded() -> tuple[list[np.ndarray], list[int]]:
    """Shipped slices, and the same as the shipped autoencoder gives them back: a true decoder's traces."""
    import torch

    from mrtutor.models.autoencoder import decode, encode
    from mrtutor.sampling.pretrained import load_pretrained

    slices = examples_cohort().images.reshape(-1, 1, 256, 256)
    autoencoder = load_pretrained("laptop").autoencoder
    with torch.no_grad():
        images = torch.from_numpy(slices).float() / 127.5 - 1
        back = torch.cat([decode(autoencoder, encode(autoencoder, some)) for some in images.split(8)])
    back = ((back[:, 0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return [*slices[:, 0], *back], [1] * len(slices) + [0] * len(slices)


@pytest.mark.parametrize(
    "source", [painted, pytest.param(decoded, marks=pytest.mark.skipif(not example_names(), reason="no data/examples"))]
)
def test_headers_sizes_and_background_tell_nothing(source) -> None:
    images, truth = source()
    assert guessed([plain_png(i) for i in images], truth) > 0.9, "the test has no teeth: plain PNGs must give it away"
    assert guessed([served(i) for i in images], truth) <= 0.6


def test_every_served_picture_has_the_same_bytes_around_its_pixels() -> None:
    rng = np.random.default_rng(1)
    one, other = served(brain(rng, real=True)), served(brain(rng, real=False))
    assert len(one) == len(other) == len(served(np.zeros((256, 256), np.uint8)))
    assert one[:41] == other[:41] and one[-12:] == other[-12:]  # signature, IHDR, start of IDAT; IEND
    kinds = [kind for kind in (b"tEXt", b"iTXt", b"zTXt", b"tIME", b"gAMA", b"pHYs", b"eXIf", b"iCCP") if kind in one]
    assert not kinds


def test_a_viewer_reads_back_the_pixels() -> None:
    image = np.random.default_rng(2).integers(0, 256, (256, 256)).astype(np.uint8)
    assert (cv2.imdecode(np.frombuffer(encode(image), np.uint8), cv2.IMREAD_UNCHANGED) == image).all()


def test_clean_makes_the_background_exactly_0_and_keeps_the_brain() -> None:
    image = brain(np.random.default_rng(3), real=False)
    support, cleaned = brain_support(image), clean(image)
    assert image[0, 0] < 4 and image[~support].any() and not cleaned[~support].any()
    assert (cleaned[support] == np.maximum(image[support], FLOOR)).all() and cleaned[support].min() >= FLOOR


def test_holes_are_filled_specks_dropped_and_the_rim_taken_off() -> None:
    image = np.zeros((256, 256), np.uint8)
    cv2.circle(image, (128, 128), 60, 200, -1)
    cv2.circle(image, (128, 128), 10, 0, -1)  # a black ventricle
    alone = brain_support(image)
    image[:6, :6] = 255  # a speck far away
    support = brain_support(image)
    assert support[128, 128] and not support[:6, :6].any() and (support == alone).all()
    disc = np.zeros((256, 256), np.uint8)
    cv2.circle(disc, (128, 128), 60, 1, -1)
    opened = cv2.morphologyEx(disc, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0
    assert (support == binary_erosion(opened, iterations=RIM)).all()


def test_an_empty_picture_stays_empty() -> None:
    assert not clean(np.zeros((256, 256), np.uint8)).any()


@pytest.mark.parametrize("bad", [np.zeros((256, 256)), np.zeros((2, 256, 256), np.uint8)])
def test_other_forms_are_refused(bad: np.ndarray) -> None:
    for task in (clean, encode, served):
        with pytest.raises(ValueError, match="Expected one slice"):
            task(bad)
