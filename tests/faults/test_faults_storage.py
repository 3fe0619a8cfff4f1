"""P1, P2, P3 on storage that fails: whichever operation of a whole run it is, the next run mends it.

Every operation counts: lock, `job.yaml`, `run.json`, the journal's log, sealing, results, the job's output.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from rig import Rig
from whole import LOG_BYTES_MAX, AcknowledgedDisk, Round, RunEnded

from batcher.errors import ExitCode, StorageError
from batcher.journal.journal import Journal
from batcher.runs.runfile import read_run_file
from batcher.storage.durable import LocalDisk
from batcher.testing.disk import FaultyDisk

OPERATIONS_MIN = 25
"""A whole run of twelve rows with tiny logs has at least so many; fewer, and the test has missed something."""

RESUME_OPERATIONS_MIN = 15

EVERY = [pytest.param(2, id="every second"), pytest.param(1, id="every", marks=pytest.mark.slow)]
"""Which operations fail: in the short form every second one. Their order is never quite the same twice, so it meets
the others too, in time."""

CONCURRENCY = 3

ONE_LABEL = 'answer: {labels: ["TEXT_3"], attempts: 0, structured: "off"}\nsuccess: {invalid: 100%}\n'
"""The answer is the question: row 3 is ok and all others are invalid."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), "--latency", "2ms") as made:
        yield made


@pytest.fixture(autouse=True)
def small_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs that are sealed after a few rows."""
    defaults = Journal.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    monkeypatch.setitem(defaults, "log_bytes_max", LOG_BYTES_MAX)


def numbers(
    disk_of: Callable[[int], FaultyDisk], step: int, *, at_least: int = OPERATIONS_MIN
) -> Iterator[tuple[int, FaultyDisk]]:
    """1, 2, 3, … (or every second) with the disk on which that operation fails, until one run passes untouched."""
    number = 0
    while True:
        number += step
        disk = disk_of(number)
        yield number, disk
        if not disk.has_failed:
            assert number > at_least
            return


def assert_stopped_by_the_disk_or_finished(ended: RunEnded, job: Round) -> None:
    assert ended.code in (ExitCode.OK, ExitCode.STOPPED), ended
    assert ended.error is None or isinstance(ended.error, StorageError)
    job.assert_results_are_whole_or_absent()
    if ended.code == ExitCode.OK:
        job.assert_whole()
        job.assert_output_is_whole()
        assert job.is_finished


def finish(job: Round, kept: set[int]) -> None:
    """Go on with the run on a good disk: every row once, and nothing asked of what was kept."""
    before = job.served()
    found = job.journalled()
    assert kept <= found
    ended = job.resume() if job.is_finished else job.run()
    assert ExitCode.OK == ended.code, ended
    after = job.served()
    assert [] == [row for row in found if after[row] != before[row]], "asked again, though it was in the journal"
    assert set(range(job.rows)) == set(after)
    # What was on the wire when the disk failed may be asked, and paid, twice, and what one turn of the loop had
    # brought: its places were given to other calls before the disk refused it.
    assert after.total() - job.rows <= 2 * CONCURRENCY
    assert 1 == len(job.directories())
    job.assert_whole()
    job.assert_output_is_whole()
    job.assert_nothing_is_left_over()


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("mode", ["fail", "short"])
def test_whichever_operation_fails_the_next_run_mends_it(rig: Rig, tmp_path: Path, mode, lasts, step) -> None:
    for number, faulty in numbers(lambda n: FaultyDisk(LocalDisk(), fail_at=n, mode=mode, lasts=lasts), step):
        job = Round(rig, tmp_path / f"{mode}-{lasts}-{number}", concurrency=CONCURRENCY)
        disk = AcknowledgedDisk(faulty)
        assert_stopped_by_the_disk_or_finished(job.run(disk), job)
        finish(job, disk.written)


@pytest.mark.parametrize("step", EVERY)
def test_the_power_may_go_at_any_operation(rig: Rig, tmp_path: Path, step: int) -> None:
    """What was synced is there; blocks that were not are written in any order, or not."""
    for number, faulty in numbers(lambda n: FaultyDisk(LocalDisk(), fail_at=n, mode="off"), step):
        job = Round(rig, tmp_path / f"off-{number}", concurrency=CONCURRENCY)
        disk = AcknowledgedDisk(faulty)
        assert_stopped_by_the_disk_or_finished(job.run(disk), job)
        written, synced = disk.written, disk.synced
        faulty.power_cut(random.Random(number) if number % 2 else None)
        lost = written - job.journalled()
        assert lost <= written - synced
        before = job.served()
        finish_after_a_power_cut(job, synced)
        # Answers of the last 100 ms may be bought again, and what was on the wire; all else only once.
        assert job.served().total() - before.total() <= job.rows - len(synced)


def finish_after_a_power_cut(job: Round, kept: set[int]) -> None:
    found, before = job.journalled(), job.served()
    assert kept <= found
    ended = job.resume() if job.is_finished else job.run()
    assert ExitCode.OK == ended.code, ended
    after = job.served()
    assert [] == [row for row in found if after[row] != before[row]]
    job.assert_whole()
    job.assert_output_is_whole()


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("mode", ["fail", "short", "off"])
def test_whichever_operation_of_a_resume_fails_the_next_one_mends_it(rig: Rig, tmp_path: Path, mode, step) -> None:
    """A run that was cut in its middle is gone on with, and that is cut too."""
    for number, faulty in numbers(
        lambda n: FaultyDisk(LocalDisk(), fail_at=n, mode=mode), step, at_least=RESUME_OPERATIONS_MIN
    ):
        job = Round(rig, tmp_path / f"resume-{mode}-{number}", concurrency=CONCURRENCY)
        first = AcknowledgedDisk(FaultyDisk(LocalDisk(), fail_at=13, lasts=True))
        assert ExitCode.STOPPED == job.run(first).code
        second = AcknowledgedDisk(faulty)
        assert_stopped_by_the_disk_or_finished(job.resume(second), job)
        if mode == "off":
            faulty.power_cut()
            finish_after_a_power_cut(job, first.written | second.synced)
        else:
            kept = first.written | second.written
            before, found = job.served(), job.journalled()
            assert kept <= found
            assert ExitCode.OK == job.resume().code
            after = job.served()
            assert [] == [row for row in found if after[row] != before[row]]
            assert after.total() - job.rows <= 4 * CONCURRENCY
            job.assert_whole()


@pytest.mark.parametrize("step", EVERY)
def test_whichever_operation_of_a_retry_fails_no_answer_is_lost(rig: Rig, tmp_path: Path, step: int) -> None:
    """The rows that were ok stay as they are; each invalid one is asked again once, on the first disk or the second."""
    for number, faulty in numbers(lambda n: FaultyDisk(LocalDisk(), fail_at=n, mode="fail"), step):
        job = Round(rig, tmp_path / f"retry-{number}", concurrency=CONCURRENCY, more=ONE_LABEL)
        assert ExitCode.OK == job.run().code
        disk = AcknowledgedDisk(faulty)
        ended = job.resume(disk, is_retry=True)
        assert ended.code in (ExitCode.OK, ExitCode.STOPPED), ended
        asked = job.served()
        assert 1 == asked[3]
        assert all(1 + (row in disk.written) <= count <= 2 for row, count in asked.items() if row != 3)

        assert ExitCode.OK == job.resume().code
        assert asked == job.served(), "an outcome was lost: resume asked again what the journal should hold"
        frame = pl.read_parquet(job.directories()[-1] / "results.parquet")
        assert list(range(job.rows)) == frame["row"].to_list()
        assert job.texts == frame["answer"].to_list()
        assert [3] == frame.filter(pl.col("status") == "ok")["row"].to_list()


def lies(rig: Rig, tmp_path: Path, forget_at: int, off_at: int | None) -> bool:
    """One run on a disk that acknowledges an operation and forgets it; whether it had so many operations."""
    job = Round(rig, tmp_path / f"lie-{forget_at}-{off_at}", concurrency=CONCURRENCY)
    faulty = FaultyDisk(LocalDisk(), forget_at=forget_at, fail_at=off_at, mode="off")
    assert_stopped_by_the_disk_or_finished(job.run(faulty), job)
    has_lied = len(faulty.operations) >= forget_at
    faulty.power_cut()
    ended = job.resume() if job.is_finished else job.run()
    if job.is_finished and ended.code == ExitCode.USAGE:
        # The run's own copy of its job is gone: told by name, and the results are there.
        assert ended.error is not None
        assert "job.yaml" in ended.error.message
        job.assert_whole()
        return has_lied
    if ended.code == ExitCode.FAULT:
        # It is named, and the way out is as the message says: move it away and ask its rows again.
        error = (
            ended.error.message if ended.error is not None else read_run_file(job.directories()[-1] / "run.json").reason
        )
        assert error is not None
        damaged = [path for path in job.runs.rglob("journal/0*") if path.name in error or path.name[:6] in error]
        assert damaged, ended
        for path in damaged:
            path.rename(job.folder / path.name)
        ended = job.resume()
    assert ExitCode.OK == ended.code, ended
    job.assert_whole()
    assert set(range(job.rows)) == set(job.served())
    return has_lied


def test_a_disk_that_lies_once_makes_no_run_lie(rig: Rig, tmp_path: Path) -> None:
    """Not promised, and still: what an acknowledged and forgotten operation takes is asked again, never passed over."""
    chance = random.Random(7)
    forget_at = 0
    while lies(rig, tmp_path, forget_at := forget_at + 2, forget_at + chance.randrange(1, 8)):
        pass
    assert forget_at > OPERATIONS_MIN


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disk_that_lies_and_loses_power_at_any_two_operations(rig: Rig, tmp_path: Path) -> None:
    for forget_at in range(1, 40):
        for off_at in range(forget_at + 1, 40, 2):
            lies(rig, tmp_path, forget_at, off_at)


@pytest.mark.parametrize("room_bytes", [(2 << 20) + 3_000, (2 << 20) + 9_000])
def test_a_disk_that_fills_up_stops_the_run_in_time(rig: Rig, tmp_path: Path, room_bytes: int) -> None:
    """The rows in flight still fit: stopped with code 4, and not one of them is asked again."""
    job = Round(rig, tmp_path / f"full-{room_bytes}", rows=60, concurrency=CONCURRENCY)
    disk = AcknowledgedDisk(FaultyDisk(LocalDisk(), room_bytes=room_bytes))
    ended = job.run(disk)
    assert ExitCode.STOPPED == ended.code
    assert "the disk is full" in (read_run_file(job.directories()[-1] / "run.json").reason or "")
    assert 60 > len(disk.written) > 0
    assert set(job.served()) == disk.written
    finish(job, disk.written)
    assert 60 == job.served().total()
