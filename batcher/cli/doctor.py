"""`batcher doctor`: what the job's provider can do, found out with a few cheap calls."""

from pathlib import Path

import click

from batcher.cli.options import RUNS, SETS, VARIABLES, parse_variables


@click.command(short_help="Probe the job's provider and each key with a few cheap calls.")
@click.argument("job", type=click.Path(path_type=Path, dir_okay=True))
@RUNS
@SETS
@VARIABLES
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object.")
def doctor(job: Path, runs: Path, sets: tuple[str, ...], variables: tuple[str, ...], as_json: bool) -> int:
    """Probe the job's provider with each of its keys, and remember what it can do.

    A dozen small calls a key, in less than a minute: is the key accepted and the model there; are usage, logprobs,
    prompt logprobs and rate headers returned; are a JSON schema, a seed and a token limit kept; do the clocks agree.
    The findings stand beside the runs, and `batcher run` uses them for a week.
    """
    from batcher.assemble.doctor import DoctorOptions, doctor_job

    options = DoctorOptions(runs=runs, variables=parse_variables(variables), sets=sets, is_json=as_json)
    return doctor_job(job, options, echo=click.echo, tell=lambda line: click.echo(line, err=True))
