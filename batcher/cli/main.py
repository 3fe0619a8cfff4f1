"""The `batcher` command.

Everything heavy is imported inside the command that needs it, so `batcher --help` starts in the time
that Python and click take.
"""

import os
import sys
from typing import Any, NoReturn

import click

from batcher import __version__
from batcher.cli.doctor import doctor
from batcher.cli.files import export, init, schema, status
from batcher.cli.run import check, resume, retry, run
from batcher.cli.servers import models, prices, serve, simulate
from batcher.errors import BatcherError, ExitCode, UsageError

if sys.platform == "linux":
    # Arrow reads it when it is first imported. Its usual pool keeps what it once took: 14 MB more at the start of a run
    # and 30 MB more while results are written. `pyarrow.set_memory_pool` alone does not reach the writers of Parquet.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

# Pydantic would read the metadata of all that is installed, and load what of it asks to be a plugin: 8 ms with 90
# packages, before anything is sent. No plugin has a part in reading a job file.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

_MESSAGE_CELLS_MAX = 2_000
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH")
_EPILOG = "Exit codes: 0 done, 1 fault in batcher, 2 job or input wrong, 3 success rule not met, 4 stopped (resumable), 5 budget, 6 refused by the provider, 7 locked."  # noqa: E501


class Commands(click.Group):
    """A group that lists its commands in the order in which one meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """In the order of registration."""
        return list(self.commands)


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batcher")
def cli() -> None:
    """Run millions of prompts through any OpenAI-compatible endpoint, and lose none."""


for command in (run, resume, retry, check, doctor, status, export, init, schema, prices, models, serve, simulate):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the contract's code.

    An error that batcher raises on purpose is a sentence and perhaps a hint. Anything else is a fault
    of the program: the traceback goes to stderr, where a bug report wants it, with secrets masked.
    """
    try:
        code: Any = cli.main(arguments, prog_name="batcher", standalone_mode=False)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        report(UsageError(error.format_message(), hint=f"{context.command_path} --help" if context else None))
        sys.exit(ExitCode.USAGE)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(ExitCode.STOPPED)
    except BatcherError as error:
        report(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output went away; nothing more can be told to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001  # the last place that can still give the fault its exit code
        _report_fault(error)
        sys.exit(ExitCode.FAULT)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def report(error: BatcherError) -> None:
    """Say an error of batcher's own on stderr."""
    from batcher.observe.text import clean

    click.echo(f"error: {clean(error.message, _MESSAGE_CELLS_MAX)}", err=True)
    if error.hint:
        click.echo(f"hint: {clean(error.hint, _MESSAGE_CELLS_MAX)}", err=True)


def _report_fault(error: Exception) -> None:
    import traceback

    from batcher.observe.text import mask, without_controls

    secrets = [value for name, value in os.environ.items() if any(word in name.upper() for word in _SECRET_NAMES)]
    text = "".join(traceback.format_exception(error))
    click.echo(mask(without_controls(text), secrets), err=True)
    click.echo(f"error: a fault in batcher itself: {type(error).__name__}", err=True)
    click.echo("hint: the run, if one began, can be resumed; please report this with the lines above", err=True)
