"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from batcher.errors import JobError

Decorator = Callable[[Any], Any]

RUNS = click.option(
    "--runs",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BATCHER_RUNS",
    default=Path("runs"),
    show_default=True,
    help="Where run directories are; BATCHER_RUNS sets it too.",
)

VARIABLES = click.option("--var", "variables", multiple=True, metavar="K=V", help="A variable: ${K} in the job file, {{ K }} in prompts.")  # fmt: skip  # noqa: E501

SETS = click.option("--set", "sets", multiple=True, metavar="A.B=V", help="Set a field of the job for this run.")

LIMIT = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read only the first N rows.")

LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    show_default=True,
    help="auto: a live display in a terminal, plain lines in a pipe; json: JSON lines on stderr.",
)


def say(text: str, *, err: bool = False) -> None:
    """Show text to people, on stdout or stderr: names of files, rows and models may hold terminal escapes."""
    from batcher.observe.text import without_controls

    click.echo(without_controls(text), err=err)


def parse_variables(pairs: tuple[str, ...]) -> dict[str, str]:
    """`--var k=v` options as a mapping.

    Raises:
        JobError: One of them has no `=` or no name.
    """
    variables: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise JobError(f"--var {name}: write it as --var NAME=VALUE")
        variables[name.strip()] = value
    return variables
