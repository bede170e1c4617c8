"""Training, validation and test patients: 80/10/10, stratified by IDH type, fixed by a hash of the subject id."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of the patients of each IDH type in validation, and again in test


def split_patients(idh: Mapping[str, str]) -> dict[str, str]:
    """Split of each patient.

    The patients of each IDH type are ranked by the SHA-256 of their id: the first 80 % are for training, the next
    10 % for validation, the rest for test. With three patients of a type or more, each split gets at least one.

    Args:
        idh: IDH type by subject id.

    Returns:
        "train", "validation" or "test" by subject id, in the order given.
    """
    by_type = defaultdict(list)
    for subject_id, kind in idh.items():
        by_type[kind].append(subject_id)
    split = {}
    for members in by_type.values():
        members.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        held_out = max(1, round(HELD_OUT * len(members))) if len(members) >= 3 else 0
        train = len(members) - 2 * held_out
        for rank, subject_id in enumerate(members):
            split[subject_id] = SPLITS[0 if rank < train else 1 if rank < train + held_out else 2]
    return {subject_id: split[subject_id] for subject_id in idh}
