"""One run of a job at a time.

The lock is the operating system's (`flock` on `runs/<job>/.lock`), so it ends with the process that holds it,
also by `kill -9`. On a directory that several hosts share it is worth what the file system's `flock` is worth:
Linux keeps it between the clients of an NFS server (flock(2)), and where a file system has none the lock is
refused. Who holds it stands in `.lock-owner.json` beside it, for the message only: a stale or broken owner
file, of this host or another, never holds anything back, and nobody removes a lock that is not theirs.
"""

import contextlib
import os
import socket
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from filelock import BaseFileLock, FileLock, Timeout

from batcher.clock import Clock
from batcher.errors import JobError, LockedError, StorageError
from batcher.runs.runfile import utc, write_bytes
from batcher.storage.durable import Disk, leftovers

# Somebody who only looks (`is_locked`) holds the lock for microseconds; a start waits that out.
_PATIENCE_S = 0.3


class LockOwner(msgspec.Struct, frozen=True):
    """Who holds the lock. `run` is the run directory, once it is known."""

    pid: int
    host: str
    since: datetime
    run: str | None = None


class JobLock:
    """The lock of one job; a context manager. It is held until `release`, or until this object is gone.

    Args:
        job_path: `runs/<job>`, made if it is missing.
        clock: Tells since when.
        disk: Keeps the owner file.
    """

    def __init__(self, job_path: Path, clock: Clock, disk: Disk) -> None:
        self._job_path, self._clock, self._disk = job_path, clock, disk
        self._lock = _file_lock(job_path)
        self._owner: LockOwner | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: Another run of the job holds it.
            JobError: The directory cannot be written.
        """
        try:
            self._job_path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_PATIENCE_S)
        except Timeout as error:
            raise LockedError(
                f"another run of {self._job_path.name} is at work{_owner_words(self._job_path)}",
                hint="wait for its end, or stop it with Ctrl-C; `batcher status` shows how it stands",
            ) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise JobError(f"cannot lock {self._job_path}: {reason}; choose another directory with --runs") from error
        try:
            for path in leftovers(self._job_path):
                self._disk.remove(path)
            self._write_owner(LockOwner(os.getpid(), socket.gethostname(), utc(self._clock.now())))
        except BaseException:
            self._lock.release()
            raise

    def name_run(self, run: Path) -> None:
        """Tell others which run holds the lock."""
        if self._owner is None:
            raise RuntimeError("the lock is not held")
        self._write_owner(msgspec.structs.replace(self._owner, run=str(run)))

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._owner is None:
            return
        self._owner = None
        try:
            # A disk that refuses must not turn a finished run into a failed one: a stale owner holds nothing back.
            with contextlib.suppress(StorageError):
                self._disk.remove(_owner_path(self._job_path))
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _write_owner(self, owner: LockOwner) -> None:
        write_bytes(_owner_path(self._job_path), msgspec.json.encode(owner), self._disk)
        self._owner = owner


def is_locked(job_path: Path) -> bool:
    """Whether a process is at work on the job: a `running` run of an unlocked job was killed."""
    if not _lock_path(job_path).exists():
        return False
    probe = _file_lock(job_path)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        # Another user's runs, which may be read but not locked: the owner file is all there is to go by.
        return lock_owner(job_path) is not None
    probe.release()
    return False


def lock_owner(job_path: Path) -> LockOwner | None:
    """Who holds the lock, or held it last before being killed; None where nothing readable says so."""
    try:
        return msgspec.json.decode(_owner_path(job_path).read_bytes(), type=LockOwner)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _owner_words(job_path: Path) -> str:
    owner = lock_owner(job_path)
    if owner is None:
        return ""
    run = "" if owner.run is None else f", {owner.run}"
    return f": pid {owner.pid} on {owner.host}, since {owner.since.strftime('%Y-%m-%d %H:%M:%S')} UTC{run}"


def _file_lock(job_path: Path) -> BaseFileLock:
    # A run may be released by another thread than the one that began it. On a file system without `flock` the
    # lock is refused: the library's stand-in is a file that a killed process on another host leaves for ever.
    return FileLock(_lock_path(job_path), thread_local=False, fallback_to_soft=False)


def _lock_path(job_path: Path) -> Path:
    return job_path / ".lock"


def _owner_path(job_path: Path) -> Path:
    return job_path / ".lock-owner.json"
