"""Which run a command means, and whether the job still fits it.

`batcher run` goes on with the job's latest unfinished run, and begins a new one where there is none.
A run whose questions have changed since is not gone on with: half of its rows would answer another
question. Speed, prices and where results go may change freely.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from batcher.assemble.find import find_run
from batcher.assemble.findings import Applied, recall
from batcher.assemble.prepare import Prepared, prepare
from batcher.assemble.session import Session
from batcher.assemble.state import begin_run_file
from batcher.clock import Clock, SystemClock
from batcher.config.fingerprint import Fingerprint, describe_change
from batcher.config.load import LoadedJob, load_job
from batcher.errors import JobError, LockedError, UsageError
from batcher.runs.directory import RunDirectory, job_directory
from batcher.runs.lock import JobLock
from batcher.runs.runfile import RunFile, write_bytes
from batcher.sources.source import FileSource, InputFingerprint
from batcher.storage.durable import Disk, LocalDisk

LOOKING_TOLD_AFTER_S, LOOKING_TOLD_EVERY_S = 1.0, 0.2

LogFormat = Literal["auto", "plain", "json"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the job; `disk` and `clock` are the machine's, and others in tests."""

    runs: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    sets: Sequence[str] = ()
    limit: int | None = None
    is_fresh: bool = False
    is_retry: bool = False
    log_format: LogFormat = "auto"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    disk: Disk = field(default_factory=LocalDisk)
    clock: Clock = field(default_factory=SystemClock)


def run_job(path: Path, options: RunOptions) -> tuple[Path, int]:
    """Run a job: its unfinished run if there is one, else a new one. The run directory and the exit code.

    Raises:
        BatcherError: Nothing was begun; its class has the exit code.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a job file, or `batcher resume {path}` to go on with a run")
    loaded = load_job(
        path, variables=options.variables, sets=options.sets, limit=options.limit, environ=options.environ
    )
    newest = RunDirectory.latest(options.runs, loaded.job.name)
    latest = None if options.is_fresh else _unfinished(options.runs, loaded)
    # Whatever is wrong is found before the lock is taken: a refused job leaves nothing behind.
    prepared = _fitting(latest, loaded) if latest is not None else _checked(prepare(loaded))
    clock, disk = options.clock, options.disk
    applied = recall(loaded, options.runs, now_s=clock.now())
    if latest is None:
        applied.refuse()
    with JobLock(job_directory(options.runs, loaded.job.name), clock, disk) as lock:
        # Also where the other one has finished by now: who starts two at one instant wants one run.
        is_other = RunDirectory.latest(options.runs, loaded.job.name) != newest
        if is_other or (not options.is_fresh and _unfinished(options.runs, loaded) != latest):
            raise LockedError(f"another run of {loaded.job.name} was begun or ended just now", hint="run it again")
        if latest is not None:
            return _go_on(latest, prepared, options, lock, applied)
        directory = RunDirectory.create(options.runs, loaded.job.name, clock)
        run_file = begin_run_file(prepared, now_s=clock.now())
        write_bytes(directory.job_yaml, loaded.as_run.encode(), disk)
        directory.write(run_file, disk)
        lock.name_run(directory.path)
        return directory.path, _session(directory, run_file, prepared, options, applied).run()


def resume_run(target: Path, options: RunOptions) -> tuple[Path, int]:
    """Go on with a run, or ask its failed and invalid rows again (`is_retry`).

    Args:
        target: A run directory, or a job file for its latest run.
        options: Of the command line; `sets` and `limit` are the run's own.

    Raises:
        BatcherError: Nothing was begun; its class has the exit code.
    """
    directory = find_run(target, options.runs, variables=options.variables, environ=options.environ)
    run_file = directory.read()
    loaded = load_job(
        directory.job_yaml,
        variables={**run_file.variables, **options.variables},
        environ=options.environ,
        original=Path(run_file.base_directory) / Path(run_file.job_path).name,
    )
    prepared = _fitting(directory, loaded)
    applied = recall(loaded, directory.job_path.parent, now_s=options.clock.now())
    with JobLock(directory.job_path, options.clock, options.disk) as lock:
        return _go_on(directory, prepared, options, lock, applied)


def _go_on(
    directory: RunDirectory, prepared: Prepared, options: RunOptions, lock: JobLock, applied: Applied
) -> tuple[Path, int]:
    lock.name_run(directory.path)
    directory.tidy(options.disk)
    write_bytes(directory.job_yaml, prepared.loaded.as_run.encode(), options.disk)
    process = {"pid": os.getpid(), "host": socket.gethostname()}
    run_file = msgspec.structs.replace(directory.read(), **process)
    return directory.path, _session(directory, run_file, prepared, options, applied).run()


def _session(
    directory: RunDirectory, run_file: RunFile, prepared: Prepared, options: RunOptions, applied: Applied
) -> Session:
    return Session(
        directory,
        run_file,
        prepared,
        options.log_format,
        options.environ,
        disk=options.disk,
        clock=options.clock,
        is_retry=options.is_retry,
        applied=applied,
    )


def _fitting(directory: RunDirectory, loaded: LoadedJob) -> Prepared:
    """The job's parts, if its questions and its input are those of the run."""
    run_file = directory.read()
    _refuse_other_questions(directory, run_file, loaded)
    prepared = prepare(loaded)
    _refuse_other_input(directory, run_file, prepared.source)
    # Its keys were read when the run began, and it has not changed since.
    return _checked(prepared, keys=False)


def _unfinished(runs: Path, loaded: LoadedJob) -> RunDirectory | None:
    """The run to go on with, or None to begin one."""
    latest = RunDirectory.latest(runs, loaded.job.name)
    if latest is None:
        return None
    run_file = latest.read()
    if run_file.state == "finished":
        return None
    # A run that was refused or stopped before its first answer keeps nobody from mending the job.
    has_nothing = run_file.exit_code is not None and run_file.counts.get("done") == 0
    return None if has_nothing and _changes(run_file, loaded) else latest


def _changes(run_file: RunFile, loaded: LoadedJob) -> list[str]:
    return describe_change(Fingerprint.from_json(run_file.fingerprints["job"]), loaded.fingerprint)


def _refuse_other_questions(directory: RunDirectory, run_file: RunFile, loaded: LoadedJob) -> None:
    changes = _changes(run_file, loaded)
    if changes:
        raise JobError(
            f"the job is not the one of the unfinished run {directory.path}: {', '.join(changes)}",
            hint="undo the change to go on with that run, or begin a new one with `batcher run --fresh`",
        )


def _refuse_other_input(directory: RunDirectory, run_file: RunFile, source: FileSource) -> None:
    change = source.changed(InputFingerprint.from_json(run_file.fingerprints["input"]))
    if change is not None:
        raise JobError(
            f"the input is not the one of the unfinished run {directory.path}: {change}",
            hint="put the input back to go on with that run, or begin a new one with `batcher run --fresh`",
        )


class _Looking:
    """Tells a person at a terminal that a large input is being looked at, and wipes the line afterwards."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._due_s = self._clock.monotonic() + LOOKING_TOLD_AFTER_S
        self._was_told = False

    def __call__(self, rows: int) -> None:
        if sys.stderr.isatty() and self._clock.monotonic() >= self._due_s:
            self._due_s += LOOKING_TOLD_EVERY_S
            self._was_told = True
            self._write(f"\rlooking at the input: {rows:,} rows")

    def over(self) -> None:
        """The rows were looked at."""
        if self._was_told:
            self._write("\r" + " " * 60 + "\r")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _checked(prepared: Prepared, *, keys: bool = True) -> Prepared:
    looking = _Looking()
    try:
        return prepared.checked(keys=keys, tell=looking)
    finally:
        looking.over()
