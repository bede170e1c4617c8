"""Rows of a report: a model's figures stand under its name, at whatever depth, so that models can come and go."""

from collections.abc import Collection


def named(report: object, names: Collection[str]) -> set[str]:
    """Which of `names` have a row somewhere in nested dicts."""
    if not isinstance(report, dict):
        return set()
    return set(names) & report.keys() | {name for part in report.values() for name in named(part, names)}


def without(report: object, names: Collection[str]) -> object:
    """Copy of nested dicts without the rows of `names`."""
    if not isinstance(report, dict):
        return report
    return {key: without(part, names) for key, part in report.items() if key not in names}


def joined(old: dict, new: dict) -> dict:
    """Both reports in one, nested dicts joined; what both have (the cohort's figures) is as `new` has it."""
    both = dict(old)
    for key, part in new.items():
        nested = isinstance(part, dict) and isinstance(old.get(key), dict)
        both[key] = joined(old[key], part) if nested else part
    return both
