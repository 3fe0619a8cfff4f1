"""A wall clock that jumps while a run is at work: waits are measured by another one, and records stay in order."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

import pytest
from loopback import Asked, Loopback, Said, completion
from rig import Rig
from whole import AcknowledgedDisk, Round, StoppingDisk

from batcher.clock import SystemClock
from batcher.errors import ExitCode
from batcher.runs.directory import RunDirectory
from batcher.runs.runfile import read_run_file

HOUR_S = 3_600.0
DAY_S = 86_400.0


class JumpingClock(SystemClock):
    """The machine's clock, set by so many seconds at one of its readings, as by NTP or by hand."""

    def __init__(self, jump_s: float, at_reading: int) -> None:
        self._jump_s, self._at_reading = jump_s, at_reading
        self._readings = 0

    def now(self) -> float:
        self._readings += 1
        return super().now() + (self._jump_s if self._readings >= self._at_reading else 0.0)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), "--latency", "2ms") as made:
        yield made


@pytest.mark.parametrize("jump_s", [-HOUR_S, -400 * DAY_S, DAY_S], ids=["an hour back", "a year back", "a day on"])
@pytest.mark.parametrize("at_reading", [2, 4, 10])
def test_a_jump_in_the_middle_of_a_run_disturbs_nothing(
    rig: Rig, tmp_path: Path, jump_s: float, at_reading: int
) -> None:
    job = Round(rig, tmp_path / "jump", rows=30)
    started_s = time.monotonic()

    assert ExitCode.OK == job.run(clock=JumpingClock(jump_s, at_reading)).code

    assert time.monotonic() - started_s < 20
    job.assert_whole()
    run_file = read_run_file(job.directories()[-1] / "run.json")
    assert run_file.finished_at is not None
    assert run_file.started_at <= run_file.finished_at
    assert dict.fromkeys(range(30), 1) == job.served()


def test_runs_begun_by_jumping_clocks_stay_in_order(rig: Rig, tmp_path: Path) -> None:
    """The newest run is the last one begun, whatever the clock said, so `resume` and cron find the right one."""
    job = Round(rig, tmp_path / "order", rows=3)
    begun = [
        job.run(clock=JumpingClock(jump_s, 1)).directory for jump_s in (0.0, -HOUR_S, DAY_S, -2 * DAY_S, 0.0, -HOUR_S)
    ]

    assert 6 == len({*begun})
    assert begun == job.directories()
    latest = RunDirectory.latest(job.runs, "job")
    assert latest is not None
    assert begun[-1] == latest.path


@pytest.mark.parametrize("jump_s", [-HOUR_S, DAY_S])
def test_a_run_is_gone_on_with_under_another_time(rig: Rig, tmp_path: Path, jump_s: float) -> None:
    job = Round(rig, tmp_path / "later", rows=30)
    disk = AcknowledgedDisk(StoppingDisk())
    assert ExitCode.STOPPED == job.run(disk).code
    before = job.served()

    assert ExitCode.OK == job.run(clock=JumpingClock(jump_s, 1)).code

    after = job.served()
    assert [] == [row for row in disk.written if after[row] != before[row]]
    assert 1 == len(job.directories())
    run_file = read_run_file(job.directories()[-1] / "run.json")
    assert run_file.finished_at is not None
    assert run_file.started_at <= run_file.finished_at


@pytest.mark.parametrize("jump_s", [-HOUR_S, DAY_S])
def test_a_retry_after_date_is_no_wait_of_an_hour(rig: Rig, tmp_path: Path, jump_s: float) -> None:
    """A date is taken against the server's own time: a clock here that is an hour behind makes no hour of a second."""

    def answer(asked: Asked) -> Said:
        if asked.number > 1:
            return completion(asked.text)
        return Said(429, {"error": {"message": "slow down"}}, {"retry-after": formatdate(time.time() + 1, usegmt=True)})

    with Loopback(answer) as provider:
        job = Round(rig, tmp_path / "date", rows=3)
        text = job.job.read_text(encoding="utf-8").replace(rig.base_url, provider.base_url)
        job.job.write_text(text, encoding="utf-8")
        started_s = time.monotonic()
        assert ExitCode.OK == job.run(clock=JumpingClock(jump_s, 1)).code

    assert time.monotonic() - started_s < 20
    assert 4 == len(provider.asked)
    job.assert_whole()


def test_times_are_those_of_the_day(rig: Rig, tmp_path: Path) -> None:
    """The fake above is no fake of the record: without a jump the times are now."""
    job = Round(rig, tmp_path / "today", rows=3)
    before = datetime.now(UTC)
    job.run(clock=JumpingClock(0.0, 1))
    run_file = read_run_file(job.directories()[-1] / "run.json")
    assert run_file.finished_at is not None
    assert (before - run_file.started_at).total_seconds() < 1
    assert run_file.finished_at.date() >= before.date()
