"""One record a row in row order, whatever the segments look like."""

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from batcher.errors import JournalError
from batcher.journal.merge import Run, merged_batches
from batcher.journal.segment import OUTCOME_SCHEMA

FIXED = {"status": "ok", "attempts": 1, "finished_ms": 0}


def run_of(*records: dict, batch_rows: int = 4) -> Run:
    """A run of records given as the fields that matter, sorted as a segment is."""
    ordered = sorted(records, key=lambda record: record["row"])
    table = pa.Table.from_pylist([FIXED | record for record in ordered], OUTCOME_SCHEMA)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from table.to_batches(max_chunksize=batch_rows)

    return Run(ordered[0]["row"], ordered[-1]["row"], batches)


def merged(runs: list[Run], rows: int, batch_rows_max: int = 1000) -> list[dict]:
    return [
        record for batch in merged_batches(runs, rows, batch_rows_max=batch_rows_max) for record in batch.to_pylist()
    ]


@pytest.mark.parametrize("seed", range(20))
def test_any_split_of_the_rows_comes_back_in_order(seed) -> None:
    """Rows in blocks with stragglers, rows dealt out at random, segments of any size: the same rows come out."""
    chance = random.Random(seed)
    rows = chance.randrange(1, 200)
    runs: list[list[dict]] = [[] for _ in range(chance.randrange(1, 6))]
    for row in range(rows):
        in_order = row * len(runs) // rows
        runs[chance.choice([in_order, in_order, chance.randrange(len(runs))])].append({"row": row, "answer": str(row)})

    tried = merged([run_of(*records, batch_rows=chance.randrange(1, 9)) for records in runs if records], rows)

    assert list(range(rows)) == [record["row"] for record in tried]
    assert [str(row) for row in range(rows)] == [record["answer"] for record in tried]


def test_the_latest_outcome_stands_with_the_spend_of_all() -> None:
    """A row asked again keeps what its earlier tries cost, to the last digit."""
    first = run_of(
        {"row": 0, "answer": "a"},
        {"row": 1, "status": "failed", "attempts": 3, "input_tokens": 10, "cost_usd": "0.1"},
        {"row": 2, "status": "failed", "attempts": 2, "cost_usd": None},
        {"row": 3, "status": "failed", "attempts": 1, "cost_usd": "0"},
    )
    again = run_of(
        {"row": 1, "status": "failed", "attempts": 1, "input_tokens": 5, "output_tokens": 2, "cost_usd": "1E-40"},
        {"row": 1, "answer": "b", "attempts": 1, "input_tokens": 1, "cost_usd": "0.2"},
        {"row": 2, "answer": "c", "attempts": 1, "cost_usd": "0.5"},
        batch_rows=1,
    )

    tried = merged([first, again], 4)

    assert ["a", "b", "c", None] == [record["answer"] for record in tried]
    assert ["ok", "ok", "ok", "failed"] == [record["status"] for record in tried]
    assert [1, 5, 3, 1] == [record["attempts"] for record in tried]
    assert [None, 16, None, None] == [record["input_tokens"] for record in tried]
    assert [None, 2, None, None] == [record["output_tokens"] for record in tried]
    assert [None, "0.3000000000000000000000000000000000000001", None, "0"] == [r["cost_usd"] for r in tried]


@pytest.mark.parametrize(
    ("present", "rows", "missing"), [([0, 2], 3, 1), ([1, 2], 3, 0), ([0, 1], 3, 2), ([], 1, 0), ([0, 0, 2], 3, 1)]
)
def test_a_missing_row_is_an_error(present, rows, missing) -> None:
    """Better no results than results with a hole."""
    runs = [run_of(*({"row": row} for row in present))] if present else []
    with pytest.raises(JournalError, match=f"row {missing} has no outcome in the journal; run `batcher resume`"):
        merged(runs, rows)


def test_a_row_beyond_the_input_is_an_error() -> None:
    """A paid answer is not dropped without a word because the input got shorter."""
    with pytest.raises(JournalError, match="outcome of row 5, but the input has only 3 rows"):
        merged([run_of({"row": 0}, {"row": 5})], 3)


def test_no_rows_give_no_batches() -> None:
    """An empty input is no error here."""
    assert [] == merged([], 0)


def test_batches_have_a_humane_size() -> None:
    """Small pieces are put together, so that a Parquet writer makes no row group of four rows."""
    runs = [run_of(*({"row": row} for row in range(1000)))]
    sizes = [len(batch) for batch in merged_batches(runs, 1000, batch_rows_max=100)]
    assert [100] * 10 == sizes
