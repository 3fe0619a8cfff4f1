"""The lock: one run of a job at a time, whatever happened before."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from batcher.errors import ExitCode, JobError, LockedError
from batcher.runs.lock import JobLock, is_locked, lock_owner
from batcher.storage.durable import LocalDisk
from batcher.testing.clock import ManualClock
from batcher.testing.disk import FaultyDisk

HOLDER = """
import sys
from pathlib import Path
from batcher.clock import SystemClock
from batcher.runs.lock import JobLock
from batcher.storage.durable import LocalDisk
lock = JobLock(Path(sys.argv[1]), SystemClock(), LocalDisk())
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def lock(job_path: Path) -> JobLock:
    return JobLock(job_path, ManualClock(), LocalDisk())


def test_a_second_run_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    """Exit code 7, with pid, host and time: enough to find the other run."""
    with lock(tmp_path / "tickets") as held:
        held.name_run(tmp_path / "tickets" / "2026")
        with pytest.raises(LockedError) as caught:
            lock(tmp_path / "tickets").acquire()

    expected = (
        f"another run of tickets is at work: pid {os.getpid()} on {socket.gethostname()}, "
        f"since 2023-11-14 22:13:20 UTC, {tmp_path}/tickets/2026"
    )
    assert caught.value.message == expected
    assert caught.value.exit_code is ExitCode.LOCKED


def test_a_released_lock_is_free_and_leaves_no_owner(tmp_path: Path) -> None:
    first = lock(tmp_path)
    with first:
        assert is_locked(tmp_path)
    first.release()

    assert not is_locked(tmp_path)
    assert lock_owner(tmp_path) is None
    with lock(tmp_path), pytest.raises(LockedError):
        first.acquire()


def test_a_lock_can_be_released_by_another_thread(tmp_path: Path) -> None:
    held = lock(tmp_path)
    held.acquire()
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()

    assert not is_locked(tmp_path)


def test_releasing_what_is_not_held_frees_nobody_elses_lock(tmp_path: Path) -> None:
    with lock(tmp_path):
        loser = lock(tmp_path)
        with pytest.raises(LockedError):
            loser.acquire()
        loser.release()

        assert is_locked(tmp_path)
        assert lock_owner(tmp_path) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"pid": "x"}'])
def test_a_broken_owner_file_holds_nothing_back(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock-owner.json").write_bytes(content)
    with lock(tmp_path) as held:
        (tmp_path / ".lock-owner.json").write_bytes(content)
        with pytest.raises(LockedError, match=r"is at work$"):
            lock(tmp_path).acquire()
        held.release()

    assert not is_locked(tmp_path)


def test_kill_9_frees_the_lock(tmp_path: Path) -> None:
    """The operating system lets go; a stale owner file, which is still there, is overwritten."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"pid {holder.pid} on"):
            lock(tmp_path).acquire()
        assert is_locked(tmp_path)
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()

    assert not is_locked(tmp_path)
    assert lock_owner(tmp_path).pid == holder.pid
    with lock(tmp_path):
        assert lock_owner(tmp_path).pid == os.getpid()


def test_a_lock_that_cannot_say_who_holds_it_is_not_kept(tmp_path: Path) -> None:
    """A full disk at the start must not leave a lock behind in a process that goes on."""

    class FullDisk(LocalDisk):
        def durable_write(self, target, write):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        JobLock(tmp_path, ManualClock(), FullDisk()).acquire()

    assert not is_locked(tmp_path)


def test_a_disk_that_refuses_at_the_end_does_not_fail_the_run(tmp_path: Path) -> None:
    """The owner file is for the message only: a finished run stays finished, and the lock is free."""
    disk = FaultyDisk(LocalDisk(), fail_at=2)
    with JobLock(tmp_path, ManualClock(), disk):
        pass

    assert disk.has_failed
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert lock_owner(tmp_path).pid == os.getpid()


def test_half_an_owner_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "..lock-owner.json.4000000.tmp"
    leftover.write_text("{")
    with lock(tmp_path):
        assert not leftover.exists()


def test_where_the_file_system_has_no_locks_the_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stands for a lock would be left by a process that dies on another host, and hold for ever."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(JobError, match=r"cannot lock .*; choose another directory with --runs"):
        lock(tmp_path).acquire()
    assert [".lock"] == [path.name for path in tmp_path.iterdir()]
    assert b"" == (tmp_path / ".lock").read_bytes()


def test_a_place_that_cannot_be_locked_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()

    with pytest.raises(JobError, match="cannot lock"):
        lock(tmp_path / "runs" / "tickets").acquire()


def test_a_directory_without_a_lock_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
