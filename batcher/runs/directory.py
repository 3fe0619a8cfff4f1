"""The run directory: `runs/<job>/<time>-<4 hex>/`.

Its name sorts after every earlier run of the job, also when two start in one second or the clock was
set back. What is in it: `run.json`, `job.yaml`, `journal/`, and at the end `results.parquet`.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batcher.clock import Clock
from batcher.errors import JobError, UsageError
from batcher.runs.runfile import RunFile, read_run_file, write_run_file
from batcher.storage.durable import Disk, leftovers, sync_directory

_STAMP_FORMAT = "%Y-%m-%dT%H-%M-%SZ"
_RUN_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ)-[0-9a-f]{4}")
_NAME_BYTES_MAX = 200
_RUN_FILE_NAME = "run.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run on disk. Everything is found by its path."""

    path: Path

    @classmethod
    def create(cls, runs: Path, job: str, clock: Clock) -> "RunDirectory":
        """A new run directory with an empty `journal/`. The caller holds the job's lock.

        Raises:
            JobError: The job's name is no file name, or the directory cannot be made.
        """
        job_path = job_directory(runs, job)
        try:
            job_path.mkdir(parents=True, exist_ok=True)
            path = job_path / f"{_next_stamp(job_path, clock)}-{secrets.token_hex(2)}"
            path.mkdir()
            (path / "journal").mkdir()
            for made in (path, job_path, runs):
                sync_directory(made)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise JobError(
                f"cannot make a run directory in {job_path}: {reason}; choose another with --runs"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """The run at `path`, whose `run.json` is readable.

        Raises:
            UsageError: It is no run directory.
            JournalError: Its `run.json` is broken or of an unknown version.
        """
        if not path.is_dir():
            found = "is a file" if path.exists() else "does not exist"
            raise UsageError(f"{path} {found}; name a run directory (`batcher status` lists them)")
        run = cls(path.resolve())
        run.read()
        return run

    @classmethod
    def latest(cls, runs: Path, job: str) -> "RunDirectory | None":
        """The newest run of a job, or None."""
        return next(iter(cls.list(runs, job)), None)

    @classmethod
    def list(cls, runs: Path, job: str | None = None) -> "list[RunDirectory]":
        """The runs of one job, or of all; newest first. A directory without `run.json` never began and is left out."""
        jobs = [job_directory(runs, job)] if job is not None else [path for path in _entries(runs) if path.is_dir()]
        found = [
            path
            for job_path in jobs
            for path in _entries(job_path)
            if _RUN_NAME.fullmatch(path.name) and (path / _RUN_FILE_NAME).is_file()
        ]
        return [cls(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]

    def read(self) -> RunFile:
        """How the run stands; see `read_run_file`."""
        return read_run_file(self.run_json)

    def write(self, run: RunFile, disk: Disk) -> None:
        """Replace `run.json`; see `write_run_file`."""
        write_run_file(self.run_json, run, disk)

    def tidy(self, disk: Disk) -> None:
        """Remove what a process that was killed had half written: results may be gigabytes. The caller holds the lock.

        Raises:
            StorageError: The disk refused.
        """
        for path in leftovers(self.path):
            disk.remove(path)

    @property
    def job(self) -> str:
        """The job's name."""
        return self.path.parent.name

    @property
    def job_path(self) -> Path:
        """Where the runs of this job are, and their lock."""
        return self.path.parent

    @property
    def run_json(self) -> Path:
        """State, counts, totals."""
        return self.path / _RUN_FILE_NAME

    @property
    def job_yaml(self) -> Path:
        """The job as run, secrets still as `${NAME}`."""
        return self.path / "job.yaml"

    @property
    def journal(self) -> Path:
        """The journal's directory."""
        return self.path / "journal"

    @property
    def results(self) -> Path:
        """One row per input row; there once the run is finished."""
        return self.path / "results.parquet"

    @property
    def report(self) -> Path:
        """The report for the browser."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """The log, JSON lines."""
        return self.path / "log.jsonl"


def job_directory(runs: Path, job: str) -> Path:
    """Where the runs of `job` are.

    Raises:
        JobError: The name cannot be a directory's.
    """
    is_name = job.strip() and not job.startswith(".") and job.isprintable() and not {"/", "\\"} & {*job}
    if not is_name or len(job.encode("utf-8", "replace")) > _NAME_BYTES_MAX:
        raise JobError(f"name is {job!r}, which cannot name a directory; write letters, digits, - and _")
    return runs / job


def _entries(directory: Path) -> "list[Path]":
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror or type(error).__name__}") from error


def _next_stamp(job_path: Path, clock: Clock) -> str:
    now = datetime.fromtimestamp(int(clock.now()), UTC)
    stamps = [match[1] for path in _entries(job_path) if (match := _RUN_NAME.fullmatch(path.name))]
    if stamps:
        latest = datetime.strptime(max(stamps), _STAMP_FORMAT).replace(tzinfo=UTC)
        now = max(now, latest + timedelta(seconds=1))
    return now.strftime(_STAMP_FORMAT)
