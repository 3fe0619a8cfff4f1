"""The generated pages under `docs/reference/`.

    python tools/make_docs.py            writes them
    python tools/make_docs.py --check    changes nothing; exit code 1 and the names of the pages that differ

What the code says is read from it: job fields, commands and options, names of kinds, columns and faults.
What it cannot say, one meaning for each column, kind and exit code, stands here; a name without a meaning,
or a meaning without a name, is an error.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import get_args

import click
import pyarrow as pa

from batcher.cli.main import cli
from batcher.config.reference import reference_markdown
from batcher.errors import ExitCode, FailureKind
from batcher.providers.gated import COUNTED
from batcher.providers.retrying import RETRYABLE
from batcher.runs.columns import result_schema
from batcher.simulator.answers import ANSWER_MODES
from batcher.simulator.faults import FAULTS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"

EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.OK: "Finished, and the job's `success` rule holds. "
    "The last lines say how many rows failed or are invalid all the same.",
    ExitCode.FAULT: "A fault in batcher itself, or a journal on disk that is not what was written. "
    "The message names the file, or shows the traceback that a bug report wants.",
    ExitCode.USAGE: "The job file, the command or the input is wrong. Nothing was sent.",
    ExitCode.NOT_SUCCESS: "Finished, but the job's `success` rule does not hold: "
    "too many rows failed, are invalid, are empty or have the same answer, labels drifted, or gold rows are wrong.",
    ExitCode.STOPPED: "Stopped before the end, resumable: a signal, a provider that was down for longer than "
    "`circuit_breaker.max_outage`, a full disk, or a broken line in the middle of the input.",
    ExitCode.BUDGET: "Stopped by the budget, resumable: raise `budget.usd` and run the job again.",
    ExitCode.REFUSED: "The provider refused the job: key, quota, model or parameter. "
    "The message holds the provider's own words.",
    ExitCode.LOCKED: "Another run of this job holds the lock. The message says which process, on which host.",
}

COLUMNS: Mapping[str, str] = {
    "row": "Position in the input as read (after `where` and `limit`), from 0.",
    "key": "The row's key; only with `input.key`.",
    "status": "`ok`, `invalid` (an answer that is not one of the labels) or `failed`.",
    "answer": "The answer's text as the model wrote it, reasoning split off; with structured labels, JSON. "
    "Kept for `invalid` rows and for failed ones that have a text.",
    "label": "Which of the labels the answer is; only with `answer.labels`.",
    "reasoning": "What the model thought, where it or the provider says so.",
    "error_kind": "Why a row is not `ok`; see [failure kinds](failure-kinds.md).",
    "error": "The same in a sentence; the provider's own words, where there are any.",
    "finish_reason": "Why the model stopped, as the provider said.",
    "model": "The model that answered, as the provider said.",
    "system_fingerprint": "As the provider said.",
    "provider": "The `name` of the job's provider.",
    "cache": "`exact`, `duplicate` or `semantic`; always null in this version.",
    "attempts": "HTTP calls made for this row, retries and repeated questions included.",
    "input_tokens": "Of all its attempts, as the provider counted them.",
    "cached_tokens": "The part of `input_tokens` that the provider had cached.",
    "output_tokens": "Of all its attempts, reasoning included.",
    "reasoning_tokens": "The part of `output_tokens` that went into reasoning.",
    "cost_usd": "US dollars for all its attempts; null where the price is unknown, never 0 for that.",
    "latency_ms": "Of the attempt that answered.",
    "finished_at": "When the row ended.",
}

# Seen as, and what else happens.
KINDS: Mapping[str, tuple[str, str]] = {
    "rate_limited": ("429", "Costs no attempt, however often. Pauses that key, for all its rows, for `retry-after-ms` "
                     "or `Retry-After` (seconds or date); where it says nothing, for a pause that grows."),
    "server": ("500 502 503 504 529 and other 5xx, 408, 409", "Waits that double, with jitter."),
    "connection": ("refused, reset, TLS, DNS", "Waits that double, with jitter."),
    "timeout": ("no answer within `timeout`", "Waits that double, with jitter."),
    "bad_response": ("a body that is cut or no JSON, 200 with an error inside, no choices, null content",
                     "Waits that double, with jitter."),
    "invalid_answer": ("an answer that is none of `answer.labels`, or more than one", "Asked again `answer.attempts` "
                       "times with the fault explained; then the status is `invalid` and the text is kept."),
    "truncated": ("`finish_reason: length`, and the answer is not usable",
                  "Raise `params.max_tokens`: another question, so a new run (`--fresh`)."),
    "refused": ("a content filter, or a refusal by the model", "The row is `failed`."),
    "too_long": ("more than the model's context, or 413", "Shorten the row."),
    "bad_request": (
        "any other 4xx, or a redirect; also a row whose prompt cannot be made, which is never sent",
        "If each of the first 20 rows ends so, or every row of the job, "
                    "the run stops with exit code 6."),
    "auth": ("401, 403", "The key is set aside; when none is left, the run stops with exit code 6."),
    "quota": ("402, or 429 with `insufficient_quota`", "The key is set aside; when none is left, the run stops with "
              "exit code 6."),
}  # fmt: skip
AGAIN_IN_WORDS = {"rate_limited": "always", "invalid_answer": "`answer.attempts` times"}


def job_file() -> str:
    """Every field of a job."""
    return reference_markdown()


def commands() -> str:
    """Every command with its options, from click."""
    parts = [_head("Commands", "batcher/cli")]
    parts.append(
        "Data goes to stdout, everything else to stderr.\n"
        "`run`, `resume` and `retry` write the run directory as the last line on stdout.\n"
        "Each command ends with one of the [exit codes](exit-codes.md).\n"
    )
    for path, command in _leaves(cli, ("batcher",)):
        arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
        usage = [*path, *(_argument(argument) for argument in arguments)]
        parts.append(f"## `{' '.join(path)}`\n\n{_sentences(command.help or '')}\n")
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        parts.append(f"```\n{' '.join(usage)}{' [OPTIONS]' if options else ''}\n```\n")
        if options:
            rows = [(f"`{_spelled(option)}`", _default(option), option.help or "") for option in options]
            parts.append(_table(("option", "default", "meaning"), rows))
    return "\n".join(parts)


def exit_codes() -> str:
    """The exit codes, from the enum."""
    rows = [(f"{code:d}", EXIT_CODES[code]) for code in ExitCode]
    return "\n".join(
        [
            _head("Exit codes", "batcher/errors.py"),
            "What the process tells cron, a shell script or a workflow.\n",
            _table(("code", "meaning"), rows),
            "After 4, `batcher run` with the same job, or `batcher resume`, goes on; see "
            "[resume and retry](../how-to/resume-and-retry.md).\n",
        ]
    )


def results() -> str:
    """The columns of the results, in their order."""
    schema = result_schema(key=pa.null(), has_labels=True)
    _same("columns", schema.names, COLUMNS)
    rows = [(f"`{field.name}`", _type(field), COLUMNS[field.name]) for field in schema]
    rows.append(("carried columns", "as in the input", "The columns of `input.carry`."))
    return "\n".join(
        [
            _head("Results", "batcher/runs/columns.py"),
            "A finished run has one row for every input row, in input order.\n"
            "The types are fixed by the job, never by the rows: a column that is null in every row keeps its type.\n"
            "In CSV and JSONL, times are ISO 8601 in UTC.\n"
            "A CSV cell that a spreadsheet would run as a formula (`=`, `+`, `-` or `@` first) is defused.\n",
            _table(("column", "type", "meaning"), rows),
        ]
    )


def failure_kinds() -> str:
    """The kinds of failure, and what is done about each."""
    names = get_args(FailureKind)
    _same("failure kinds", names, KINDS)
    rows = []
    for name in names:
        seen_as, what_else = KINDS[name]
        again = AGAIN_IN_WORDS.get(name, "yes" if name in RETRYABLE else "no")
        rows.append((f"`{name}`", seen_as, again, "counts" if name in COUNTED else "no", what_else))
    return "\n".join(
        [
            _head("Failure kinds", "batcher/errors.py, batcher/providers/retrying.py and gated.py"),
            "What stands in `error_kind` of the results.\n"
            "“Yes” under “tried again” means up to `retry.attempts` calls for the row.\n"
            "What “counts” speaks about the provider: `circuit_breaker.failure_threshold` of them in a row hold all "
            "rows back until the provider answers again.\n",
            _table(("kind", "seen as", "tried again", "breaker", "what else"), rows),
        ]
    )


def simulator_faults() -> str:
    """The faults of `batcher simulate`, from its own table."""
    rows = [
        (f"`{fault.name}`", fault.group, "yes" if fault.is_billed else "no", _sentence(fault.does))
        for fault in FAULTS.values()
    ]
    answers = [(f"`{mode}`", _sentence(meaning)) for mode, meaning in ANSWER_MODES.items()]
    return "\n".join(
        [
            _head("Faults and answers of the simulator", "batcher/simulator/faults.py and answers.py"),
            "`batcher simulate --fault NAME=SHARE`, or `faults:` in its YAML file; "
            "see [rehearse with faults](../how-to/simulate-faults.md).\n"
            "“Billed” means that the simulated model did run: its tokens count.\n",
            _table(("fault", "group", "billed", "what the client sees"), rows),
            "## Answers\n\nWhat `--answer` and `answer:` take.\n",
            _table(("answer", "meaning"), answers),
        ]
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "job-file.md": job_file,
    "commands.md": commands,
    "exit-codes.md": exit_codes,
    "results.md": results,
    "failure-kinds.md": failure_kinds,
    "simulator-faults.md": simulator_faults,
}


def _head(title: str, source: str) -> str:
    return f"# {title}\n\n<!-- Made from {source}; `make docs` writes it again. -->\n"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [_line(heads), "|---" * len(heads) + "|", *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _leaves(group: click.Group, path: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, (*path, name))
        else:
            yield (*path, name), command


def _argument(argument: click.Argument) -> str:
    name = (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _spelled(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {'|'.join(option.type.choices)}"
    return f"{names} {option.metavar or option.type.name.upper().split(' ')[0]}"


def _default(option: click.Option) -> str:
    if option.required:
        return "required"
    return f"`{option.default}`" if option.show_default else ""


def _sentences(text: str) -> str:
    """Prose with one sentence a line."""
    return ".\n".join(" ".join(text.split()).split(". "))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _type(field: pa.Field) -> str:
    words = str(field.type)
    return {"null": "as in the input", "double": "float64", "float": "float32"}.get(words, words)


def _same(what: str, names: Iterable[str], meanings: Mapping[str, object]) -> None:
    if (odd := {*names} ^ {*meanings}) != set():
        raise SystemExit(f"tools/make_docs.py: {what} without a meaning, or the other way round: {sorted(odd)}")


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/reference.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page differs")
    is_check = parser.parse_args(arguments).check
    stale = []
    for name, make in PAGES.items():
        page, made = FOLDER / name, make()
        written = page.read_text(encoding="utf-8") if page.is_file() else None
        if written == made:
            continue
        stale.append(page)
        if not is_check:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(made, encoding="utf-8")
    for page in stale:
        sys.stderr.write(f"{page.relative_to(ROOT)}: {'differs; run `make docs`' if is_check else 'written'}\n")
    return 1 if is_check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
