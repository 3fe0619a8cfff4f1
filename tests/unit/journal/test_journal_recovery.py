"""Opening what any crash, and some people, leave behind."""

import shutil
from pathlib import Path

import pytest

from batcher.core.records import Outcome
from batcher.errors import JournalError
from batcher.journal.frames import Payloads, frame, log_header, scan_log
from batcher.journal.recovery import Recovered, RecoveryFacts, recover
from batcher.journal.segment import seal
from batcher.storage.durable import LocalDisk

JOB = "0123abcd"


def log_bytes(number: int, rows, answer="x") -> bytes:
    return log_header(number, JOB) + b"".join(frame(Outcome(row, "ok", answer=answer)) for row in rows)


def write_log(directory: Path, number: int, rows, extra: bytes = b"") -> Path:
    path = directory / f"{number:06d}.log"
    path.write_bytes(log_bytes(number, rows) + extra)
    return path


def write_segment(directory: Path, number: int, rows) -> Path:
    log = directory / f"{number:06d}.log"
    payloads: Payloads = scan_log(log_bytes(number, rows), log, sequence=number, fingerprint=JOB).payloads
    return seal(payloads, log, sequence=number, fingerprint=JOB, disk=LocalDisk()).path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def recovered(directory: Path) -> Recovered:
    return recover(directory, fingerprint=JOB, disk=LocalDisk())


def done(found: Recovered) -> list[int]:
    return list(found.tally.done)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_new_journal_begins_with_log_1(tmp_path) -> None:
    """The directory is made where it is not there."""
    found = recovered(tmp_path / "runs/one/journal")
    assert (1, 0, []) == (found.sequence, found.log_bytes, done(found))
    assert found.facts.is_clean


def test_the_newest_log_goes_on_where_its_last_frame_ends(tmp_path) -> None:
    """What a killed process wrote is kept, its torn frame is cut and counted."""
    write_segment(tmp_path, 1, range(5))
    torn = frame(Outcome(8, "ok", answer="cut"))[:20]
    log = write_log(tmp_path, 2, [5, 7], extra=torn)

    found = recovered(tmp_path)

    assert [0, 1, 2, 3, 4, 5, 7] == done(found)
    assert (2, len(log_bytes(2, [5, 7]))) == (found.sequence, found.log_bytes)
    assert RecoveryFacts(torn_bytes=len(torn)) == found.facts
    assert log.exists()


def test_an_older_log_is_sealed(tmp_path) -> None:
    """A process died between opening a new log and sealing the old one."""
    write_log(tmp_path, 1, [3, 1])
    write_log(tmp_path, 2, [2])

    found = recovered(tmp_path)

    assert [1, 2, 3] == done(found)
    assert {found.segments[0].path.name, "000002.log"} == names(tmp_path)


def test_a_log_with_a_hole_is_sealed_and_a_new_one_begins(tmp_path) -> None:
    """After a power cut nothing is written behind a hole."""
    content = bytearray(log_bytes(1, range(300)))
    content[4096:8192] = bytes(4096)
    (tmp_path / "000001.log").write_bytes(content)

    found = recovered(tmp_path)

    assert 2 == found.sequence
    assert found.facts.lost_bytes >= 4096
    assert 0 in found.tally.done
    assert 299 in found.tally.done
    assert done(recovered(tmp_path)) == done(found)
    assert recovered(tmp_path).facts.is_clean


@pytest.mark.parametrize("extra", [b"", bytes(5000)])
def test_a_log_beside_its_segment_is_removed(tmp_path, extra) -> None:
    """A process died between writing the segment and removing the log, closed or not."""
    segment = write_segment(tmp_path, 1, [1, 2])
    write_log(tmp_path, 1, [2, 1], extra)

    found = recovered(tmp_path)

    assert [1, 2] == done(found)
    assert 2 == found.sequence
    assert {segment.name} == names(tmp_path)
    assert 2 == found.spending[None, None].outcomes


def test_a_damaged_segment_beside_its_log_is_made_again(tmp_path) -> None:
    """The log is the source, so nothing is lost; the damaged file is set aside, not destroyed.

    The segment made again has the same bytes, and so the same name.
    """
    segment = write_segment(tmp_path, 1, [1, 2])
    good = segment.read_bytes()
    write_log(tmp_path, 1, [2, 1])
    write_log(tmp_path, 2, [3])
    damage(segment)

    assert [1, 2, 3] == done(recovered(tmp_path))

    assert {segment.name, f"{segment.name}.damaged", "000002.log"} == names(tmp_path)
    assert good == segment.read_bytes()


def test_the_newest_log_beside_its_damaged_segment_goes_on(tmp_path) -> None:
    """It is the only good copy, and as good as it was."""
    segment = write_segment(tmp_path, 1, [1, 2])
    write_log(tmp_path, 1, [2, 1])
    damage(segment)

    assert (1, [1, 2]) == ((found := recovered(tmp_path)).sequence, done(found))
    assert {"000001.log", f"{segment.name}.damaged"} == names(tmp_path)


def test_a_segment_put_back_never_hides_other_answers(tmp_path) -> None:
    """Someone moved the newest segment away, its number was used again, and it was moved back."""
    write_segment(tmp_path, 1, [1, 2])
    write_log(tmp_path, 1, [1, 2, 3])
    before = names(tmp_path)

    with pytest.raises(JournalError, match=r"000001\.log and 000001-.* hold different rows"):
        recovered(tmp_path)
    assert before == names(tmp_path)

    (tmp_path / "000001.log").unlink()
    write_segment(tmp_path, 1, [7])
    with pytest.raises(JournalError, match="have the same number; move one away"):
        recovered(tmp_path)


def test_damaged_segments_are_all_named_and_nothing_is_changed(tmp_path) -> None:
    """One error for all of them, so that the night is not spent on one a run."""
    paths = [write_segment(tmp_path, number, [number]) for number in (1, 2, 3)]
    damage(paths[0])
    damage(paths[2])
    leftover = tmp_path / f".{paths[0].name}.77.tmp"
    leftover.touch()

    with pytest.raises(JournalError, match="segments 000001, 000003 do not match their names; move them away") as told:
        recovered(tmp_path)

    assert str(paths[2]) in str(told.value.hint)
    assert leftover.exists()


def test_moving_a_damaged_segment_away_asks_its_rows_again(tmp_path) -> None:
    """As the error says; the gap is told, not taken for an error."""
    paths = [write_segment(tmp_path, number, [number]) for number in (1, 2, 3)]
    damage(paths[1])
    (tmp_path / "away").mkdir()
    shutil.move(paths[1], tmp_path / "away")

    found = recovered(tmp_path)

    assert [1, 3] == done(found)
    assert RecoveryFacts(missing_segments=(2,)) == found.facts


def test_a_damaged_log_is_named(tmp_path) -> None:
    """An older log with garbage between good frames stops everything before a change."""
    content = bytearray(log_bytes(1, range(100)))
    content[500] ^= 8
    (tmp_path / "000001.log").write_bytes(content)
    write_log(tmp_path, 2, [200])

    with pytest.raises(JournalError, match=r"000001\.log is damaged at byte \d+; move it away"):
        recovered(tmp_path)
    assert {"000001.log", "000002.log"} == names(tmp_path)


def test_leftovers_go_and_other_peoples_files_stay(tmp_path) -> None:
    """Only what the journal itself writes is its business, but a segment under a wrong name is not passed over."""
    segment = write_segment(tmp_path, 1, [1])
    (tmp_path / f".{segment.name}.77.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / f"{segment.name}.damaged").write_text("set aside")

    recovered(tmp_path)
    assert {segment.name, "notes.txt", f"{segment.name}.damaged"} == names(tmp_path)

    segment.rename(tmp_path / "copy of 000001.arrow")
    with pytest.raises(JournalError, match=r"copy of 000001\.arrow has no name of the journal's"):
        recovered(tmp_path)


def test_a_log_never_written_out_is_begun_anew(tmp_path) -> None:
    """A power cut right after a log was made leaves it empty, or all zeros, or with a part of its header."""
    for content in (b"", bytes(4096), log_header(1, JOB)[:9] + bytes(50)):
        (tmp_path / "000001.log").write_bytes(content)
        found = recovered(tmp_path)
        assert (1, 0, []) == (found.sequence, found.log_bytes, done(found))


def test_rows_answered_twice_by_hand_count_once(tmp_path) -> None:
    """A row in two segments is one row; both spends are true."""
    write_segment(tmp_path, 1, [1, 2, 2])
    write_segment(tmp_path, 2, [2, 3])

    found = recovered(tmp_path)

    assert [1, 2, 3] == done(found)
    assert 3 == found.tally.counts().ok
    assert 5 == found.spending[None, None].outcomes
