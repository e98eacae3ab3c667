"""`ckptlab passport`: the page it writes, and what it says of that."""

from cli_run import run


def test_it_writes_a_page_and_says_where(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("passport", saved)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("step-1-passport.html: ")
    page = (tmp_path / "step-1-passport.html").read_text()
    assert "model.w" not in page.partition("<section>")[0]
    assert "<b>w</b><i>float32 10 x 6</i>" in page
    assert str(saved.parent) not in page

    assert run("passport", saved, "-o", tmp_path / "else.html").returncode == 0
    assert (tmp_path / "else.html").exists()


def test_a_place_that_cannot_be_written_is_one_line(saved, tmp_path):
    done = run("passport", saved, "-o", tmp_path / "no" / "such.html")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr
    assert run("passport", tmp_path / "nothing").returncode == 2


def test_what_cannot_be_opened_has_a_page_too_and_status_1(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".metadata").write_bytes(b"garbage")
    done = run("passport", tmp_path / "c", "-o", tmp_path / "page.html")
    assert done.returncode == 1
    assert "damaged or cut short" in done.stderr
    assert "damaged or cut short" in (tmp_path / "page.html").read_text()
