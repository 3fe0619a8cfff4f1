"""Every `batcher …` that a page or an example's header tells to type is a command with these options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pages import JOBS, PAGES, ROOT, blocks, name_of, prose

from batcher.cli.main import cli

_INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*batcher [^`\n]+)`")
_HEADER = re.compile(r"^#.*?((?:[A-Z_]+=\S+ )*\bbatcher (?:run|simulate|check|resume|retry)\b.*)$", re.MULTILINE)
_ENDS = {"&", "|", "||", "&&", ";"}


def commands_of(line: str) -> Iterator[list[str]]:
    """The arguments of each `batcher` in a shell line."""
    words = shlex.split(line, comments=True)
    for index, word in enumerate(words):
        if word == "batcher" or word.endswith("/batcher"):
            arguments: list[str] = []
            for argument in words[index + 1 :]:
                if argument in _ENDS or re.match(r"\d?>", argument):
                    break
                arguments.append(argument)
            yield arguments


def fault_of(arguments: list[str], *, is_whole: bool) -> str | None:
    """What click would say; a sentence may name a command without its arguments, a shell line may not."""
    try:
        context = cli.make_context("batcher", list(arguments))
        command: click.Command = cli
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            command, context = found, found.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        return None
    except click.exceptions.NoArgsIsHelpError:
        return None if not is_whole else "needs arguments"
    except click.MissingParameter as error:
        return error.format_message() if is_whole else None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("block", [*blocks("sh"), *blocks("cron")], ids=str)
def test_shell_lines_are_commands(block) -> None:
    """Whoever copies a line gets what the page says."""
    text = block.text.replace("\\\n", " ")
    faults = [
        (line, fault)
        for line in text.splitlines()
        if "batcher" in line
        for arguments in commands_of(line)
        if (fault := fault_of(arguments, is_whole=True))
    ]

    assert [] == faults


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_sentences_exist(page: Path) -> None:
    faults = [
        (code, fault)
        for code in _INLINE.findall(prose(page))
        for arguments in commands_of(code)
        if (fault := fault_of(arguments, is_whole=False))
    ]

    assert [] == faults


@pytest.mark.parametrize("job", [*JOBS, *sorted(ROOT.glob("jobs/simulator/*.yaml"))], ids=lambda job: job.name)
def test_commands_in_the_headers_of_examples_exist(job: Path) -> None:
    lines = [line.rstrip(")") for line in _HEADER.findall(job.read_text(encoding="utf-8"))]
    faults = [
        (line, fault)
        for line in lines
        for arguments in commands_of(line)
        if (fault := fault_of(arguments, is_whole=True))
    ]

    assert lines, f"{job.name} says nowhere how it is run"
    assert [] == faults


@pytest.mark.parametrize(
    "line", ["batcher rum job.yaml", "batcher run job.yaml --frsh", "batcher run", "batcher simulate --window round"]
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    """The tests above would be worth nothing if anything passed."""
    assert [fault for arguments in commands_of(line) if (fault := fault_of(arguments, is_whole=True))]


def test_the_readme_names_every_command() -> None:
    """A command that nobody is told of is not there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [] == [name for name in cli.commands if f"`batcher {name}" not in readme]
