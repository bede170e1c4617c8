"""Rows of nested reports: found, taken out, joined."""

from mrtutor.metrics.rows import joined, named, without

REPORT = {"a": {"ours": 1, "ldm": {"x": 2}}, "b": [{"ldm": 3}], "c": 4}


def test_rows_are_found_at_any_depth_of_dicts():
    assert named(REPORT, ["ours", "ldm", "gan"]) == {"ours", "ldm"}
    assert named({"z": REPORT}, ["gan"]) == set() == named(3, ["ours"])


def test_without_takes_rows_out_of_a_copy():
    assert without(REPORT, {"ldm"}) == {"a": {"ours": 1}, "b": [{"ldm": 3}], "c": 4}
    assert "ldm" in REPORT["a"]


def test_joined_adds_what_is_new_and_replaces_what_was_measured_again():
    new = {"a": {"gan": 5, "ours": 9}, "c": {"d": 1}, "e": {"f": 6}}
    both = {"a": {"ours": 9, "ldm": {"x": 2}, "gan": 5}, "b": [{"ldm": 3}], "c": {"d": 1}, "e": {"f": 6}}
    assert joined(REPORT, new) == both
    assert REPORT["a"]["ours"] == 1, "the old one is not touched"
    assert joined(REPORT, {}) == REPORT
    assert joined({}, new) == new
