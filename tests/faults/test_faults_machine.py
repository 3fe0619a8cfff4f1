"""What machines do to a run: full and read-only places, copies, stale locks, two runs at one instant, a slow disk."""

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from killed_runs import Killer
from rig import KEY, Rig
from whole import AcknowledgedDisk, Round, StoppingDisk, ended

from batcher.assemble.run import resume_run
from batcher.errors import ExitCode, UsageError
from batcher.runs.runfile import read_run_file
from batcher.storage.durable import LocalDisk, storage_error

ENV = {"RIG_KEY": KEY}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), "--latency", "2ms") as made:
        yield made


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with Killer(tmp_path_factory.mktemp("killer"), log_bytes_max=8 << 20) as made:
        yield made


def cut_short(job: Round) -> set[int]:
    """A run that its disk stopped in the middle; the rows it has."""
    disk = AcknowledgedDisk(StoppingDisk())
    assert ExitCode.STOPPED == job.run(disk).code
    assert 0 < len(disk.written) < job.rows
    return disk.written


def test_a_file_size_limit_stops_a_whole_run_in_time(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    """The system's own refusal: what was in flight still fits, so nothing is asked twice."""
    job = Round(rig, tmp_path / "limited", rows=600, concurrency=8, text_chars=8_000)
    died = killer.limited("run", job.job, job.runs, file_bytes_max=5 << 20, env=ENV)

    assert ExitCode.STOPPED == died.code, died.stderr
    assert "the file may not grow further (file size limit)" in died.stderr
    assert "Traceback" not in died.stderr
    served, kept = job.served(), job.journalled()
    assert set(served) == kept
    assert 8 < len(kept) < 600
    assert ExitCode.OK == job.run().code
    assert 600 == job.served().total()
    job.assert_whole()


@pytest.mark.parametrize("blocked", ["runs", "runs/job", "runs/job/.lock"])
def test_a_place_that_cannot_be_written_is_a_sentence_and_nothing_is_asked(
    rig: Rig, tmp_path: Path, blocked: str
) -> None:
    """A file (or for the lock a directory) stands where the run should go; modes would not stop root."""
    job = Round(rig, tmp_path / "blocked")
    place = job.folder / blocked
    place.parent.mkdir(parents=True, exist_ok=True)
    place.mkdir() if blocked.endswith(".lock") else place.touch()

    ended_so = job.run()

    assert ExitCode.USAGE == ended_so.code
    assert isinstance(ended_so.error, UsageError)
    assert "choose another" in ended_so.error.message
    assert 0 == job.served().total()


def test_a_place_for_results_that_cannot_be_written_loses_no_answer(rig: Rig, tmp_path: Path) -> None:
    """Every row is asked and paid before the results are written; the way is free again, and none is asked twice."""
    job = Round(rig, tmp_path / "results", rows=30)
    kept, before = cut_short(job), job.served()
    place = job.directories()[-1] / "results.parquet"
    place.mkdir()

    assert ExitCode.STOPPED == job.run().code
    assert f"cannot write {place}" in str(read_run_file(place.with_name("run.json")).reason)
    place.rmdir()
    asked = job.served()
    assert [] == [row for row in kept if asked[row] != before[row]]

    assert ExitCode.OK == job.run().code
    assert asked == job.served()
    job.assert_whole()


def test_a_copied_run_goes_on_where_it_lies(rig: Rig, tmp_path: Path) -> None:
    """Another path, another host, a process that is not there, the job file gone: its own copy is enough."""
    job = Round(rig, tmp_path / "here", rows=30)
    kept = cut_short(job)
    run = job.directories()[-1]
    elsewhere = tmp_path / "máy khác" / "运行" / run.name
    shutil.copytree(run, elsewhere)
    shutil.rmtree(job.runs)
    job.job.unlink()
    pretend_other_host(elsewhere)
    before = job.served()

    resumed = ended(resume_run, elsewhere, job.options())

    assert (ExitCode.OK, elsewhere) == (resumed.code, resumed.directory)
    after = job.served()
    assert [] == [row for row in kept if after[row] != before[row]]
    job.assert_whole(elsewhere)
    assert "another-host.example" != read_run_file(elsewhere / "run.json").host


def pretend_other_host(run: Path) -> None:
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    content |= {"host": "another-host.example", "pid": 1, "job_path": content["job_path"].replace("/here/", "/gone/")}
    (run / "run.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_copied_run_without_its_input_says_what_is_missing(rig: Rig, tmp_path: Path) -> None:
    """Code 2, one sentence with the path, and nothing is asked or changed."""
    job = Round(rig, tmp_path / "here", rows=30)
    cut_short(job)
    elsewhere = tmp_path / "elsewhere" / job.directories()[-1].name
    shutil.copytree(job.directories()[-1], elsewhere)
    (job.folder / "rows.jsonl").unlink()
    asked, before = job.served(), (elsewhere / "run.json").read_bytes()

    resumed = ended(resume_run, elsewhere, job.options())

    assert ExitCode.USAGE == resumed.code
    assert resumed.error is not None
    assert f"rows.jsonl: there is no such file, looked in {job.folder}" == resumed.error.message
    assert asked == job.served()
    assert before == (elsewhere / "run.json").read_bytes()


@pytest.mark.parametrize("host", ["another-host.example", None], ids=["another host", "this host"])
def test_a_lock_left_by_a_dead_process_holds_nothing_back(rig: Rig, tmp_path: Path, host: str | None) -> None:
    """Only the operating system's lock counts, and it died with its process; the owner file is for the message."""
    job = Round(rig, tmp_path / "stale", rows=30)
    cut_short(job)
    owner = {"pid": 1 if host else 4_000_000, "host": host or "localhost", "since": "2026-11-21T02:00:00Z"}
    (job.runs / "job" / ".lock-owner.json").write_text(json.dumps(owner))
    (job.runs / "job" / "..lock-owner.json.77.tmp").write_text("half")

    assert ExitCode.OK == job.run().code
    job.assert_whole()
    job.assert_nothing_is_left_over()
    assert not (job.runs / "job" / ".lock-owner.json").exists()


def race(rig: Rig, killer: Killer, folder: Path, times: int) -> None:
    """Exactly one of them works, the others say so, and no row is asked twice."""
    job = Round(rig, folder)
    died = killer.together(times, "run", job.job, job.runs, env=ENV)
    codes = sorted(one.code for one in died)
    assert [ExitCode.OK] + [ExitCode.LOCKED] * (times - 1) == codes, [one.stderr for one in died]
    assert dict.fromkeys(range(job.rows), 1) == job.served()
    assert 1 == len(job.directories())
    job.assert_whole()


def test_two_runs_of_one_job_at_one_instant(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    for number in range(10):
        race(rig, killer, tmp_path / str(number), times=2 + number % 3)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_runs_of_one_job_at_one_instant(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    for number in range(100):
        race(rig, killer, tmp_path / str(number), times=2 + number % 5)


def test_two_resumes_at_one_instant(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    """The second one waits a moment for the lock; either it is told, or it finds nothing left to ask."""
    for number in range(4):
        job = Round(rig, tmp_path / str(number), rows=30)
        cut_short(job)
        kept, before = job.journalled(), job.served()
        died = killer.together(3, "resume", job.job, job.runs, env=ENV)
        assert {ExitCode.OK} <= {one.code for one in died} <= {ExitCode.OK, ExitCode.LOCKED}
        after = job.served()
        assert [before[row] + (row not in kept) for row in range(job.rows)] == [after[row] for row in range(job.rows)]
        job.assert_whole()


class StuckLog:
    """A log whose first sync does not come back until it is let go."""

    def __init__(self, inner, stuck: threading.Event, is_stuck: threading.Event) -> None:
        self._inner, self._stuck, self._is_stuck = inner, stuck, is_stuck
        self.append, self.reserve, self.close = inner.append, inner.reserve, inner.close
        self._syncs = 0

    def sync(self) -> None:
        self._syncs += 1
        if self._syncs == 2:  # the first one is the header's, at opening
            self._is_stuck.set()
            assert self._stuck.wait(30)
        self._inner.sync()


class StuckDisk(LocalDisk):
    def __init__(self) -> None:
        self.stuck, self.is_stuck = threading.Event(), threading.Event()

    def open_log(self, path: Path, *, size_bytes: int = 0):
        log = super().open_log(path, size_bytes=size_bytes)
        return StuckLog(log, self.stuck, self.is_stuck) if path.parent.name == "journal" else log


def test_a_disk_that_hangs_in_a_sync_holds_up_the_end_and_not_the_rows(rig: Rig, tmp_path: Path) -> None:
    """Rows are asked on while it hangs; the run does not say that it is finished before the answers are safe."""
    job = Round(rig, tmp_path / "stuck", rows=40)
    disk = StuckDisk()
    seen: list[int] = []

    def let_go() -> None:
        assert disk.is_stuck.wait(30)
        # All forty are asked while the disk hangs; were they not, the test would wait here in vain.
        for _ in range(3_000):
            if job.served().total() == 40:
                break
            threading.Event().wait(0.01)
        seen.append(job.served().total())
        seen.append(len(list(job.runs.rglob("results.parquet"))))
        disk.stuck.set()

    helper = threading.Thread(target=let_go)
    helper.start()
    result = job.run(disk)
    helper.join()

    assert ExitCode.OK == result.code
    assert [40, 0] == seen
    job.assert_whole()


class NoHeartbeatDisk(LocalDisk):
    """Refuses `run.json` once the run has begun; the journal still has room, as on a disk that is nearly full."""

    def __init__(self) -> None:
        self._run_files = 0

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        self._run_files += target.name == "run.json"
        if target.name == "run.json" and self._run_files > 1:
            raise storage_error(OSError(errno.ENOSPC, "full"), target)
        super().durable_write(target, write)


def test_a_heartbeat_that_is_refused_stops_the_run_and_loses_no_answer(tmp_path: Path) -> None:
    """The answers on the wire are waited for: they are paid, and the journal has room for them."""
    with Rig(tmp_path, "--latency", "300ms") as slow:
        job = Round(slow, tmp_path / "beat", rows=60, concurrency=4)
        disk = AcknowledgedDisk(NoHeartbeatDisk())

        assert ExitCode.STOPPED == job.run(disk).code

        assert set(job.served()) == disk.written
        assert 4 <= len(disk.written) < 60
        assert ExitCode.OK == job.run().code
        assert dict.fromkeys(range(60), 1) == job.served()
    job.assert_whole()
