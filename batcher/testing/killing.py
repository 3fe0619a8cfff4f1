"""A disk at whose n-th operation the process is killed, to show that any moment of a run may be its last.

SIGKILL, sent by the process to itself: nothing is flushed, no `finally` runs, as with `kill -9` from outside,
but at a moment that a test can name and come back to.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from batcher.storage.durable import Disk, LogFile

KillMoment = Literal["before", "middle", "after"]
"""Before anything of the operation is done, half-way through what it writes, or when it is done and not yet told."""


class KillingDisk:
    """Keeps the `Disk` contract until it kills the process. May be used from several threads.

    The operations are those of `FaultyDisk`, counted the same way.

    Args:
        inner: The disk that does the work.
        kill_at: The number of the operation at which the process dies, from 1; beyond the last, it lives.
        moment: When in the operation. What writes nothing has no middle, and dies before it.
        counted: Called with the number of each operation as it begins; tells a test how many there are.
    """

    def __init__(
        self,
        inner: Disk,
        *,
        kill_at: int,
        moment: KillMoment = "before",
        counted: Callable[[int], None] | None = None,
    ) -> None:
        self._inner = inner
        self._kill_at, self._moment = kill_at, moment
        self._counted = counted
        self._count = 0
        self._lock = threading.Lock()

    def durable_write(self, target: Path, write: Callable[[BinaryIO], None]) -> None:
        """See `Disk`. Killed in its middle, it leaves half a temporary file behind."""

        def write_half(file: BinaryIO) -> None:
            write(file)
            file.truncate(file.tell() // 2)
            die()

        is_last = self.is_last()
        self._inner.durable_write(target, write_half if is_last and self._moment == "middle" else write)
        self.end(is_last=is_last)

    def open_log(self, path: Path, *, size_bytes: int = 0) -> "KillingLog":
        """See `Disk`."""
        is_last = self.is_last(has_middle=False)
        log = KillingLog(self, self._inner.open_log(path, size_bytes=size_bytes))
        self.end(is_last=is_last)
        return log

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        is_last = self.is_last(has_middle=False)
        self._inner.rename(source, target)
        self.end(is_last=is_last)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        is_last = self.is_last(has_middle=False)
        self._inner.remove(path)
        self.end(is_last=is_last)

    @property
    def moment(self) -> KillMoment:
        """When in the last operation the process dies."""
        return self._moment

    def is_last(self, *, has_middle: bool = True) -> bool:
        """Count one operation, die before it if that is the moment, and say whether it is the last one."""
        with self._lock:
            self._count += 1
            number = self._count
        if self._counted is not None:
            self._counted(number)
        is_last = number == self._kill_at
        if is_last and (self._moment == "before" or (self._moment == "middle" and not has_middle)):
            die()
        return is_last

    def end(self, *, is_last: bool) -> None:
        """The operation is done: die if it was the last."""
        if is_last:
            die()


class KillingLog:
    """A log of a `KillingDisk`. Keeps the `LogFile` contract as long as it lives."""

    def __init__(self, disk: KillingDisk, inner: LogFile) -> None:
        self._disk, self._inner = disk, inner

    def append(self, chunk: bytes) -> None:
        """See `LogFile`. Killed in its middle, half of the chunk is in the file."""
        is_last = self._disk.is_last()
        if is_last and self._disk.moment == "middle":
            self._inner.append(chunk[: len(chunk) // 2])
            die()
        self._inner.append(chunk)
        self._disk.end(is_last=is_last)

    def sync(self) -> None:
        """See `LogFile`."""
        is_last = self._disk.is_last(has_middle=False)
        self._inner.sync()
        self._disk.end(is_last=is_last)

    def reserve(self, free_bytes: int) -> None:
        """See `LogFile`."""
        is_last = self._disk.is_last(has_middle=False)
        self._inner.reserve(free_bytes)
        self._disk.end(is_last=is_last)

    def close(self) -> None:
        """See `LogFile`. No operation of its own: it loses nothing."""
        self._inner.close()


def die() -> None:
    """End this process as `kill -9` does, and never return."""
    os.kill(os.getpid(), signal.SIGKILL)
    # The signal reaches this thread or another; no further operation may begin until it has.
    threading.Event().wait()
