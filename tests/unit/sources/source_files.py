"""Small input files for the tests of sources."""

import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batcher.core.records import Row
from batcher.errors import InputError
from batcher.sources.source import FileSource, InputSpec


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "text": f"row {number}"} for number in range(count)]


def parquet(path: Path, rows: Iterable[dict[str, Any]] | dict[str, pa.Array], **options: Any) -> None:
    table = pa.table(rows) if isinstance(rows, dict) else pa.Table.from_pylist(list(rows))
    pq.write_table(table, path, **options)


def opened(directory: Path, *paths: str, look_bytes: int = 2**26, **spec: Any) -> FileSource:
    return FileSource.open(InputSpec(paths, directory, **spec), look_bytes=look_bytes)


def rows_of(source: FileSource, start: int = 0) -> list[Row]:
    return list(chain.from_iterable(source.rows(start)))


def columns_of(source: FileSource) -> list[dict[str, Any]]:
    return [dict(row.columns) for row in rows_of(source)]


def refusal(directory: Path, *paths: str, check: dict[str, Any] | None = None, **spec: Any) -> str:
    """The message with which the input is refused before anything is sent; it is one line."""
    with pytest.raises(InputError) as caught:
        opened(directory, *paths, **spec).check(**(check or {}))
    assert "\n" not in caught.value.message
    return caught.value.message
