"""Size: the memory of a whole process and the time of its results, over runs that were made without asking anybody."""

import asyncio
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import polars as pl
import pytest
from made_runs import KEY_NAME, Form, Made, make_run, text, ticket
from raw_server import raw_server, response

LAUNCH = Path(__file__).parents[2] / "benchmarks" / "launch.py"
LONG_JOB = """\
name: long
input: {{path: rows.jsonl}}
prompt: "Translate: {{{{ text }}}}"
model: long
provider: {{base_url: "{base_url}", api_key: "${{BENCH_KEY}}"}}
limits: {{concurrency: 64}}
"""
USAGE = {"prompt_tokens": 96, "completion_tokens": 25_000, "total_tokens": 25_096}


@dataclass(frozen=True)
class Used:
    """What one `batcher resume` of a run with nothing left to ask took."""

    memory_mb: float
    wall_s: float
    results: pl.DataFrame


def finished(folder: Path, made: Made, form: Form = "jsonl") -> Used:
    folder.mkdir()
    return measured(folder, "resume", make_run(folder, made, form=form))


def measured(folder: Path, *arguments: str | Path) -> Used:
    """What that command took in a process of its own, and the results of the one run below `folder`."""
    report = folder / "used.txt"
    # Started from here, it would seem to need what pytest has; see the launcher.
    ended = subprocess.run(
        [sys.executable, "-I", "-S", LAUNCH, report, sys.executable, "-m", "batcher", *arguments], cwd=folder,
        env={**os.environ, KEY_NAME: "sk-made-0123456789abcdef"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == ended.returncode, ended.stderr
    _, wall_s, _, peak, _ = map(float, report.read_text(encoding="ascii").split())
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    (results,) = folder.rglob("results.parquet")
    return Used(peak / scale, wall_s, pl.read_parquet(results))


def assert_all_there(frame: pl.DataFrame, rows: int) -> None:
    assert list(range(rows)) == frame["row"].to_list()
    assert [ticket(row) for row in range(rows)] == frame["key"].to_list()
    assert [text(row) for row in range(rows)] == frame["text"].to_list()


async def translate(folder: Path, rows: int, *, answer_bytes: int) -> Used:
    """A run of free text, 64 in flight, whose answers all begin alike: the results are read once more for that."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "{text(row)}"}}\n' for row in range(rows)), encoding="utf-8")
    numbers = count()
    filler = random.Random(1).randbytes(answer_bytes // 2).hex()

    async def answer(writer, request) -> None:
        del request
        content = f"Here is the translation of the document that you asked for. {next(numbers)} {filler}"
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        writer.write(response(json.dumps({"model": "long", "choices": [choice], "usage": USAGE}).encode()))

    async with raw_server(answer) as base_url:
        (folder / "job.yaml").write_text(LONG_JOB.format(base_url=base_url), encoding="utf-8")
        return await asyncio.to_thread(measured, folder, "run", folder / "job.yaml")


async def test_memory_is_bounded_by_what_is_in_flight_not_by_how_long_the_answers_are(tmp_path) -> None:
    """3,000 answers of 100 kB are 300 MB; they pass the journal, the results and the verdict in pieces."""
    few = await translate(tmp_path / "few", 500, answer_bytes=100_000)
    many = await translate(tmp_path / "many", 3_000, answer_bytes=100_000)

    assert 3_000 == many.results["answer"].n_unique()
    assert many.memory_mb < 1.25 * few.memory_mb
    assert many.memory_mb < 230


def test_five_times_the_rows_take_no_more_memory(tmp_path) -> None:
    """From 20 thousand rows to 100 thousand, the whole process and its results included; and 100 s are not needed."""
    small = finished(tmp_path / "small", Made(20_000, 20_000))
    large = finished(tmp_path / "large", Made(100_000, 100_000, retried=0.05))

    assert_all_there(large.results, 100_000)
    assert {"ok"} == set(large.results["status"])
    assert [6, 1] == large.results["attempts"].to_list()[:2]
    assert large.memory_mb < 1.25 * small.memory_mb
    assert large.wall_s < 100


def test_a_journal_in_no_order_takes_no_more_memory(tmp_path) -> None:
    """What every segment spreads over all rows is joined on the disk, not in memory."""
    ordered = finished(tmp_path / "ordered", Made(40_000, 40_000))
    random = finished(tmp_path / "random", Made(40_000, 40_000, order="random", processes=40))

    assert 40 == len(list((tmp_path / "random" / "runs").glob("made/*/journal/*.arrow")))
    assert ordered.results.equals(random.results)
    assert random.memory_mb < ordered.memory_mb + 60


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_million_rows_take_hardly_more_memory_than_twenty_thousand(tmp_path, form) -> None:
    """Also from one row group of a million rows, and with a fiftieth of the rows asked twice."""
    small = finished(tmp_path / "small", Made(20_000, 20_000), form)
    large = finished(tmp_path / "large", Made(1_000_000, 1_000_000, retried=0.02), form)

    assert_all_there(large.results, 1_000_000)
    assert large.memory_mb < small.memory_mb + 70
