"""Every file format, plain, compressed, in several files, filtered and limited, keeps the source's contract."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from source_suite import SourceSuite

from batcher.sources.source import FileSource, InputSpec

COUNT = 1300
ROWS = [
    {"id": f"k{number}", "text": f"ตั๋ว {number} “có” 票 🎫", "note": "a\nb" * (number % 3)} for number in range(COUNT)
]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)


class FileSuite(SourceSuite):
    rows_expected = COUNT
    table_columns = ("id", "note")
    paths: tuple[str, ...]
    where: str | None = None
    limit: int | None = None

    def write(self, directory: Path) -> None:
        raise NotImplementedError

    def make(self, directory: Path) -> FileSource:
        self.write(directory)
        source = FileSource.open(InputSpec(self.paths, directory, key="id", where=self.where, limit=self.limit))
        source.check(carry=["note"])
        return source


class TestJsonlSource(FileSuite):
    paths = ("rows.jsonl",)

    def write(self, directory: Path) -> None:
        write_jsonl(directory / "rows.jsonl", ROWS)


class TestCsvSource(FileSuite):
    paths = ("rows.csv",)

    def write(self, directory: Path) -> None:
        write_csv(directory / "rows.csv", ROWS)


class TestParquetSource(FileSuite):
    paths = ("rows.parquet",)

    def write(self, directory: Path) -> None:
        write_parquet(directory / "rows.parquet", ROWS)


class TestCompressedJsonlGlob(FileSuite):
    paths = ("part-*",)

    def write(self, directory: Path) -> None:
        for number, compress in enumerate((gzip.compress, zstandard.compress)):
            plain = directory / "plain"
            write_jsonl(plain, ROWS[number * 650 : (number + 1) * 650])
            suffix = ("gz", "zst")[number]
            (directory / f"part-{number}.ndjson.{suffix}").write_bytes(compress(plain.read_bytes()))


class TestCompressedParquetList(FileSuite):
    paths = ("b.parquet.zst", "a.parquet")

    def write(self, directory: Path) -> None:
        write_parquet(directory / "b.parquet", ROWS[:1100])
        (directory / "b.parquet.zst").write_bytes(zstandard.compress((directory / "b.parquet").read_bytes()))
        write_parquet(directory / "a.parquet", ROWS[1100:])


class TestFilteredCsv(FileSuite):
    paths = ("rows.csv",)
    where = "number >= 100 AND parity = 'even'"
    limit = 1100
    rows_expected = 1100

    def write(self, directory: Path) -> None:
        rows = [
            {**row, "number": number, "parity": "odd" if number % 2 else "even"} for number, row in enumerate(ROWS * 2)
        ]
        write_csv(directory / "rows.csv", [{**row, "id": number} for number, row in enumerate(rows)])


class TestFilteredParquet(FileSuite):
    paths = ("rows.parquet",)
    where = "number % 3 <> 0"
    rows_expected = 866

    def write(self, directory: Path) -> None:
        write_parquet(directory / "rows.parquet", [{**row, "number": number} for number, row in enumerate(ROWS)])


class TestFilteredLimitedJsonl(FileSuite):
    paths = ("rows.jsonl",)
    where = "number > 500 OR number IS NULL"
    limit = 701
    rows_expected = 701

    def write(self, directory: Path) -> None:
        rows = [{**row, "number": None if number % 5 == 0 else number} for number, row in enumerate(ROWS)]
        write_jsonl(directory / "rows.jsonl", rows)
