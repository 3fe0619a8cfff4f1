"""Run directories: names, order, and what is no run directory."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from batcher.errors import JobError, JournalError, StorageError, UsageError
from batcher.runs.directory import RunDirectory
from batcher.runs.runfile import RunFile, utc
from batcher.storage.durable import LocalDisk
from batcher.testing.clock import ManualClock

NOON = datetime(2026, 11, 21, 2, 0, tzinfo=UTC).timestamp()
DISK = LocalDisk()


def run_file(**changes):
    fields = {
        "job": "tickets",
        "state": "running",
        "started_at": utc(NOON),
        "updated_at": utc(NOON + 0.5),
        "job_path": "/jobs/ตั๋ว.yaml",
        "base_directory": "/jobs",
        "pid": 7,
        "host": "h",
    }
    return RunFile(**{**fields, **changes})


def created(runs: Path, clock=None, job="tickets") -> RunDirectory:
    run = RunDirectory.create(runs, job, clock or ManualClock(NOON))
    run.write(run_file(job=job), DISK)
    return run


def test_the_name_is_the_time_and_four_hex_digits(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs", "tickets", ManualClock(NOON))

    assert run.path.parent == tmp_path / "runs" / "tickets"
    assert run.path.name.startswith("2026-11-21T02-00-00Z-")
    assert len(run.path.name) == len("2026-11-21T02-00-00Z-7f3a")
    assert run.journal.is_dir()
    assert run.job == "tickets"


def test_runs_sort_by_name_as_they_began(tmp_path: Path) -> None:
    """Also within one second, and after the clock was set back by an hour."""
    clock = ManualClock(NOON)
    runs = [created(tmp_path, clock) for _ in range(5)]
    clock.set_now(NOON - 3600)
    runs.append(created(tmp_path, clock))

    assert sorted(run.path.name for run in runs) == [run.path.name for run in runs]
    assert RunDirectory.latest(tmp_path, "tickets") == runs[-1]
    assert RunDirectory.list(tmp_path) == runs[::-1]


def test_runs_of_all_jobs_are_listed_newest_first(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    first = created(tmp_path, clock, "zz")
    clock.set_now(NOON + 60)
    second = created(tmp_path, clock, "ตั๋ว")

    assert RunDirectory.list(tmp_path) == [second, first]
    assert RunDirectory.list(tmp_path, "zz") == [first]


def test_foreign_files_among_the_runs_are_left_out(tmp_path: Path) -> None:
    run = created(tmp_path)
    (tmp_path / "tickets" / "notes").mkdir()
    (tmp_path / "tickets" / ".lock").touch()
    (tmp_path / "tickets" / "2026-11-22T02-00-00Z-ffff").mkdir()
    (tmp_path / "stray.txt").touch()

    assert RunDirectory.list(tmp_path) == [run]


def test_no_runs_are_no_error(tmp_path: Path) -> None:
    assert RunDirectory.list(tmp_path / "missing") == []
    assert RunDirectory.latest(tmp_path / "missing", "tickets") is None


@pytest.mark.parametrize("job", ["", " ", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", "a\x00b", "ก" * 100])
def test_a_job_name_that_names_no_directory_is_refused(tmp_path: Path, job: str) -> None:
    with pytest.raises(JobError, match="cannot name a directory"):
        RunDirectory.create(tmp_path, job, ManualClock(NOON))

    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(JobError, match=r"cannot make a run directory in .*choose another with --runs"):
        RunDirectory.create(tmp_path / "runs", "tickets", ManualClock(NOON))


def test_run_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "tickets", ManualClock(NOON))
    written = run_file(
        state="stopped",
        exit_code=4,
        reason="SIGTERM",
        finished_at=utc(NOON + 60.25),
        counts={"ok": 3, "failed": 1},
        totals={"cost_usd": "0.0012", "nested": [1, None]},
        ledger=[{"provider": "main", "model": "m", "cost_usd": None}],
        versions={"batcher": "0.1"},
        fingerprints={"job": "ab", "input": {"a.csv": "cd"}},
    )

    run.write(written, DISK)

    assert RunDirectory.open(run.path).read() == written
    assert "ตั๋ว.yaml" in run.run_json.read_text()
    assert '"finished_at": "2026-11-21T02:01:00.250000Z"' in run.run_json.read_text()
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


def test_fields_of_a_later_batcher_are_ignored(tmp_path: Path) -> None:
    """Only a new version number says that the meaning changed."""
    run = created(tmp_path)
    run.run_json.write_text(run.run_json.read_text().replace('"pid"', '"later": [1], "pid"'))

    assert run.read() == run_file()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff", b'{"version": "1"}', b'{"version": 1}', b"[" * 100_000]
)
def test_a_broken_run_json_is_named(tmp_path: Path, content: bytes) -> None:
    run = created(tmp_path)
    run.run_json.write_bytes(content)

    with pytest.raises(JournalError, match=r"run\.json is not what was written"):
        RunDirectory.open(run.path)


def test_an_unknown_version_is_refused_by_name(tmp_path: Path) -> None:
    run = created(tmp_path)
    run.run_json.write_bytes(b'{"version": 2, "everything": "else"}')

    with pytest.raises(JournalError, match=r"run\.json has version 2, and this batcher knows only version 1"):
        RunDirectory.open(run.path)


def test_what_is_no_run_directory_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()

    with pytest.raises(UsageError, match=r"missing does not exist; name a run directory"):
        RunDirectory.open(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"file is a file"):
        RunDirectory.open(tmp_path / "file")
    with pytest.raises(UsageError, match=r"dir is no run directory: it has no run\.json"):
        RunDirectory.open(tmp_path / "dir")


def test_a_failed_write_leaves_the_old_state(tmp_path: Path) -> None:
    class FullDisk(LocalDisk):
        def durable_write(self, target, write):
            raise StorageError("the disk is full")

    run = created(tmp_path)
    with pytest.raises(StorageError):
        run.write(run_file(state="finished"), FullDisk())

    assert run.read().state == "running"


def test_what_a_killed_process_had_half_written_is_removed(tmp_path: Path) -> None:
    """Half of the results may be gigabytes; what is none of batcher's stays."""
    run = created(tmp_path)
    half = [run.path / f".{name}.4242.tmp" for name in ("results.parquet", "run.json", "kết quả.csv")]
    mine = [run.path / name for name in (".notes.tmp", "x.4242.tmp", ".a.b")]
    for path in (*half, *mine):
        path.write_bytes(b"half")

    run.tidy(DISK)

    assert [] == [path for path in half if path.exists()]
    assert mine == [path for path in mine if path.exists()]
    assert run.read().job == "tickets"
