"""The only place that makes files, and the place where a test makes the disk fail.

`Disk` is what the program asks of a disk: whole files by `durable_write`, and logs that only grow.
`LocalDisk` keeps it on a POSIX file system; `batcher.testing.FaultyDisk` fails or forgets the n-th
operation of it. After `durable_write` returns, the file is there, whole, also after a power cut;
before, the old file is. What no program can promise: a disk that says "synced" and lies.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from batcher.errors import StorageError

_TEMPORARY_SUFFIX = ".tmp"
_LEFTOVER_NAME = re.compile(r"\..+\.\d+\.tmp")


class LogFile(Protocol):
    """An append-only file. Offsets are bytes from the start."""

    def append(self, chunk: bytes) -> None:
        """Add all of `chunk`, or raise and leave the file as long as it was."""
        ...

    def sync(self) -> None:
        """Everything appended so far survives a power cut when this returns."""
        ...

    def reserve(self, free_bytes: int) -> None:
        """Make sure that the next `free_bytes` of appends find room on the disk (they read as zeros until then)."""
        ...

    def close(self) -> None:
        """Give back what was reserved and not used, and close."""
        ...


class Disk(Protocol):
    """What the program asks of a disk."""

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        """Make `target` hold what `write` puts into the file it is given: all of it, or nothing changes."""
        ...

    def open_log(self, path: Path, *, size_bytes: int = 0) -> LogFile:
        """Open a log for appending after its first `size_bytes`; what stands behind them is cut off."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one directory, and sync the directory."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file that may already be gone."""
        ...


def _made_anew(temporary: Path) -> BinaryIO:
    """A new file. Its name can be foreseen: what lies there, a link to elsewhere even, is not written to."""
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(temporary, flags, 0o666), "wb")


def storage_error(error: OSError, path: Path) -> StorageError:
    """The disk's refusal as a sentence with the fix."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file may not grow further (file size limit)",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
    }
    reason = reasons.get(error.errno or 0, error.strerror or type(error).__name__)
    return StorageError(
        f"cannot write {path}: {reason}",
        hint="mend that and run the job again: it goes on, and every answer already in the journal is safe",
    )


class LocalDisk:
    """A local POSIX file system."""

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        """See `Disk`. The order is the guarantee: write, sync, rename, sync the directory."""
        temporary = target.with_name(f".{target.name}.{os.getpid()}{_TEMPORARY_SUFFIX}")
        try:
            try:
                with _made_anew(temporary) as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            # The directory is synced last: until then a power cut may forget the rename.
            sync_directory(target.parent)
        except OSError as error:
            raise storage_error(error, target) from error

    def open_log(self, path: Path, *, size_bytes: int = 0) -> "LocalLog":
        """See `Disk`."""
        return LocalLog(path, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        try:
            source.replace(target)
            sync_directory(target.parent)
        except OSError as error:
            raise storage_error(error, target) from error

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        try:
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        except OSError as error:
            raise storage_error(error, path) from error


class LocalLog:
    """A log on a local file system.

    Appends go to the page cache in one `pwrite`: that survives `kill -9`. A short or failed write
    is undone (the file is cut back), so a later append never follows half a record.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._reserved_bytes = size_bytes
        try:
            is_new = not path.exists()
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(self._fd, size_bytes)
            if is_new:
                sync_directory(path.parent)
        except OSError as error:
            raise storage_error(error, path) from error

    def append(self, chunk: bytes) -> None:
        """See `LogFile`."""
        view, done = memoryview(chunk), 0
        try:
            while done < len(view):
                written = os.pwrite(self._fd, view[done:], self._size_bytes + done)
                if written == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += written
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size_bytes)
                self._reserved_bytes = self._size_bytes
            raise storage_error(error, self._path) from error
        self._size_bytes += done

    def sync(self) -> None:
        """See `LogFile`. `fdatasync` also writes the size, which is all the metadata a reader needs."""
        try:
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as error:
            raise storage_error(error, self._path) from error

    def reserve(self, free_bytes: int) -> None:
        """See `LogFile`. Where the system cannot preallocate (macOS), zeros are written instead."""
        start, end = self._reserved_bytes, self._size_bytes + free_bytes
        if end <= start:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, start, end - start)
            else:
                os.pwrite(self._fd, bytes(end - start), start)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, max(self._size_bytes, start))
            raise storage_error(error, self._path) from error
        self._reserved_bytes = end

    def close(self) -> None:
        """See `LogFile`."""
        try:
            os.ftruncate(self._fd, self._size_bytes)
        except OSError as error:
            raise storage_error(error, self._path) from error
        finally:
            os.close(self._fd)


def leftovers(directory: Path) -> list[Path]:
    """The half-written files that killed processes left there, and those that living ones write at this moment."""
    return [path for path in sorted(directory.iterdir()) if _LEFTOVER_NAME.fullmatch(path.name)]


def sync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
