"""One record a row in row order, whatever the segments look like."""

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from batcher.errors import JournalError, StorageError
from batcher.journal.merge import Run, merged_batches, narrowed
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


def in_no_order(segments: int, rows: int, opened: list[int] | None = None) -> list[Run]:
    """Runs that all reach from the first rows to the last; row 7 has an outcome in each of them."""
    chance = random.Random(segments)
    dealt: list[list[dict]] = [[] for _ in range(segments)]
    for row in range(rows):
        if row != 7:
            dealt[chance.randrange(segments)].append({"row": row, "answer": f"คำตอบ {row} 答案"})
    for number, records in enumerate(dealt):
        records.append({"row": 7, "answer": f"ครั้งที่ {number}", "attempts": 1, "cost_usd": "0.1"})
    return [counted(run_of(*records, batch_rows=50), opened) for records in dealt]


def counted(run: Run, opened: list[int] | None) -> Run:
    """The same run; `opened` gets how many are being read whenever one is opened."""

    def batches() -> Iterator[pa.RecordBatch]:
        if opened is not None:
            opened.append((opened[-1] if opened else 0) + 1)
        yield from run.batches()
        if opened is not None:
            opened.append(opened[-1] - 1)

    return Run(run.row_min, run.row_max, batches)


def test_many_overlapping_runs_are_joined_on_the_disk_first(tmp_path) -> None:
    """A thousand segments in no order would hold a thousand batches; no more than 16 are open, whatever there is."""
    opened: list[int] = []
    runs = in_no_order(300, 3000, opened)

    batches = merged_batches(runs, 3000, batch_rows_max=100, scratch=tmp_path)
    tried = [record for batch in batches for record in batch.to_pylist()]

    assert 16 == max(opened)
    assert list(range(3000)) == [record["row"] for record in tried]
    assert "คำตอบ 2999 答案" == tried[2999]["answer"]
    assert ("ครั้งที่ 299", 300, "30.0") == (tried[7]["answer"], tried[7]["attempts"], tried[7]["cost_usd"])
    assert [] == list(tmp_path.iterdir())


def test_a_merge_that_is_given_up_leaves_nothing_on_the_disk(tmp_path) -> None:
    """Whoever meets an error half way through lets the generator go; what was joined on the disk goes with it."""
    batches = merged_batches(in_no_order(40, 400), 400, batch_rows_max=10, scratch=tmp_path)
    next(batches)
    batches.close()
    assert [] == list(tmp_path.iterdir())


def test_no_room_for_the_joining_names_the_directory(tmp_path) -> None:
    """A disk that cannot take the joined runs is told like any other."""
    gone = tmp_path / "gone"
    with pytest.raises(StorageError, match=f"cannot write {gone}"):
        list(merged_batches(in_no_order(40, 400), 400, batch_rows_max=10, scratch=gone))


def test_runs_that_hardly_overlap_are_merged_as_they_are() -> None:
    """A run of any length is nearly in order: nothing is written twice for it."""
    runs = [run_of(*({"row": row} for row in range(start, start + 12))) for start in range(0, 1000, 10)]

    def spill(_: object) -> Run:
        raise AssertionError("it was joined on the disk")

    assert runs == list(narrowed(runs, spill))
