"""The files at a path, whether or not they are a checkpoint."""

from ckptlab.storage.listing import listing


def test_files_folders_a_single_file_and_nothing(tmp_path):
    (tmp_path / "b").write_bytes(bytes(2048))
    (tmp_path / "a").mkdir()
    assert listing(tmp_path) == [("a", "folder"), ("b", "2.00 KiB")]
    assert listing(tmp_path / "b") == [("b", "2.00 KiB")]
    assert listing(tmp_path / "c") == []
