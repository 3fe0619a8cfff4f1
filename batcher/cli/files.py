"""`batcher status`, `export`, `init` and `schema`: what reads and writes files, and sends nothing."""

import json
import shlex
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batcher.cli.options import RUNS, say
from batcher.errors import JobError, UsageError

if TYPE_CHECKING:
    from batcher.runs.directory import RunDirectory

_STARTER = """\
# yaml-language-server: $schema={schema}
# Which team should handle each ticket? Costs about $0.01 per 1,000 rows on gpt-4.1-nano.
#   batcher check {name}        looks at the job and its input, sends nothing
#   batcher run {name}          asks; again after a stop, it goes on

input: {input}
prompt: "Which team should handle this ticket?\\n{{{{ text }}}}"
model: gpt-4.1-nano
params: {{temperature: 0, max_tokens: 16}}
answer: {{labels: [billing, technical, other]}}
provider: {{base_url: "https://api.openai.com/v1", api_key: "${{OPENAI_API_KEY}}"}}
limits: {{concurrency: 50}}
"""

_STARTER_ROWS = (
    {"text": "I was charged twice for the same order."},
    {"text": "แอปเปิดไม่ขึ้นตั้งแต่อัปเดตเมื่อวาน"},
    {"text": "Tôi muốn đổi địa chỉ email của tài khoản."},
    {"text": "登录后页面一直显示错误。"},
)


@click.command(short_help="Show the runs there are and how they stand.")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@RUNS
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a run.")
def status(run: Path | None, runs: Path, as_json: bool) -> None:
    """Show the runs there are and how they stand; RUN is a run directory, a job file or a job's name."""
    from batcher.runs.directory import RunDirectory
    from batcher.runs.lock import is_locked

    if run is None:
        found = RunDirectory.list(runs)
    else:
        # Reads job files, which takes longer than all the rest.
        from batcher.assemble.find import find_run

        found = [find_run(run, runs)]
    if not found:
        say(f"no runs in {runs}", err=True)
    for directory in found:
        _show_run(directory, is_at_work=is_locked(directory.job_path), as_json=as_json)


def _show_run(directory: "RunDirectory", *, is_at_work: bool, as_json: bool) -> None:
    import msgspec

    from batcher.observe.human import dollars
    from batcher.observe.text import clean

    run = directory.read()
    state = run.state
    if state == "running" and not is_at_work:
        # Nobody holds the lock: the process was killed.
        state = "stopped"
    if as_json:
        click.echo(
            json.dumps({"run": str(directory.path), **msgspec.to_builtins(run), "state": state}, ensure_ascii=False)
        )
        return
    told = "finished, but the success rule does not hold" if (state, run.exit_code) == ("finished", 3) else state
    counts, totals = run.counts, run.totals
    cost = totals.get("cost_usd")
    say(f"{directory.path}")
    say(
        f"  {told}: {counts.get('done', 0):,} of {counts.get('rows', 0):,} rows, {counts.get('ok', 0):,} ok, "
        f"{counts.get('invalid', 0):,} invalid, {counts.get('failed', 0):,} failed, "
        f"cost {'unknown' if cost is None else dollars(Decimal(cost))}, begun {run.started_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    if run.reason:
        click.echo(f"  {clean(run.reason)}")


@click.command(short_help="Write results as Parquet, JSONL or CSV.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "to", type=click.Path(path_type=Path), required=True, help="A .parquet, .jsonl or .csv file.")
@RUNS
def export(run: Path, to: Path, runs: Path) -> None:
    """Write the results of a run as Parquet, JSONL or CSV (also .gz and .zst)."""
    from batcher.assemble.find import find_run
    from batcher.config.files import target_fault
    from batcher.runs.export import export as export_results
    from batcher.storage.durable import LocalDisk

    directory = find_run(run, runs)
    # The run's own results have a sentence of their own, which the export says.
    is_own = to.absolute() == directory.results.absolute()
    if not is_own and (fault := target_fault(to)) is not None:
        raise JobError(f"{to} {fault}")
    rows = export_results(directory.results, to, LocalDisk())
    say(f"{rows:,} rows written to {to}", err=True)


@click.command(short_help="Write a starter job to begin with.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("job.yaml"))
def init(path: Path) -> None:
    """Write a starter job, four rows for it, and the JSON Schema that editors check it with."""
    from batcher.config.schema import schema as job_schema

    rows, schema_file = path.with_name("tickets.jsonl"), path.with_name("batcher.schema.json")
    texts = {
        path: _STARTER.format(name=path.name, input=rows.name, schema=schema_file.name),
        rows: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _STARTER_ROWS),
        schema_file: json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n",
    }
    if path.exists():
        raise UsageError(f"{path} exists already; name another file, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, text in texts.items():
            if not target.exists():
                # "x": a link to nowhere is not followed to wherever it points.
                with target.open("x", encoding="utf-8") as file:
                    file.write(text)
                say(f"wrote {target}", err=True)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from error
    say(f"next: batcher check {shlex.quote(str(path))} (with OPENAI_API_KEY set)", err=True)


@click.command(short_help="Print the JSON Schema of job files.")
def schema() -> None:
    """Print the JSON Schema of job files; a YAML editor completes and checks with it."""
    from batcher.config.schema import schema as job_schema

    click.echo(json.dumps(job_schema(), indent=2, ensure_ascii=False))
