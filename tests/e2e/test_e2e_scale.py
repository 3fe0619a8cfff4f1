"""Size: the memory of a whole process and the time of its results, over runs that were made without asking anybody."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from made_runs import KEY_NAME, Form, Made, make_run, text, ticket


@dataclass(frozen=True)
class Used:
    """What one `batcher resume` of a run with nothing left to ask took."""

    memory_mb: float
    wall_s: float
    results: pl.DataFrame


def finished(folder: Path, made: Made, form: Form = "jsonl") -> Used:
    folder.mkdir()
    run = make_run(folder, made, form=form)
    began_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "batcher", "resume", str(run)],
        env={**os.environ, KEY_NAME: "sk-made-0123456789abcdef"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stderr is not None
        assert 0 == process.returncode, process.stderr.read().decode()
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Used(usage.ru_maxrss / scale, time.monotonic() - began_s, pl.read_parquet(run / "results.parquet"))


def assert_all_there(frame: pl.DataFrame, rows: int) -> None:
    assert list(range(rows)) == frame["row"].to_list()
    assert [ticket(row) for row in range(rows)] == frame["key"].to_list()
    assert [text(row) for row in range(rows)] == frame["text"].to_list()


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
