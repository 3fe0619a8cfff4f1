"""Run directories of any size, made without asking anybody anything: through the real `Journal`, row by row.

A made run looks as if a process had asked `done` of its `rows` and was then stopped: `batcher resume` goes on with it.
Outcomes come in an order that decides how hard the merge of the results has it:

- "arrival": as a run with so many in flight brings them, nearly sorted; one row in 10,000 takes 100 times as long;
- "random": in no order at all, so that every segment spans all rows: what no run does, and the worst there is.

`processes` worked on the run one after another, each of which left a segment of its own. `retried` is a share of the
rows, spread over all of them, that failed at first and were asked again at the end.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batcher.assemble.prepare import prepare
from batcher.assemble.state import begin_run_file
from batcher.clock import SystemClock
from batcher.config.load import load_job
from batcher.core.records import Outcome
from batcher.journal.journal import Journal
from batcher.runs.directory import RunDirectory
from batcher.runs.runfile import write_bytes
from batcher.storage.durable import LocalDisk

LABELS = ("billing", "technical", "other")
TEXTS = (
    "I was charged twice for the same order last week, and the app still shows the old balance.",
    "แอปค้างทุกครั้งที่เปิดหน้าชำระเงิน ลองลงใหม่แล้วก็ยังเหมือนเดิม",
    "Tôi không đăng nhập được sau khi đổi số điện thoại, mong được hỗ trợ sớm.",
    "上个月的发票金额不对，请帮我核对一下并重新开具。",
)
KEY_NAME = "BENCH_KEY"

_JOB = """\
name: made
input: {{path: {input}, key: ticket_id, carry: [text]}}
prompt:
  system: You sort support tickets.
  user: "Which team should handle this ticket?\\n{{{{ text }}}}"
model: bench-model
params: {{max_tokens: 16}}
answer: {{labels: [billing, technical, other]}}
success: {{failed: 50%}}
provider:
  name: bench
  base_url: "http://127.0.0.1:{port}/v1"
  api_key: "${{{key_name}}}"
  limits: {{concurrency: {in_flight}}}
  price: {{input: 0.10, cached_input: 0.025, output: 0.40}}
limits: {{concurrency: {in_flight}, requests_per_minute: 60_000_000, tokens_per_minute: 60_000_000_000}}
"""

Order = Literal["arrival", "random"]
Form = Literal["jsonl", "parquet"]
_ROWS_AT_ONCE = 100_000
_PUTTERS = 256


@dataclass(frozen=True)
class Made:
    """What a made run holds. `done` are the rows with an outcome; the last ones of the input have none."""

    rows: int
    done: int
    in_flight: int = 1_000
    order: Order = "arrival"
    retried: float = 0.0
    processes: int = 1
    seed: int = 20261122


def make_run(folder: Path, made: Made, *, form: Form = "jsonl", port: int = 9) -> Path:
    """A stopped run in `folder`, with its input and its job; the run directory.

    Args:
        folder: Gets `job.yaml`, the input and `runs/`.
        made: How large, and in which order.
        form: Of the input; Parquet has one row group for each million rows.
        port: Where the provider will be.
    """
    job = write_job(folder, made.rows, form=form, port=port, in_flight=made.in_flight)
    loaded = load_job(job, environ={**os.environ, KEY_NAME: "sk-made-0123456789abcdef"})
    prepared = prepare(loaded)
    prepared.source.check(carry=("text",), keys=False)
    clock, disk = SystemClock(), LocalDisk()
    directory = RunDirectory.create(folder / "runs", loaded.job.name, clock)
    write_bytes(directory.job_yaml, loaded.as_run.encode(), disk)
    directory.write(begin_run_file(prepared, now_s=clock.now()), disk)
    asyncio.run(fill(directory.journal, made, fingerprint=loaded.fingerprint.digest))
    return directory.path


def write_job(folder: Path, rows: int, *, form: Form, port: int, in_flight: int) -> Path:
    """A labels job over an input of so many rows, with a key and a carried text; the job file."""
    name = f"rows.{form}"
    if form == "jsonl":
        with (folder / name).open("w", encoding="utf-8") as file:
            for first in range(0, rows, _ROWS_AT_ONCE):
                records = ({"ticket_id": ticket(row), "text": text(row)} for row in _piece(first, rows))
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        schema = pa.schema([("ticket_id", pa.string()), ("text", pa.string())])
        with pq.ParquetWriter(folder / name, schema) as writer:
            for first in range(0, rows, 1_000_000):
                group = range(first, min(rows, first + 1_000_000))
                columns = [pa.array(map(ticket, group), pa.string()), pa.array(map(text, group), pa.string())]
                writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000_000)
    job = folder / "job.yaml"
    job.write_text(_JOB.format(input=name, port=port, in_flight=in_flight, key_name=KEY_NAME), encoding="utf-8")
    return job


def ticket(row: int) -> str:
    """The key of a row."""
    return f"T{row:08d}"


def text(row: int) -> str:
    """The text of a row; no two are alike."""
    return f"{TEXTS[row % 4]} ({row})"


def outcome(row: int, *, is_failed: bool = False) -> Outcome:
    """What the row ended with."""
    if is_failed:
        return Outcome(
            row, "failed", error_kind="server", error="status 500", provider="bench", attempts=5,
            finished_ms=1_795_000_000_000 + row, asked_model="bench-model",
        )  # fmt: skip
    label = LABELS[row % 3]
    return Outcome(
        row, "ok", answer=label, label=label, finish_reason="stop", model="bench-model-2026-04-14",
        system_fingerprint="fp_7c4e2a90d1", provider="bench", attempts=1, input_tokens=90 + row % 40, cached_tokens=0,
        output_tokens=6, reasoning_tokens=0, cost_usd=Decimal(114 + row % 40) / 10**7, latency_ms=50.0 + row % 997 / 7,
        finished_ms=1_795_000_000_000 + row, asked_model="bench-model",
    )  # fmt: skip


async def fill(directory: Path, made: Made, *, fingerprint: str) -> None:
    """Put the outcomes of a run into the journal in `directory`, and close it."""
    failed = frozenset(_failed(made))
    outcomes = (outcome(row, is_failed=row in failed) for row in _order(made))
    for _ in range(made.processes):
        async with _opened(directory, fingerprint) as journal:
            await _put_all(journal, islice(outcomes, -(-made.done // made.processes)))
    if failed:
        async with _opened(directory, fingerprint) as journal:
            journal.ask_again()
            await _put_all(journal, (outcome(row) for row in sorted(failed)))


@contextlib.asynccontextmanager
async def _opened(directory: Path, fingerprint: str) -> AsyncIterator[Journal]:
    journal = await Journal.open(directory, disk=LocalDisk(), clock=SystemClock(), job_fingerprint=fingerprint)
    try:
        yield journal
    finally:
        await journal.close()


async def _put_all(journal: Journal, outcomes: Iterator[Outcome]) -> None:
    async def put() -> None:
        for one in outcomes:
            await journal.put(one)

    async with asyncio.TaskGroup() as group:
        for _ in range(_PUTTERS):
            group.create_task(put())


def _order(made: Made) -> Iterator[int]:
    if made.order == "random":
        order = pl.int_range(made.done, eager=True).shuffle(seed=made.seed)
    else:
        chance = random.Random(made.seed)
        order = pl.Series(
            array("d", (_answered_at(row, made.in_flight, chance) for row in range(made.done)))
        ).arg_sort()
    for first in range(0, made.done, _ROWS_AT_ONCE):
        yield from order[first : first + _ROWS_AT_ONCE].to_list()


def _answered_at(row: int, in_flight: int, chance: random.Random) -> float:
    """When the row is answered, in rows; some are asked again and again for long."""
    waited = chance.gammavariate(4.0, 0.25) * in_flight
    return row + (waited if chance.random() >= 1e-4 else 100 * waited)


def _failed(made: Made) -> list[int]:
    count = int(made.done * made.retried)
    return [] if not count else list(range(0, made.done, max(1, made.done // count)))


def _piece(first: int, rows: int) -> range:
    return range(first, min(rows, first + _ROWS_AT_ONCE))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a stopped run of any size.", allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--left", type=int, default=0, help="rows at the end without an outcome (0)")
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--order", choices=["arrival", "random"], default="arrival")
    parser.add_argument("--retried", type=float, default=0.0, help="share of the rows that were asked again (0)")
    parser.add_argument("--form", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--port", type=int, default=9)
    parser.add_argument("--processes", type=int, default=1, help="that worked on it one after another (1)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    made = Made(
        options.rows,
        options.rows - options.left,
        in_flight=options.in_flight,
        order=options.order,
        retried=options.retried,
        processes=options.processes,
    )
    print(make_run(options.folder, made, form=options.form, port=options.port))


if __name__ == "__main__":
    main()
