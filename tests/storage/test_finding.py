"""Findings in words."""

from ckptlab.storage.finding import Finding, count, named


def test_a_finding_in_two_lines():
    finding = Finding("note", "stale", "__2_0.distcp is left", "Delete it.", "__2_0.distcp")
    assert str(finding) == "note   stale: __2_0.distcp is left\n       Delete it."


def test_counts_and_names():
    assert [count(n, "key") for n in (0, 1, 2048)] == ["0 keys", "1 key", "2,048 keys"]
    assert named(["a"]) == "'a'"
    assert named(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
