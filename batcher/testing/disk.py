"""A disk that fails, cuts short, forgets or loses its power, to show that nothing is lost by it.

`FaultyDisk` stands before another disk and counts what is asked of it: `append`, `sync`, `reserve`,
`open_log`, `durable_write`, `rename` and `remove` are one operation each. A test lets the n-th fail for
n = 1, 2, 3 … until a run passes untouched.
"""

import errno
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from batcher.storage.durable import Disk, LogFile, storage_error

FaultMode = Literal["fail", "short", "off"]
"""`fail` does nothing of the operation; `short` does a part of it first, as a crash in its middle would; `off` is
a power cut: neither this operation nor any later one does anything, and `power_cut` takes what was not synced."""

_BLOCK_BYTES = 4096


class FaultyDisk:
    """Keeps the `Disk` contract until it does not. May be used from several threads.

    Args:
        inner: The disk that does the work.
        fail_at: The number of the operation that fails, from 1; None for none.
        mode: How it fails.
        lasts: Whether all later operations fail too, as on a disk that is full or gone; removing still works.
        room_bytes: How much room the disk has for logs and their reserve, and for whole files; None for any.
        error_number: What the failure says.
        forget_at: The number of an operation that a lying disk acknowledges, and that `power_cut` undoes all the
            same: a synced append, a sync, a renamed file.
    """

    def __init__(
        self,
        inner: Disk,
        *,
        fail_at: int | None = None,
        mode: FaultMode = "fail",
        lasts: bool = False,
        room_bytes: int | None = None,
        error_number: int = errno.ENOSPC,
        forget_at: int | None = None,
    ) -> None:
        self._inner = inner
        self._forget_at = forget_at
        self._forgotten: list[Callable[[], None]] = []
        self._fail_at, self._mode, self._lasts = fail_at, mode, lasts
        self._error_number = error_number
        self._room_bytes = room_bytes
        self._used_bytes: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._logs: dict[Path, FaultyLog] = {}
        self.operations: list[str] = []

    @property
    def has_failed(self) -> bool:
        """Whether the operation that was to fail has been reached."""
        return self._fail_at is not None and len(self.operations) >= self._fail_at

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        """See `Disk`. Cut short, it leaves half a temporary file behind."""

        def write_and_take_room(file: BinaryIO) -> None:
            write(file)
            self.take_room(target, file.tell())

        if self.fails("durable_write"):
            if self._mode == "short":
                temporary = target.with_name(f".{target.name}.0.tmp")
                with temporary.open("wb") as file:
                    write(file)
                    file.truncate(file.tell() // 2)
            raise self.error(target)
        if self.forgets():
            self.undo_at_power_cut(_putting_back(target))
        self._inner.durable_write(target, write_and_take_room)

    def open_log(self, path: Path, *, size_bytes: int = 0) -> "FaultyLog":
        """See `Disk`."""
        if self.fails("open_log"):
            raise self.error(path)
        log = FaultyLog(self, path, self._inner.open_log(path, size_bytes=size_bytes), size_bytes)
        self._logs[path] = log
        self.take_room(path, size_bytes)
        return log

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        if self.fails("rename"):
            raise self.error(source)
        if self.forgets():
            self.undo_at_power_cut(_putting_back(source))
            self.undo_at_power_cut(_putting_back(target))
        self._inner.rename(source, target)
        self._used_bytes[target] = self._used_bytes.pop(source, 0)

    def remove(self, path: Path) -> None:
        """See `Disk`. Cut short, the file is gone and the error comes all the same."""
        fails = self.fails("remove")
        if not fails and self.forgets():
            self.undo_at_power_cut(_putting_back(path))
        if not fails or self._mode == "short":
            self._inner.remove(path)
            self._used_bytes.pop(path, None)
            self._logs.pop(path, None)
        if fails:
            raise self.error(path)

    def power_cut(self, chance: random.Random | None = None) -> None:
        """Forget what was appended to logs and not synced, and what was to be forgotten; the logs are useless after it.

        With `chance`, each block of 4 KiB is kept or forgotten by itself, for disks write them out in any order.
        """
        for log in self._logs.values():
            log.forget(chance)
        self._logs.clear()
        for undo in self._forgotten:
            undo()
        self._forgotten.clear()

    def forgets(self) -> bool:
        """Whether the operation counted last is the one that a power cut will undo."""
        return len(self.operations) == self._forget_at

    def undo_at_power_cut(self, undo: Callable[[], None]) -> None:
        """Remember how the forgotten operation is undone."""
        self._forgotten.append(undo)

    def fails(self, operation: str) -> bool:
        """Count one operation, and say whether it is one that fails."""
        with self._lock:
            self.operations.append(operation)
            number = len(self.operations)
        if self._fail_at is None:
            return False
        if self._mode == "off":
            return number >= self._fail_at
        return number == self._fail_at or (self._lasts and number > self._fail_at and operation != "remove")

    def is_short(self) -> bool:
        """Whether a failing operation does a part first."""
        return self._mode == "short"

    def take_room(self, path: Path, size_bytes: int) -> None:
        """Let the file have so many bytes in all.

        Raises:
            StorageError: There is no such room.
        """
        with self._lock:
            others_bytes = sum(used for other, used in self._used_bytes.items() if other != path)
            if self._room_bytes is not None and others_bytes + size_bytes > self._room_bytes:
                raise self.error(path)
            self._used_bytes[path] = size_bytes

    def error(self, path: Path) -> Exception:
        """What a failing operation raises."""
        return storage_error(OSError(self._error_number, "made to fail"), path)


class FaultyLog:
    """A log of a `FaultyDisk`. Keeps the `LogFile` contract until it does not."""

    def __init__(self, disk: FaultyDisk, path: Path, inner: LogFile, size_bytes: int) -> None:
        self._disk, self._path, self._inner = disk, path, inner
        self._size_bytes = self._synced_bytes = size_bytes
        self._reserved_bytes = size_bytes

    def append(self, chunk: bytes) -> None:
        """See `LogFile`. Cut short, a part of the chunk is written and stays."""
        if self._disk.fails("append"):
            if self._disk.is_short():
                self._inner.append(chunk[: len(chunk) // 2])
            raise self._disk.error(self._path)
        reserved_bytes = max(self._reserved_bytes, self._size_bytes + len(chunk))
        self._disk.take_room(self._path, reserved_bytes)
        if self._disk.forgets():
            self._disk.undo_at_power_cut(_zeroing(self._path, self._size_bytes, len(chunk)))
        self._inner.append(chunk)
        self._size_bytes += len(chunk)
        self._reserved_bytes = reserved_bytes

    def sync(self) -> None:
        """See `LogFile`."""
        size_bytes = self._size_bytes
        if self._disk.fails("sync"):
            raise self._disk.error(self._path)
        if self._disk.forgets():
            return
        self._inner.sync()
        self._synced_bytes = size_bytes

    def reserve(self, free_bytes: int) -> None:
        """See `LogFile`."""
        if self._disk.fails("reserve"):
            raise self._disk.error(self._path)
        reserved_bytes = max(self._reserved_bytes, self._size_bytes + free_bytes)
        self._disk.take_room(self._path, reserved_bytes)
        self._inner.reserve(free_bytes)
        self._reserved_bytes = reserved_bytes

    def close(self) -> None:
        """See `LogFile`."""
        self._disk.take_room(self._path, self._size_bytes)
        self._inner.close()

    def forget(self, chance: random.Random | None) -> None:
        """Put zeros where appends were not synced: everywhere, or by blocks as `chance` will."""
        content = bytearray(self._path.read_bytes())
        for block in range(self._synced_bytes // _BLOCK_BYTES * _BLOCK_BYTES, len(content), _BLOCK_BYTES):
            if chance is None or chance.random() < 0.5:
                start, stop = max(block, self._synced_bytes), min(block + _BLOCK_BYTES, len(content))
                content[start:stop] = bytes(stop - start)
        self._path.write_bytes(content)


def _putting_back(path: Path) -> Callable[[], None]:
    """What makes `path` as it is now."""
    content = path.read_bytes() if path.exists() else None

    def put_back() -> None:
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)

    return put_back


def _zeroing(path: Path, start: int, length: int) -> Callable[[], None]:
    """What makes a stretch of a log read as if it had never been written."""

    def zero() -> None:
        if path.exists():
            content = bytearray(path.read_bytes())
            content[start : start + length] = bytes(len(content[start : start + length]))
            path.write_bytes(content)

    return zero
