"""Why cases were left out of a cohort, counted by kind."""

from collections import Counter
from collections.abc import Iterable, Sequence

OTHER = "other"
KINDS = {  # words of our own messages; the first that fits
    "follow-up of": "follow-up of the same patient",
    "IDH type of": "unknown IDH type",
    " lacks ": "missing file",
    " times (": "doubled file",
    "is doubled": "doubled file",
    "another grid": "other grid",
    "Cannot read": "unreadable file",
    "No tumour label map": "no segmentation",
    "No slice with visible tumour": "no visible tumour",
}


def count_reasons(skipped: Iterable[Sequence[str]]) -> dict[str, int]:
    """Number of skipped cases by kind of reason, the most frequent first.

    Args:
        skipped: (case, reason) as in `mrtutor.data.build.BuildReport` and in ``cohort.json``.
    """
    kinds = Counter(next((kind for word, kind in KINDS.items() if word in reason), OTHER) for _, reason in skipped)
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
