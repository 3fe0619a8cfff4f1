"""Parquet: names, types, row groups, damage."""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import columns_of, numbered, opened, parquet, refusal, rows_of

from batcher.errors import InputError
from batcher.sources.files import resolve_files
from batcher.sources.parquet import ParquetTable
from batcher.sources.source import BrokenInputError


def test_values_are_plain_python_and_tables_keep_the_types(tmp_path: Path) -> None:
    columns = {
        "date": pa.array([dt.date(2026, 11, 21)]),
        "ns": pa.array([1_600_000_000_123_456_789], pa.timestamp("ns", "UTC")),
        "money": pa.array([Decimal("1.50")]),
        "tags": pa.array(["a"]).dictionary_encode(),
        "large": pa.array(["ตั๋ว"], pa.large_string()),
        "nested": pa.array([[{"x": [1_000_000_001]}]], pa.list_(pa.struct([("x", pa.list_(pa.timestamp("ns")))]))),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    }
    parquet(tmp_path / "r.parquet", columns)
    source = opened(tmp_path, "r.parquet")
    expected = {
        "date": dt.date(2026, 11, 21),
        "ns": dt.datetime(2020, 9, 13, 12, 26, 40, 123456, tzinfo=dt.UTC),
        "money": Decimal("1.50"),
        "tags": "a",
        "large": "ตั๋ว",
        "nested": [{"x": [dt.datetime(1970, 1, 1, 0, 0, 1)]}],  # the column has no zone
        "map": {"k": 1},
    }
    (row,) = columns_of(source)
    assert str(expected.pop("ns")) == str(row.pop("ns"))
    assert expected == row
    types = source.schema(["ns", "money", "tags", "large"]).types
    assert [pa.timestamp("ns", "UTC"), pa.decimal128(3, 2), pa.string(), pa.string()] == types
    (table,) = source.tables(["ns", "money", "tags", "large"])
    assert types == table.schema.types


def test_names_with_dots_spaces_and_any_letters(tmp_path: Path) -> None:
    """Arrow reads "a" as the prefix of "a.b", and "s.x" as a field of "s"."""
    rows = [{"a": 1, "a.b": 2, "ข้อความ ยาว": 3, "s": {"x": 4}, "s.x": 5}]
    parquet(tmp_path / "r.parquet", rows)
    source = opened(tmp_path, "r.parquet")
    assert rows == columns_of(source)
    for column in source.columns:
        assert [{column: rows[0][column]}] == columns_of(source.select([column]))
        (table,) = source.tables([column])
        assert [column] == table.schema.names


def test_no_column_gives_empty_rows(tmp_path: Path) -> None:
    """A prompt without a placeholder still has one request a row."""
    parquet(tmp_path / "r.parquet", numbered(1500))
    assert [{}] * 1500 == columns_of(opened(tmp_path, "r.parquet").select([]))


def test_start_reads_no_row_group_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with a million rows done goes on within seconds."""
    parquet(tmp_path / "r.parquet", numbered(1000), row_group_size=100)
    groups: list[list[int]] = []
    read = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, size: int, row_groups: list[int], *args: object, **options: object) -> object:
        groups.append(row_groups)
        return read(self, size, row_groups, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    rows = rows_of(opened(tmp_path, "r.parquet"), 850)
    assert [[8, 9]] == groups
    assert list(range(850, 1000)) == [row.index for row in rows]


def test_large_rows_make_small_batches(tmp_path: Path) -> None:
    parquet(tmp_path / "r.parquet", [{"id": number, "text": f"{number}" + "x" * 100_000} for number in range(100)])
    sizes = [len(batch) for batch in opened(tmp_path, "r.parquet").rows()]
    assert 100 == sum(sizes)
    assert max(sizes) <= 42


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([{"id": "1", "text": "a"}], "column 'id' is of type string, but of type int64 in a.parquet"),
        ([{"id": 1}], "column 'text' is missing, but of type string in a.parquet"),
        ([{"id": 1, "text": "a", "more": 1}], "column 'more' is of type int64, but missing in a.parquet"),
    ],
)
def test_files_of_one_input_have_the_same_columns(tmp_path: Path, other: list[dict[str, object]], said: str) -> None:
    parquet(tmp_path / "a.parquet", numbered(1))
    parquet(tmp_path / "b.parquet", other)
    message = refusal(tmp_path, "*.parquet")
    assert message.startswith("b.parquet: ")
    assert said in message


def test_files_of_different_writers_agree(tmp_path: Path) -> None:
    """polars writes large strings, pyarrow usual ones; to the user both are text."""
    parquet(tmp_path / "a.parquet", {"text": pa.array(["a"], pa.large_string())})
    parquet(tmp_path / "b.parquet", {"text": pa.array(["b"]).dictionary_encode()})
    assert [{"text": "a"}, {"text": "b"}] == columns_of(opened(tmp_path, "*.parquet"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """The rows read before stay read; the rest is not guessed."""
    path = tmp_path / "r.parquet"
    parquet(path, numbered(5000), row_group_size=1000, compression="zstd")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = b"\xff" * 3000
    path.write_bytes(content)
    with pytest.raises(BrokenInputError, match=r"^r\.parquet: cannot be read from row number .* damaged"):
        rows_of(opened(tmp_path, "r.parquet"))
    path.write_bytes(content[:middle])
    assert "cut off or damaged" in refusal(tmp_path, "r.parquet")


def test_bytes_are_no_prompt_but_may_be_carried(tmp_path: Path) -> None:
    parquet(tmp_path / "r.parquet", [{"raw": b"\xff"}])
    source = opened(tmp_path, "r.parquet")
    with pytest.raises(InputError, match="column 'raw' holds bytes"):
        source.select(["raw"])
    assert 1 == source.select([]).check(carry=["raw"]).rows


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "r.parquet")
    assert "has two columns 'a'" in refusal(tmp_path, "r.parquet")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"chat": "hi"}], "is of type string; a chat history is"),
        ([{"chat": ["hi"]}], "is a list of string; a chat history is"),
        ([{"chat": [{"role": "user"}]}], "has messages with role; a chat history is"),
        ([{"chat": [{"role": 1, "content": "a"}]}], "has a role of type int64"),
        ([{"chat": [{"role": "user", "content": 1}]}], "has content of type int64"),
    ],
)
def test_a_chat_column_holds_chats(tmp_path: Path, rows: list[dict[str, object]], said: str) -> None:
    parquet(tmp_path / "r.parquet", rows)
    assert said in refusal(tmp_path, "r.parquet", check={"list_column": "chat"})


def test_a_good_chat_column_passes(tmp_path: Path) -> None:
    parquet(tmp_path / "r.parquet", [{"chat": [{"role": "user", "content": "a"}]}])
    assert 1 == opened(tmp_path, "r.parquet").check(list_column="chat").rows


def test_a_dictionary_is_looked_at_once_whatever_is_read_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look takes up to 15 MB; rows and results read the same columns in different orders."""
    columns = {name: [f"{name} {row:06d} " + "ก" * 40 for row in range(2_000)] for name in ("id", "text", "note")}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet", row_group_size=1_000)
    looks: list[str] = []
    file = pq.ParquetFile

    def look(*args: object, read_dictionary: list[str] | None = None, **options: object) -> pq.ParquetFile:
        looks.extend(read_dictionary or ())
        return file(*args, read_dictionary=read_dictionary, **options)

    monkeypatch.setattr(pq, "ParquetFile", look)
    table = ParquetTable(resolve_files(["r.parquet"], tmp_path))
    for wanted in (("id", "text"), ("text", "id"), ("id",), ("note", "id")):
        assert 2_000 == sum(len(batch) for batch in table.batches(wanted))
    assert sorted(["id", "text", "note"] * 2) == sorted(looks)
