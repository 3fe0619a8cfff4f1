"""The log that takes the outcomes, the room reserved ahead of its end, and how it becomes a segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batcher.errors import JournalError, StorageError
from batcher.journal.frames import Payloads, log_header, row_numbers, scan_log_file
from batcher.journal.merge import Run
from batcher.journal.segment import Segment, seal, unsealed_batches
from batcher.storage.durable import Disk, LogFile

_STEP_BYTES_MAX = 8 << 20


class OpenLog:
    """One log that is being written.

    `append` and `keep_room` are called from one thread and are quick; `sync` may run beside them in another.

    Args:
        path: Where it is.
        sequence: Its number.
        fingerprint: The job's; a new log's header names it.
        size_bytes: Where the frames found in it end; 0 for a new one.
        room_bytes: How much room is reserved ahead of the end at all times.
        disk: Where it is written.

    Raises:
        StorageError: The disk has not that much room, or refused the header.
    """

    def __init__(
        self, path: Path, *, sequence: int, fingerprint: str, size_bytes: int, room_bytes: int, disk: Disk
    ) -> None:
        self.path = path
        self.sequence = sequence
        self.size_bytes = size_bytes
        self._room_bytes = room_bytes
        self._reserved_bytes = size_bytes
        self._is_closed = False
        header = b"" if size_bytes else log_header(sequence, fingerprint)
        self._file: LogFile = disk.open_log(path, size_bytes=size_bytes)
        try:
            self.keep_room(len(header))
            if header:
                self.append(header)
            # A header is synced before the first frame; frames that a killed process left are synced now.
            self._file.sync()
        except StorageError:
            self.close()
            raise

    def keep_room(self, append_bytes: int) -> None:
        """Reserve as much as is needed for the next append to leave the room free that was asked for.

        Reserves some more each time, so that few calls do: taking room costs about 50 µs on a local disk.

        Raises:
            StorageError: The disk has no such room; what was reserved before stays reserved.
        """
        wanted_bytes = append_bytes + self._room_bytes
        if self._reserved_bytes - self.size_bytes < wanted_bytes:
            wanted_bytes += min(self._room_bytes, _STEP_BYTES_MAX)
            self._file.reserve(wanted_bytes)
            self._reserved_bytes = self.size_bytes + wanted_bytes

    def append(self, chunk: bytes) -> None:
        """Write whole frames; safe from `kill -9` when it returns.

        Raises:
            StorageError: The disk refused it; nothing of it is in the log.
        """
        self._file.append(chunk)
        self.size_bytes += len(chunk)

    def sync(self) -> None:
        """Make what was appended safe from a power cut.

        Raises:
            StorageError: The disk refused it, and nobody knows what it holds now.
        """
        self._file.sync()

    def close(self) -> None:
        """Give back the room that was not used. Closing twice is closing once.

        Raises:
            StorageError: The disk refused; the log ends in zeros then, which every reader takes for its end.
        """
        if not self._is_closed:
            self._is_closed = True
            self._file.close()


def sync_and_close(written: Sequence[OpenLog], retired: Sequence[OpenLog]) -> None:
    """Sync the one, then close the other; `retired` are some of `written`. Blocking.

    Raises:
        StorageError: The disk refused; those after it were not looked at.
    """
    for log in written:
        log.sync()
    for log in retired:
        log.close()


@dataclass(frozen=True, slots=True)
class LogStore:
    """Opens, reads back and seals the logs of one journal. Everything here blocks."""

    directory: Path
    disk: Disk
    fingerprint: str
    room_bytes: int

    def open(self, sequence: int, size_bytes: int = 0) -> OpenLog:
        """The log of that number, new or to be gone on with after `size_bytes`."""
        return OpenLog(
            self.directory / f"{sequence:06d}.log",
            sequence=sequence,
            fingerprint=self.fingerprint,
            size_bytes=size_bytes,
            room_bytes=self.room_bytes,
            disk=self.disk,
        )

    def read(self, log: OpenLog) -> Payloads:
        """The payloads of a closed log, all of them checked.

        Raises:
            JournalError: The disk gives back something else than was written.
        """
        scan = scan_log_file(log.path, sequence=log.sequence, fingerprint=self.fingerprint)
        if scan.end_bytes != log.size_bytes or scan.lost_bytes:
            raise JournalError(
                f"{log.path} is damaged at byte {scan.end_bytes}; "
                "move it away and run `batcher resume` to ask its rows again"
            )
        return scan.payloads

    def seal(self, log: OpenLog) -> Segment | None:
        """The segment of a closed and synced log, on disk and whole; None when the log holds no outcome.

        The log stays, and is needless from now on: see `remove`.

        Raises:
            StorageError: The disk refused it.
            JournalError: The disk gives back something else than was written.
        """
        payloads = self.read(log)
        if not payloads:
            return None
        return seal(payloads, log.path, sequence=log.sequence, fingerprint=self.fingerprint, disk=self.disk)

    def remove(self, log: OpenLog) -> None:
        """Remove a log that is sealed or empty.

        Raises:
            StorageError: The disk refused it; the next opening removes it.
        """
        self.disk.remove(log.path)

    def runs(self, log: OpenLog) -> list[Run]:
        """What a closed log adds to a merge: one run, or none when it holds no outcome.

        Raises:
            JournalError: The disk gives back something else than was written.
        """
        payloads = self.read(log)
        if not payloads:
            return []
        rows = row_numbers(payloads)
        return [Run(min(rows), max(rows), partial(unsealed_batches, payloads, log.path))]
