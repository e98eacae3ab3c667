"""What names and times beside a checkpoint tell, and what they must not be taken for."""

import pytest

from ckptlab.storage.leftovers import check_names, check_times

USED = ["__0_0.distcp", "__1_0.distcp"]


def test_a_checkpoint_alone_and_a_users_own_files():
    names = [".metadata", *USED, ".ckptlab-abc.json", "config.json", "model.safetensors", ".gitattributes"]
    assert list(check_names(names, USED, "abc")) == []


def test_data_files_of_a_wider_save():
    names = [".metadata", *USED, "__2_0.distcp", "__10_0.distcp"]
    [found] = check_names(names, USED, "abc")
    assert (found.severity, found.what) == ("note", "stale")
    assert found.detail == "2 data files of another save by ranks 2, 10: __2_0.distcp, __10_0.distcp"


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        (".metadata.tmp", "doubt"),
        ("__3.metadata.tmp", "doubt"),
        (f".metadata.{'0a' * 16}.tmp", "note"),
        (f".ckptlab-abc.json.{'0a' * 16}.tmp", "note"),
        (".ckptlab-abcd.json", "note"),
        ("odd.distcp", "note"),
    ],
)
def test_what_a_save_leaves_that_was_cut_off(name, severity):
    [found] = check_names([".metadata", *USED, name], USED, "abc")
    assert found.severity == severity
    assert name in found.detail


def test_times_that_fit():
    assert list(check_times({})) == []
    assert list(check_times({".metadata": 1000.0, "a": 900.0, "b": 1059.0})) == []
    assert list(check_times({"a": 900.0, "b": 99059.0})) == []


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            {".metadata": 1000.0, "a": 990.0, "b": 1100.0},
            "1 data file younger than .metadata, b by 100 s",
        ),
        ({".metadata": 0.0, "a": 7300.0, "b": 7200.0}, "2 data files younger than .metadata, a by 2 hours"),
        ({".metadata": 9000.0, "a": 9000.0, "b": 1800.0}, "b is older than a by 2 hours"),
        ({".metadata": 999999.0, "a": 999999.0, "b": 0.0}, "b is older than a by 12 days"),
    ],
)
def test_times_that_do_not_fit_are_a_hint(times, words):
    [found] = check_times(times)
    assert (found.severity, found.what) == ("doubt", "time")
    assert words in found.detail
    assert "no proof" in found.remedy
