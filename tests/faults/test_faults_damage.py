"""A file of the journal that is not what was written: named, code 1, and the way out works as the message says."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rig import Rig
from whole import LOG_BYTES_MAX, AcknowledgedDisk, Round, StoppingDisk

from batcher.errors import ExitCode, JournalError
from batcher.journal.journal import Journal

ROWS = 60


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), "--latency", "2ms") as made:
        yield made


@pytest.fixture
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Journal.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    monkeypatch.setitem(defaults, "log_bytes_max", LOG_BYTES_MAX)


def flip(share: float) -> Callable[[bytes], bytes]:
    """One bit at that share of the file: 0 its start, 0.999… its end."""

    def damaged(content: bytes) -> bytes:
        at = int(share * len(content))
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return damaged


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


DAMAGES = {
    "first byte": flip(0.0),
    "schema": flip(0.1),
    "body": flip(0.5),
    "footer": flip(0.95),
    "last byte": flip(0.9999),
    "cut to nothing": cut(0.0),
    "cut in half": cut(0.5),
    "cut by a byte": lambda content: content[:-1],
    "grown": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
}


def run_with_segments(rig: Rig, folder: Path, *, is_finished: bool) -> Round:
    """A run that has segments, finished or stopped in its middle."""
    job = Round(rig, folder, rows=ROWS)
    if is_finished:
        assert ExitCode.OK == job.run().code
    else:
        disk = AcknowledgedDisk(StoppingDisk(sealed=1))
        assert ExitCode.STOPPED == job.run(disk).code
    return job


def segments(job: Round) -> list[Path]:
    return sorted(job.directories()[-1].glob("journal/*.arrow"))


@pytest.mark.parametrize("is_finished", [False, True], ids=["stopped", "finished"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("small_logs")
def test_a_damaged_segment_is_named_and_moving_it_away_asks_its_rows_again(
    rig: Rig, tmp_path: Path, damage: str, is_finished: bool
) -> None:
    """Wherever it is damaged: nothing is asked before somebody has decided, and then only what is gone."""
    job = run_with_segments(rig, tmp_path / "damage", is_finished=is_finished)
    victim = segments(job)[0]
    whole, before = job.journalled(), job.served()
    victim.write_bytes(DAMAGES[damage](victim.read_bytes()))

    named = job.resume()

    assert ExitCode.FAULT == named.code
    reason = told(job, named.error)
    assert f"segment {victim.name[:6]} does not match its name" in reason
    assert "move it away and run `batcher resume` to ask its rows again" in reason
    assert before == job.served(), "asked before anybody had decided"
    (tmp_path / "away").mkdir()
    shutil.move(victim, tmp_path / "away")

    left = job.journalled()
    assert left < whole
    assert ExitCode.OK == job.resume().code
    after = job.served()
    assert [before[row] + (row not in left) for row in range(ROWS)] == [after[row] for row in range(ROWS)]
    job.assert_whole()
    job.assert_output_is_whole()


def told(job: Round, error: object) -> str:
    """What the run says of its end."""
    from batcher.runs.runfile import read_run_file

    if isinstance(error, JournalError):
        return error.message
    return read_run_file(job.directories()[-1] / "run.json").reason or ""


@pytest.mark.parametrize("at", [0, 9, 30, 200])
def test_a_damaged_log_is_named_and_moving_it_away_asks_its_rows_again(rig: Rig, tmp_path: Path, at: int) -> None:
    """The log that was open when the run stopped, flipped in its header and in a frame that others follow."""
    job = Round(rig, tmp_path / "log", rows=ROWS)
    disk = AcknowledgedDisk(StoppingDisk(appends=8))
    assert ExitCode.STOPPED == job.run(disk).code
    (log,) = job.directories()[-1].glob("journal/*.log")
    content = bytearray(log.read_bytes())
    content[at] ^= 1
    log.write_bytes(content)
    before = job.served()

    named = job.resume()

    assert ExitCode.FAULT == named.code
    assert re.search(rf"{log.name}.*(damaged|format version).*", told(job, named.error)), told(job, named.error)
    assert before == job.served()
    log.rename(tmp_path / log.name)

    left = job.journalled()
    assert ExitCode.OK == job.resume().code
    after = job.served()
    assert [before[row] + (row not in left) for row in range(ROWS)] == [after[row] for row in range(ROWS)]
    job.assert_whole()


@pytest.mark.parametrize("cut_bytes", [1, 40, 300])
def test_a_log_cut_short_loses_its_tail_and_nothing_else(rig: Rig, tmp_path: Path, cut_bytes: int) -> None:
    """As a crash would leave it: the rows of the tail are asked again."""
    job = Round(rig, tmp_path / "cut", rows=ROWS)
    disk = AcknowledgedDisk(StoppingDisk(appends=8))
    assert ExitCode.STOPPED == job.run(disk).code
    (log,) = job.directories()[-1].glob("journal/*.log")
    content = log.read_bytes().rstrip(b"\0")
    log.write_bytes(content[: len(content) - cut_bytes])
    left, before = job.journalled(), job.served()
    assert left < disk.written

    assert ExitCode.OK == job.resume().code
    after = job.served()
    assert [] == [row for row in left if after[row] != before[row]]
    job.assert_whole()
