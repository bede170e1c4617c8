"""What a reader asks the studio for, put into the form that the pipeline takes.

No widget here: text and bytes in, sentences and structure maps out.
"""

import io
import re
from itertools import chain

from PIL import Image
from torch import Tensor

from mrtutor.data.structure import SIZE, validate_structure
from mrtutor.vocabulary import MODALITY_ALIASES, MODALITY_PHRASES, Modality, modalities_in

MAX_UPLOAD = 2**20  # bytes; a black-and-white 256 x 256 picture takes a few thousand
FORMATS = ("PNG", "BMP", "TIFF", "GIF")  # those that keep pixels as they are
PLACE = "{modality}"
_NAMES = sorted([*MODALITY_ALIASES, *chain(*MODALITY_PHRASES.values())], key=len, reverse=True)
_NAME = "|".join(re.sub(r"\\?[ -]", "[ -]", re.escape(name)) for name in _NAMES)  # a hyphen is a space
_PLACE = re.compile(rf"{re.escape(PLACE)}|(?<![\w+-])(?i:{_NAME})(?![\w+-])")


def four_sentences(text: str) -> dict[Modality, str]:
    """One sentence per modality: the modality word of `text`, or ``{modality}``, is replaced by each of the four.

    A name of several words, such as T1-weighted, is replaced as a whole.

    Args:
        text: for example ``A T1Gd modality MR image, type of IDH wild glioma``.

    Raises:
        ValueError: no place for the modality, or two different ones, such as ``{modality}`` beside T1.
    """
    text = " ".join(text.split())
    named = {name for place in _PLACE.findall(text) for name in modalities_in(place) or {PLACE}}
    if len(named) != 1:
        found = " and ".join(sorted(named)) or "none"
        raise ValueError(
            f"Expected one modality word ({', '.join(Modality)}) or {PLACE} in the sentence, found {found}: "
            "its place is where the four words are put in turn."
        )
    return {m: _PLACE.sub(m, text) for m in Modality}


def read_upload(content: bytes | memoryview) -> Tensor:
    """Structure map (1, 1, 256, 256) from the bytes of a picture file; nothing is written to disk.

    Raises:
        ValueError: too many bytes, no picture, another size, or what `validate_structure` refuses.
    """
    content = bytes(content)
    if len(content) > MAX_UPLOAD:
        raise ValueError(f"Expected a picture of at most {MAX_UPLOAD} bytes, got {len(content)}: save it as PNG.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.size != (SIZE, SIZE):  # known before the pixels are unpacked
                raise ValueError(
                    f"Expected a picture of {SIZE} x {SIZE} pixels, got {picture.width} x {picture.height}: "
                    "resize it with nearest-neighbour interpolation."
                )
            picture.load()
            return validate_structure(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Cannot read the upload as a picture: expected a whole file of type {', '.join(FORMATS)}, "
            "white lines on black."
        ) from error
