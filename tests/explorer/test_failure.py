"""Failures in order: what an error says, taken apart."""

import dataclasses

from saved import hsdp_metadata

from ckptlab.errors import CorruptError, LayoutError, MismatchError, RankError
from ckptlab.events import Event
from ckptlab.explorer.failure import failed
from ckptlab.explorer.timeline import Timeline

METADATA = hsdp_metadata()
KEY = METADATA.tensors[0].fqn
FILE = METADATA.files[0]


def lanes():
    timeline = Timeline(2)
    timeline.hear(Event(1, "read", 512, 4096, 0.05, KEY))
    timeline.hear(Event(1, "read", 1024, 4096, 0.1))
    return timeline.lanes


def test_a_damaged_chunk():
    words = f"chunk of tensor '{KEY}', at byte 0 of /x/y/{FILE}: its bytes have crc 1; the file is damaged"
    seen = failed(
        RankError(f"rank 1 failed in phase read: CorruptError: {words}", 1, "read"), METADATA, lanes()
    )
    assert dict(seen.facts()) == {
        "rank": "1",
        "phase": "read, 1.00 KiB of 4.00 KiB done",
        "tensor": KEY,
        "file": FILE,
        "cause": f"CorruptError: {words}",
        "what to do": seen.remedy,
    }
    assert "Restore the file" in seen.remedy
    assert seen.title == "Rank 1 failed; every other rank was stopped"


def test_a_missing_file_is_of_every_rank():
    error = CorruptError(f"/x is not whole, nothing was loaded:\n  {FILE} is missing; it should hold 4 B", [])
    seen = failed(error, METADATA, lanes())
    assert (seen.rank, seen.file, seen.phase) == ("every rank", FILE, "read")
    assert "is missing" in seen.cause
    assert "Copy the file here again" in seen.remedy
    assert seen.more == ""


def test_a_dead_rank():
    error = RankError("rank 1 died in phase 'read': killed by SIGKILL (if nobody did that ...)", 1, "read")
    seen = failed(error, METADATA, lanes())
    assert seen.title == "Rank 1 died; every other rank was stopped"
    assert seen.cause.startswith("killed by SIGKILL")
    assert "memory ran out" in seen.remedy
    assert seen.tensor == f"{KEY} was the last that it told of"


def test_a_hung_rank_shows_its_stack():
    error = RankError("no rank answered within 2 s; rank 1 is ...\nrank 1 at:\n  File x, line 3", 1, "read")
    seen = failed(error, METADATA, lanes())
    assert seen.title == "Rank 1 hangs; every rank was stopped"
    assert "rank 1 at:\n  File x, line 3" in seen.more
    unknown = failed(RankError("no rank answered within 2 s\nranks 0, 1 at:\n  x", -1), METADATA)
    assert unknown.title == "Ranks hang; every rank was stopped"
    assert "rank" not in dict(unknown.facts())


def test_keys_are_taken_from_the_problems_where_the_words_name_none():
    seen = failed(MismatchError("they do not fit", [KEY]), METADATA)
    assert seen.tensor == KEY
    assert "what the checkpoint has" in seen.remedy
    assert "Change the target" in failed(LayoutError("no"), METADATA).remedy


def test_what_a_rank_lists_is_on_the_card_and_tells_what_to_do():
    lines = "\n".join(f"  __{i}_0.distcp is missing" for i in range(7))
    seen = failed(
        RankError(f"rank 0 failed in plan: CorruptError: c is not whole:\n{lines}\nTraceback:", 0), METADATA
    )
    assert seen.cause.splitlines()[:2] == ["CorruptError: c is not whole:", "  __0_0.distcp is missing"]
    assert seen.cause.endswith("and 3 more")
    assert seen.remedy.startswith("Copy the file here again")
    assert "__6_0.distcp" in seen.more


def test_tracebacks_come_last():
    seen = failed(RankError("rank 0 failed: ZeroDivisionError: x", 0, "", ["Traceback:\n  boom"]), METADATA)
    assert seen.cause == "ZeroDivisionError: x"
    assert seen.more == "Traceback:\n  boom"


def test_of_file_names_that_are_parts_of_each_other_the_whole_one_is_told():
    longer = dataclasses.replace(METADATA, files=(FILE, f"{FILE}0", *METADATA.files[2:]))
    assert failed(CorruptError(f"/x/{FILE}0: its bytes have crc 1"), longer).file == f"{FILE}0"
