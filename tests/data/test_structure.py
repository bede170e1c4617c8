"""Structure maps: Canny at the paper's thresholds, and a check that lets nothing but a binary map pass."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mrtutor.data.structure import canny, validate_structure


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    picture = np.zeros((256, 256), np.uint8)
    picture[60:200, 80:180] = 180
    return cv2.GaussianBlur(picture, (5, 5), 0) + rng.integers(0, 6, (256, 256)).astype(np.uint8)


@pytest.fixture
def edges(image):
    return canny(image) > 0


def test_is_opencv_at_100_and_200(image):
    assert np.array_equal(canny(image), cv2.Canny(image, 100, 200))
    assert canny(image).dtype == np.uint8
    assert set(np.unique(canny(image))) == {0, 255}


def test_floats_give_the_edges_of_uint8(image):
    for same in (image / 255, (image / 255).astype(np.float32), torch.from_numpy(image), torch.from_numpy(image / 255)):
        assert np.array_equal(canny(same), canny(image))


def test_edges_follow_the_square(edges):
    rows, columns = np.nonzero(edges)
    assert abs(rows.min() - 60) <= 2
    assert abs(columns.max() - 179) <= 2
    assert not edges[100:160, 110:150].any()


def test_thresholds_act(image):
    faint = (image // 5).astype(np.uint8)
    assert not canny(faint).any()
    assert canny(faint, 20, 40).any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 256, 256), np.uint8), "one slice"),
        (np.zeros((256, 256), np.int32), "int32"),
        (np.full((256, 256), np.nan), "NaN"),
        (np.full((256, 256), 1.5), r"\[0, 1\]"),
        (np.full((256, 256), -0.1), r"\[0, 1\]"),
    ],
)
def test_canny_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        canny(bad)


def test_canny_refuses_swapped_thresholds(image):
    with pytest.raises(ValueError, match="swap"):
        canny(image, 200, 100)


def test_every_usual_form_gives_the_same_tensor(edges, tmp_path):
    byte = edges.astype(np.uint8)
    path = tmp_path / "map.png"
    Image.fromarray(byte * 255).save(path)
    expected = torch.from_numpy(edges).float()[None, None]
    forms = [edges, byte, byte * 255, edges.astype(np.float32), edges.astype(np.float64), edges.astype(np.float16)]
    forms += [torch.from_numpy(edges), torch.from_numpy(byte * 255), expected, expected.bfloat16(), expected[0]]
    forms += [Image.fromarray(byte * 255), Image.fromarray(byte * 255).convert("1"), path, str(path)]
    forms += [Image.fromarray(byte * 255).convert("RGB"), Image.fromarray(byte * 255).convert("RGBA")]
    for form in forms:
        tensor = validate_structure(form)
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected)


def test_batches(edges):
    flipped = np.stack([edges, edges[::-1]])
    assert validate_structure(flipped).shape == (2, 1, 256, 256)
    assert torch.equal(validate_structure(flipped[:, None]), validate_structure(flipped))


@pytest.mark.parametrize("shape", [(128, 128), (256,), (256, 256, 3), (2, 3, 256, 256), (0, 256, 256), (256, 255)])
def test_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(256, 256\)"):
        validate_structure(np.ones(shape, np.uint8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((256, 256), 0.5), "binary structure map of 0 and 1"),
        (np.full((256, 256), 255.0), "got also 255"),
        (np.full((256, 256), -1.0), "got also -1"),
        (np.arange(65536).reshape(256, 256).astype(np.uint8), "binary structure map of 0 and 255"),
        (np.full((256, 256), np.nan), "NaN"),
        (np.full((256, 256), np.inf), "NaN or infinity"),
        (np.ones((256, 256), np.int64), "int64"),
        (np.ones((256, 256), complex), "complex"),
        (np.zeros((256, 256), np.uint8), "all empty"),
        (np.zeros((256, 256), bool), "all empty"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        validate_structure(values)


def test_one_empty_map_of_a_batch(edges):
    with pytest.raises(ValueError, match=r"map\(s\) 1 of the batch is all empty"):
        validate_structure(np.stack([edges, np.zeros_like(edges)]))


@pytest.mark.parametrize("thing", [None, [[0, 1], [1, 0]], 7])
def test_wrong_type(thing):
    with pytest.raises(ValueError, match=f"got {type(thing).__name__}"):
        validate_structure(thing)


def test_wrong_files(tmp_path, edges):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        validate_structure(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="Cannot read"):
        validate_structure(tmp_path / "text.png")
    Image.fromarray(edges).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="Cannot read"):
        validate_structure(tmp_path / "half.png")
    Image.new("RGB", (256, 256), (255, 0, 0)).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match="coloured"):
        validate_structure(tmp_path / "red.png")
