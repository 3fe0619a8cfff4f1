"""Which run a person means: by its directory, by its job's file, or by its job's name."""

import os
from collections.abc import Mapping
from pathlib import Path

from batcher.config.load import load_job
from batcher.errors import JobError, UsageError
from batcher.runs.directory import RunDirectory


def find_run(
    target: Path, runs: Path, *, variables: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ
) -> RunDirectory:
    """The run that `target` names: a run directory, or the latest run of a job by its file or name.

    Raises:
        UsageError: There is no such run.
    """
    if target.is_dir():
        return RunDirectory.open(target)
    name = str(target)
    if target.is_file():
        name = load_job(target, variables=variables, environ=environ).job.name
    try:
        latest = RunDirectory.latest(runs, name)
    except JobError:
        latest = None
    if latest is None:
        raise UsageError(
            f"{target} has no run in {runs}: name a run directory, a job file, or a job's name",
            hint=f"`batcher run {target}` begins one, `batcher status` lists those there are",
        )
    return latest
