"""What a reader asks for: sentences with one place for the modality, uploads that are black and white."""

import io

import numpy as np
import pytest
from PIL import Image

from mrtutor.ui.request import four_sentences, read_upload
from mrtutor.vocabulary import Modality

GREY = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint8)
MASK = np.where(np.eye(256), 255, 0).astype(np.uint8)


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("{modality} of a wild glioma", "FLAIR of a wild glioma"),
        ("A T1ce image;  T1c+, again", "A FLAIR image; FLAIR, again"),
        ("T1-post MR", "FLAIR MR"),
        ("(T2) image", "(FLAIR) image"),
        ("t1-weighted image of a glioma", "FLAIR image of a glioma"),
        ("T1-Gd, that is contrast-enhanced T1", "FLAIR, that is FLAIR"),
    ],
)
def test_four_sentences(text, first):
    sentences = four_sentences(text)
    assert list(sentences) == list(Modality) and sentences[Modality.FLAIR] == first


@pytest.mark.parametrize(
    "text", ["", "a brain", "T1 and T2", "T10 image", "XT1", "T1-weighted and T2", "{modality} and T1 picture"]
)
def test_a_sentence_without_a_place_is_refused(text):
    with pytest.raises(ValueError, match="modality word"):
        four_sentences(text)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_read_upload_takes_every_black_and_white_png(mode):
    read = read_upload(png(MASK, mode))
    assert read.shape == (1, 1, 256, 256) and np.array_equal(read[0, 0].numpy() > 0, MASK > 0)
