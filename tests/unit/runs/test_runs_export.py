"""`batcher export`: results in another format."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batcher.errors import JobError, JournalError, UsageError
from batcher.runs.export import export
from batcher.storage.durable import LocalDisk

TABLE = pa.table({"row": pa.array(range(20_000)), "answer": [f"คำตอบ {n}" for n in range(20_000)]})
DISK = LocalDisk()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "results.parquet", row_group_size=3_000)
    return tmp_path / "results.parquet"


def test_every_format_holds_every_row_in_order(results: Path, tmp_path: Path) -> None:
    for name in ("x.parquet", "x.jsonl", "x.csv"):
        assert export(results, tmp_path / "out" / name, DISK) == 20_000

    assert pq.read_table(tmp_path / "out" / "x.parquet").equals(TABLE)
    lines = (tmp_path / "out" / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == TABLE.to_pylist()
    assert (tmp_path / "out" / "x.csv").read_text().splitlines()[20_000] == "19999,คำตอบ 19999"


def test_a_run_without_results_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the run is not finished") as caught:
        export(tmp_path / "results.parquet", tmp_path / "x.csv", DISK)

    assert caught.value.hint == f"`batcher resume {tmp_path}` goes on with it"


def test_results_are_never_exported_onto_themselves(results: Path) -> None:
    with pytest.raises(JobError, match="own results"):
        export(results, results, DISK)

    assert pq.read_table(results).equals(TABLE)


def test_a_directory_is_no_target(results: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(JobError, match="is a directory"):
        export(results, tmp_path / "x.csv", DISK)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "middle"])
def test_damaged_results_are_named_as_such(results: Path, tmp_path: Path, damage: str) -> None:
    """Not as a full disk, and not as a traceback; the target is not touched."""
    content = results.read_bytes()
    middle = content[:200] + bytes(2_000) + content[2_200:]
    results.write_bytes({"empty": b"", "text": b"hello", "cut": content[:-1000], "middle": middle}[damage])

    with pytest.raises(JournalError, match=r"results\.parquet is no whole Parquet file"):
        export(results, tmp_path / "x.csv", DISK)

    assert not (tmp_path / "x.csv").exists()
