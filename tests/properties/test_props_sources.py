"""Whatever the rows are and however the file is cut into blocks, what was written is what is read."""

import csv
import gzip
import io
import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import InputError
from batcher.sources import jsonl, jsonl_types, lines
from batcher.sources.source import FileSource, InputSpec

TEXT = st.text(
    alphabet=st.one_of(
        st.characters(exclude_categories=["Cs"]), st.sampled_from(list("สวัสดี票🎫👩‍👩‍👧\"\n\r,;\t\u2028\x85 '{}%"))
    ),
    max_size=30,
)
# A NUL at the head of a CSV is taken for UTF-16, and refused.
NAMES = st.lists(TEXT.filter(lambda name: name and "\0" not in name), min_size=2, max_size=4, unique=True)
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(NAMES)
    row = st.fixed_dictionaries(dict.fromkeys(names, TEXT))
    return draw(st.lists(row, min_size=1, max_size=12))


def written(form: str, rows: list[dict[str, Any]]) -> bytes:
    if form == "jsonl":
        return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    if form == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=3)
    return sink.getvalue()


@settings(deadline=None, max_examples=80)
@given(
    rows=tables(),
    form=st.sampled_from(["jsonl", "csv", "parquet"]),
    suffix=st.sampled_from(list(COMPRESS)),
    block_bytes=st.integers(1, 80),
    start=st.integers(0, 14),
    limit=st.none() | st.integers(1, 14),
)
def test_rows_come_back_as_they_were_written(
    rows: list[dict[str, Any]], form: str, suffix: str, block_bytes: int, start: int, limit: int | None
) -> None:
    """Thai, emoji, quotes and line ends, for every start, limit and size of blocks."""
    with tempfile.TemporaryDirectory() as directory, small_blocks(block_bytes):
        name = f"r.{form}{suffix}"
        Path(directory, name).write_bytes(COMPRESS[suffix](written(form, rows)))
        source = FileSource.open(InputSpec((name,), Path(directory), limit=limit))
        assert min(len(rows), limit or len(rows)) == source.check(carry=source.columns).rows
        read = list(chain.from_iterable(source.rows(start)))
        carried = chain.from_iterable(batch.to_pylist() for batch in source.tables(source.columns, start))
        expected = rows[:limit][start:]
        assert expected == [row.columns for row in read]
        assert expected == list(carried)
        assert list(range(start, start + len(expected))) == [row.index for row in read]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(values=st.lists(JSON, min_size=1, max_size=8), block_bytes=st.integers(1, 80))
def test_any_json_value_reaches_the_prompt_as_it_is(values: list[Any], block_bytes: int) -> None:
    """A prompt takes columns of mixed types; only what is written somewhere needs one type."""
    with tempfile.TemporaryDirectory() as directory, small_blocks(block_bytes):
        Path(directory, "r.jsonl").write_bytes(written("jsonl", [{"v": value} for value in values]))
        source = FileSource.open(InputSpec(("r.jsonl",), Path(directory)))
        assert len(values) == source.check().rows
        assert values == [row.columns["v"] for row in chain.from_iterable(source.rows())]


@settings(deadline=None, max_examples=60)
@given(
    content=st.binary(max_size=200),
    form=st.sampled_from(["jsonl", "csv", "parquet"]),
    suffix=st.sampled_from(list(COMPRESS)),
)
def test_any_bytes_are_rows_or_one_sentence(content: bytes, form: str, suffix: str) -> None:
    """Nothing but an `InputError` may come out, whatever the file holds."""
    with tempfile.TemporaryDirectory() as directory:
        name = f"r.{form}{suffix}"
        Path(directory, name).write_bytes(COMPRESS[suffix](content) if len(content) % 2 else content)
        said = None
        try:
            source = FileSource.open(InputSpec((name,), Path(directory)))
            facts = source.check()
            assert facts.rows == sum(len(batch) for batch in source.rows())
        except InputError as error:
            said = error.message
        assert said is None or (said.startswith(name) and "\n" not in said)


def small_blocks(block_bytes: int) -> Any:
    return mock.patch.object(lines.line_blocks, "__kwdefaults__", {**KEYWORDS, "block_bytes": block_bytes})


KEYWORDS = dict(lines.line_blocks.__kwdefaults__)


# Some are too large for 64 bits, or for a float.
NUMBERS = st.integers(-9, 9) | st.integers(-(2**70), 2**70)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(-1e9, 1e9),
    TEXT,
    st.just([1]),
    st.just({"x": "y"}),
)
COLUMNS = ("id", "text", "ราคา", 'a"b')


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES), min_size=1, max_size=8)
    | st.lists(st.fixed_dictionaries({"id": TEXT, "text": TEXT | st.none()}), min_size=1, max_size=8)
    | st.lists(st.fixed_dictionaries({"id": NUMBERS, "text": NUMBERS | st.floats(-1e9, 1e9)}), min_size=1, max_size=8),
    selected=st.lists(st.sampled_from(COLUMNS), unique=True, max_size=3),
    carried=st.lists(st.sampled_from(COLUMNS), unique=True, max_size=2),
    limit=st.none() | st.integers(1, 9),
)
def test_lines_that_are_passed_over_hide_nothing(
    rows: list[dict[str, Any]], selected: list[str], carried: list[str], limit: int | None
) -> None:
    """Lines with nothing new in them are looked at once, and lightly: what is said of the input is the same."""

    def look(folder: str) -> Any:
        try:
            source = FileSource.open(InputSpec(paths=["r.jsonl"], base=Path(folder), limit=limit)).select(selected)
            facts = source.check(carry=carried)
        except InputError as error:
            return str(error)
        read = [[row.columns for row in batch] for batch in source.rows()]
        return facts, source.columns, source.schema(carried), list(chain.from_iterable(read))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(jsonl, "BATCH_ROWS_MAX", 2):
        Path(folder, "r.jsonl").write_bytes(written("jsonl", rows))
        lightly = look(folder)
        with (
            mock.patch.object(jsonl_types.Kinds, "knows", return_value=False),
            mock.patch.object(jsonl.JsonlTable, "is_looked_at", return_value=False),
        ):
            assert look(folder) == lightly
