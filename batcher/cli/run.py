"""`batcher run`, `resume`, `retry` and `check`."""

from pathlib import Path
from typing import Literal

import click

from batcher.cli.lean import lean_imports
from batcher.cli.options import LIMIT, LOG_FORMAT, RUNS, SETS, VARIABLES, parse_variables, say

LogFormat = Literal["auto", "plain", "json"]

_JOB = click.argument("job", type=click.Path(path_type=Path, dir_okay=True))
_RUN = click.argument("run", type=click.Path(path_type=Path))


@click.command()
@_JOB
@RUNS
@LIMIT
@SETS
@VARIABLES
@click.option("--fresh", is_flag=True, help="Begin a new run; leave an unfinished one as it is.")
@click.option("--dry-run", is_flag=True, help="Read and render everything, send nothing.")
@LOG_FORMAT
def run(
    job: Path,
    runs: Path,
    limit: int | None,
    sets: tuple[str, ...],
    variables: tuple[str, ...],
    fresh: bool,
    dry_run: bool,
    log_format: LogFormat,
) -> int:
    """Run a job; go on with its unfinished run if there is one.

    The last line on stdout is the run directory.
    """
    with lean_imports():
        from batcher.assemble.run import RunOptions, run_job

    values = parse_variables(variables)
    if dry_run:
        from batcher.assemble.check import dry_run_job

        dry_run_job(job, variables=values, sets=sets, limit=limit, echo=say)
        return 0
    options = RunOptions(
        runs=runs, variables=values, sets=sets, limit=limit, is_fresh=fresh, log_format=log_format, environ=_environ()
    )
    return _show(run_job(job, options))


@click.command()
@_RUN
@RUNS
@VARIABLES
@LOG_FORMAT
def resume(run: Path, runs: Path, variables: tuple[str, ...], log_format: LogFormat) -> int:
    """Go on with a run: its directory, or a job (file or name) for its latest run."""
    with lean_imports():
        from batcher.assemble.run import RunOptions, resume_run

    options = RunOptions(runs=runs, variables=parse_variables(variables), log_format=log_format, environ=_environ())
    return _show(resume_run(run, options))


@click.command()
@_RUN
@RUNS
@VARIABLES
@LOG_FORMAT
def retry(run: Path, runs: Path, variables: tuple[str, ...], log_format: LogFormat) -> int:
    """Ask the failed and invalid rows of a run again."""
    with lean_imports():
        from batcher.assemble.run import RunOptions, resume_run

    options = RunOptions(
        runs=runs, variables=parse_variables(variables), log_format=log_format, environ=_environ(), is_retry=True
    )
    return _show(resume_run(run, options))


@click.command(short_help="Check a job, its input and its prompts; nothing is asked.")
@_JOB
@LIMIT
@SETS
@VARIABLES
@click.option("--live", is_flag=True, help="Also try each key with one small call.")
def check(job: Path, limit: int | None, sets: tuple[str, ...], variables: tuple[str, ...], live: bool) -> int:
    """Check the job file, its input and its prompts, and show three rendered."""
    with lean_imports():
        from batcher.assemble.check import check_job

    return check_job(job, variables=parse_variables(variables), sets=sets, limit=limit, is_live=live, echo=say)


def _environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def _show(directory_and_code: tuple[Path, int]) -> int:
    directory, code = directory_and_code
    # Absolute, so that a script may take it from wherever it is.
    click.echo(str(directory.absolute()))
    return code
