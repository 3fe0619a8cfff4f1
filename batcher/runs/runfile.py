"""`run.json`: how a run stands, and what it takes to repeat it or to doubt it.

It is a view for people, `batcher status` and resume; the journal is the truth about rows. It is
replaced atomically, so a reader sees the old state or the new one, never half of one.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from batcher.errors import JournalError, UsageError
from batcher.storage.durable import Disk

RUN_FILE_VERSION = 1

RunState = Literal["running", "stopped", "finished", "failed"]
"""`stopped` can be resumed; `failed` ended by a refusal or a fault, and can be resumed once that is mended.

`running` without a process that holds the job's lock was killed; it is resumed like `stopped`.
"""


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds. Times are UTC; the sections are plain JSON values.

    `job_path` is the job file as it was given and `base_directory` what its paths are relative to, both
    absolute. `variables` are what `--var` gave, without those that a key was made from. `pid` and
    `host` are of the process that wrote last. `reason` says why a run stopped.
    """

    job: str
    state: RunState
    started_at: datetime
    updated_at: datetime
    job_path: str
    base_directory: str
    pid: int
    host: str
    version: int = RUN_FILE_VERSION
    finished_at: datetime | None = None
    exit_code: int | None = None
    reason: str | None = None
    counts: dict[str, int] = {}
    totals: dict[str, Any] = {}
    ledger: list[dict[str, Any]] = []
    budget: dict[str, str] | None = None
    versions: dict[str, str] = {}
    fingerprints: dict[str, Any] = {}
    variables: dict[str, str] = {}


class _Version(msgspec.Struct):
    version: int


_decode_version = msgspec.json.Decoder(_Version).decode
_decode = msgspec.json.Decoder(RunFile).decode


def read_run_file(path: Path) -> RunFile:
    """The state of a run.

    Raises:
        UsageError: There is no such file, so the directory is none of a run.
        JournalError: It is broken, or of a version that this program does not know.
    """
    try:
        encoded = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path.parent} is no run directory: it has no {path.name}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or type(error).__name__}") from error
    try:
        version = _decode_version(encoded).version
        if version == RUN_FILE_VERSION:
            return _decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JournalError(
            f"{path} is not what was written ({error}); the answers are in the journal beside it",
            hint="restore the file from a backup, or start again with `batcher run --fresh`",
        ) from error
    raise JournalError(
        f"{path} has version {version}, and this batcher knows only version {RUN_FILE_VERSION}",
        hint="use the batcher that wrote it, or a newer one",
    )


def write_run_file(path: Path, run: RunFile, disk: Disk) -> None:
    """Replace `run.json`.

    Raises:
        StorageError: The disk refused; the old state is still there.
    """
    encoded = msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n"
    write_bytes(path, encoded, disk)


def write_bytes(path: Path, content: bytes, disk: Disk) -> None:
    """Make `path` hold `content`, whole or not at all."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    disk.durable_write(path, write)


def utc(seconds: float) -> datetime:
    """A clock's `now()` as the time that `run.json` holds, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)
