"""The results file: the contract's columns, every row once, in any format, in any language."""

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from batcher.errors import InputError, JobError, JournalError, StorageError
from batcher.runs.columns import result_schema
from batcher.runs.results import _aligned, write_results
from batcher.runs.tables import readable, table_format
from batcher.storage.durable import LocalDisk

FINISHED_MS = 1_795_226_400_123
DECIMAL = pa.decimal128(38, 18)
OUTCOME_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("status", pa.string()),
        ("answer", pa.string()),
        ("label", pa.string()),
        ("reasoning", pa.string()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("model", pa.dictionary(pa.int32(), pa.string())),
        ("system_fingerprint", pa.string()),
        ("provider", pa.dictionary(pa.int32(), pa.string())),
        ("cache", pa.string()),
        ("attempts", pa.int64()),
        ("input_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("cost_usd", DECIMAL),
        ("latency_ms", pa.float64()),
        ("finished_ms", pa.int64()),
        ("asked_model", pa.string()),
    ]
)
HOSTILE = [
    "สวัสดี ครับ",
    "Tiếng Việt 🙂👩‍👩‍👧",
    'a "quoted", cell',
    "two\nlines\r\nthree\rfour",
    "a,b;c\td",
    "nul\x00byte \u2028 \ufeff",
    "\\n is no newline",
    "'",
    " padded ",
]


def outcome(row, **fields):
    base = {"row": row, "status": "ok", "answer": f"a{row}", "model": "m", "provider": "p", "attempts": 1}
    return {**base, "cost_usd": Decimal("0.000125"), "latency_ms": 0.1, "finished_ms": FINISHED_MS, **fields}


def outcomes(*sizes, **fields):
    """Batches of the given sizes, rows numbered from 0."""
    first = 0
    for size in sizes:
        yield pa.RecordBatch.from_pylist([outcome(first + n, **fields) for n in range(size)], OUTCOME_SCHEMA)
        first += size


def beside(column, *sizes, name="text", type_=None):
    """Batches of an input column, cut at other places."""
    values = pa.array(column, type_)
    first = 0
    for size in sizes:
        yield pa.RecordBatch.from_arrays([values.slice(first, size)], names=[name])
        first += size


def written(target: Path, batches=None, *, schema=None, carried=None, **options) -> Path:
    write_results(
        batches if batches is not None else outcomes(3),
        target,
        form=table_format(target),
        schema=schema or result_schema(),
        disk=LocalDisk(),
        beside=carried,
        **options,
    )
    return target


def test_the_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    """Design, section 6, literally: outside programs read these names and types."""
    schema = result_schema(key=pa.string(), has_labels=True, carried=[pa.field("text", pa.large_string())])
    side = pa.RecordBatch.from_arrays(
        [pa.array(["k"] * 3), pa.array(["t"] * 3, pa.large_string())], names=["key", "text"]
    )

    path = written(tmp_path / "results.parquet", schema=schema, carried=iter([side]))

    found = [(field.name, str(field.type)) for field in pq.read_schema(path)]
    assert found == [
        ("row", "int64"),
        ("key", "string"),
        ("status", "string"),
        ("answer", "string"),
        ("label", "string"),
        ("reasoning", "string"),
        ("error_kind", "string"),
        ("error", "string"),
        ("finish_reason", "string"),
        ("model", "string"),
        ("system_fingerprint", "string"),
        ("provider", "string"),
        ("cache", "string"),
        ("attempts", "int16"),
        ("input_tokens", "int32"),
        ("cached_tokens", "int32"),
        ("output_tokens", "int32"),
        ("reasoning_tokens", "int32"),
        ("cost_usd", "double"),
        ("latency_ms", "float"),
        ("finished_at", "timestamp[ms, tz=UTC]"),
        ("text", "large_string"),
    ]


def test_key_and_label_are_there_only_where_the_job_has_them() -> None:
    assert "key" not in result_schema().names
    assert "label" not in result_schema().names
    assert result_schema(key=pa.int64()).field("key").type == pa.int64()


def test_a_carried_column_may_not_hide_a_result_column() -> None:
    with pytest.raises(JobError, match=r"input\.carry names model, but the results have a column model"):
        result_schema(carried=[pa.field("model", pa.string())])
    assert "key" in result_schema(carried=[pa.field("key", pa.string())]).names


def test_values_arrive_in_the_contracts_types(tmp_path: Path) -> None:
    """An unknown cost is null, never 0; an absurd token count is cut, never a crash after a million rows."""
    batches = [
        pa.RecordBatch.from_pylist(
            [
                outcome(0),
                outcome(1, cost_usd=None, attempts=99_999, input_tokens=10**12, finished_ms=0, model=None),
            ],
            OUTCOME_SCHEMA,
        )
    ]

    table = pq.read_table(written(tmp_path / "r.parquet", iter(batches)))

    first, second = table.to_pylist()
    assert first["cost_usd"] == 0.000125
    assert first["finished_at"] == datetime.fromtimestamp(FINISHED_MS / 1000, UTC)
    assert (first["model"], first["provider"], first["cache"], first["input_tokens"]) == ("m", "p", None, None)
    assert (second["cost_usd"], second["finished_at"], second["model"]) == (None, None, None)
    assert (second["attempts"], second["input_tokens"]) == (32_767, 2_147_483_647)


def test_a_cost_may_come_as_text(tmp_path: Path) -> None:
    schema = OUTCOME_SCHEMA.set(OUTCOME_SCHEMA.get_field_index("cost_usd"), pa.field("cost_usd", pa.string()))
    batch = pa.RecordBatch.from_pylist([outcome(0, cost_usd="0.1")], schema)

    assert pq.read_table(written(tmp_path / "r.parquet", iter([batch])))["cost_usd"].to_pylist() == [0.1]


def test_no_rows_give_a_file_with_the_columns(tmp_path: Path) -> None:
    for name in ("r.parquet", "r.csv", "r.jsonl"):
        written(tmp_path / name, iter([]))

    assert pq.read_schema(tmp_path / "r.parquet").names == result_schema().names
    assert (tmp_path / "r.csv").read_text().startswith("row,status,answer")
    assert (tmp_path / "r.jsonl").read_bytes() == b""


@pytest.mark.parametrize("cuts", [(10,), (1,) * 10, (3, 0, 7), (9, 1), (0, 10, 0)])
@pytest.mark.parametrize("sizes", [(10,), (4, 6), (1,) * 10, (0, 5, 0, 5)])
def test_the_inputs_columns_stand_beside_their_own_rows(tmp_path: Path, sizes, cuts) -> None:
    """Journal and source cut their batches at different rows; a shift by one would be the worst of faults."""
    values = [f"t{row}" for row in range(10)]
    schema = result_schema(carried=[pa.field("text", pa.string())])

    path = written(tmp_path / "r.parquet", outcomes(*sizes), schema=schema, carried=beside(values, *cuts))

    assert [(row["row"], row["text"]) for row in pq.read_table(path).to_pylist()] == list(enumerate(values))


@pytest.mark.parametrize(
    ("rows", "words"), [(9, "ends after 9 rows"), (11, "more than the 10 rows"), (0, "ends after 0")]
)
def test_an_input_of_another_length_is_refused(tmp_path: Path, rows: int, words: str) -> None:
    schema = result_schema(carried=[pa.field("text", pa.string())])

    with pytest.raises(InputError, match=words):
        written(tmp_path / "r.parquet", outcomes(10), schema=schema, carried=beside(["t"] * rows, rows))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rows", "missing"), [([1], 0), ([0, 0], 1), ([0, 2, 1], 1), ([0, 1, 3], 2)])
def test_a_row_out_of_place_is_named_and_nothing_is_written(tmp_path: Path, rows: list[int], missing: int) -> None:
    """Every row ends once: the last chance to see it otherwise."""
    (tmp_path / "r.parquet").write_text("old")
    batch = pa.RecordBatch.from_pylist([outcome(row) for row in rows], OUTCOME_SCHEMA)

    with pytest.raises(JournalError, match=f"no outcome for row {missing}"):
        written(tmp_path / "r.parquet", iter([batch]))

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("r.parquet", "old")]


def test_missing_rows_at_the_end_are_seen(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds 3 rows in order, but the input has 4"):
        written(tmp_path / "r.parquet", outcomes(3), rows_expected=4)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.jsonl.zst"])
def test_jsonl_brings_every_language_back_byte_for_byte(tmp_path: Path, name: str) -> None:
    values = [*HOSTILE, None, ""]
    schema = result_schema(carried=[pa.field("text", pa.string())])

    path = written(
        tmp_path / name, outcomes(4, len(values) - 4), schema=schema, carried=beside(values, 1, len(values) - 1)
    )

    content = path.read_bytes()
    if name.endswith("gz"):
        content = gzip.decompress(content)
    elif name.endswith("zst"):
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    lines = content.decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["text"] for line in lines] == values
    assert "สวัสดี ครับ" in lines[0]


def test_jsonl_values_are_readable(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", outcomes(1, cost_usd=None))

    row = json.loads(path.read_text())
    assert list(row) == result_schema().names
    assert row["finished_at"] == "2026-11-21T02:00:00.123000Z"
    assert (row["latency_ms"], row["cost_usd"], row["row"]) == (0.1, None, 0)


NESTED = {
    "n": pa.array([{"a": [1, None], "b": "ก"}], pa.struct([("a", pa.list_(pa.int64())), ("b", pa.string())])),
    "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
    "d": pa.array([Decimal("-1.50")], pa.decimal128(5, 2)),
    "t": pa.array([1_795_226_400_123_456_789], pa.timestamp("ns")),
    "lt": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
    "b": pa.array([b"\xff\x00"]),
    "f": pa.array([float("nan")]),
    "o": pa.array([True]),
    "s": pa.array(["x"]).dictionary_encode(),
    "x": pa.nulls(1),
}


@pytest.mark.parametrize(
    ("name", "in_json", "in_csv"),
    [
        ("n", {"a": [1, None], "b": "ก"}, '{"a":[1,null],"b":"ก"}'),
        ("m", {"k": 1}, '{"k":1}'),
        ("d", "-1.50", "-1.50"),
        ("t", "2026-11-21T02:00:00.123456", "2026-11-21T02:00:00.123456"),
        ("lt", ["1970-01-01T00:00:00"], '["1970-01-01T00:00:00"]'),
        ("b", "/wA=", "/wA="),
        ("f", None, "nan"),
        ("o", True, "true"),
        ("s", "x", "x"),
        ("x", None, ""),
    ],
)
def test_every_type_of_input_column_can_be_carried(tmp_path: Path, name: str, in_json: object, in_csv: str) -> None:
    column = NESTED[name]
    schema = result_schema(carried=[pa.field(name, column.type)])

    paths = [
        written(
            tmp_path / f"r.{kind}",
            outcomes(1),
            schema=schema,
            carried=iter([pa.RecordBatch.from_arrays([column], names=[name])]),
        )
        for kind in ("jsonl", "csv", "parquet")
    ]

    assert json.loads(paths[0].read_text())[name] == in_json
    assert next(csv.DictReader(io.StringIO(paths[1].read_text())))[name] == in_csv
    assert pq.read_table(paths[2]).schema.field(name).type == column.type


def test_csv_brings_every_language_back_byte_for_byte(tmp_path: Path) -> None:
    values = [*HOSTILE, ""]
    schema = result_schema(carried=[pa.field("text", pa.string())])

    path = written(tmp_path / "r.csv", outcomes(len(values)), schema=schema, carried=beside(values, len(values)))

    with path.open(encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == values
    assert path.read_bytes().split(b"\r\n")[1].endswith("สวัสดี ครับ".encode())


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "＝1+1",
        "＋1",
        "－1",
        "＠x",
        "=cmd|' /C calc'!A0",
        "-0.5",
        " =1+1",
        "\u3000@x",
        "\ufeff=1",
        "\u200b-1",
        "'=1",
        "' =1",
        "−1",
        "﹦1",
    ],
)
def test_csv_cells_that_a_spreadsheet_would_run_are_defused(tmp_path: Path, cell: str) -> None:
    """Model output is data: opening the results must not run it."""
    path = written(tmp_path / "r.csv", outcomes(1, answer=cell, error=cell))

    with path.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["answer"], row["error"]) == (f"'{cell}", f"'{cell}")


@pytest.mark.parametrize(
    "cell", ["=1", "'=1", "''=1", " =1", "", "'", "''", "it's", "' x", "ก=1", "1-1", "-", "\t", "👍🏽"]
)
def test_a_csv_cell_is_read_back_as_it_was(tmp_path: Path, cell: str) -> None:
    """Whoever wants the text itself takes the ' away again, and no text loses one of its own."""
    path = written(tmp_path / "r.csv", outcomes(1, answer=cell))

    with path.open(encoding="utf-8", newline="") as file:
        assert cell == readable(next(csv.DictReader(file))["answer"])


def test_csv_headers_are_defused_and_numbers_stay_numbers(tmp_path: Path) -> None:
    schema = result_schema(carried=[pa.field("=x", pa.float64())])

    path = written(tmp_path / "r.csv", outcomes(1), schema=schema, carried=beside([-0.5], 1, name="=x"))

    with path.open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert (header[-1], row[-1]) == ("'=x", "-0.5")


@pytest.mark.parametrize("name", ["r", "r.txt", "r.parquet.gz", "r.gz", "r.csv.bz2", ".parquet"])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(JobError, match=r"end it in \.parquet, \.jsonl, \.csv"):
        table_format(Path("out") / name)


def test_formats_are_read_from_the_name() -> None:
    assert (table_format(Path("a.b/ผล.v1.CSV")).kind, table_format(Path("x.csv")).compression) == ("csv", None)
    assert (table_format(Path("x.JSONL.gz")).kind, table_format(Path("x.jsonl.gz")).compression) == ("jsonl", "gz")


def test_directories_on_the_way_are_made(tmp_path: Path) -> None:
    path = written(tmp_path / "ผล" / "deep" / "r.parquet")

    assert pq.read_table(path).num_rows == 3


def test_a_path_through_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()

    with pytest.raises(StorageError, match="cannot write"):
        written(tmp_path / "out" / "r.parquet")


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    class FullDisk(LocalDisk):
        def durable_write(self, target, write):
            class Full(io.BytesIO):
                def write(self, chunk):
                    raise OSError(28, "No space left on device")

            super().durable_write(target, lambda file: write(Full()))

    for name in ("r.parquet", "r.csv", "r.jsonl", "r.csv.gz", "r.jsonl.zst"):
        target = tmp_path / name
        target.write_text("old")
        with pytest.raises(StorageError, match="the disk is full"):
            write_results(outcomes(3), target, form=table_format(target), schema=result_schema(), disk=FullDisk())
        assert target.read_text() == "old"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Row groups are closed as they fill: 5 times the rows, the same Arrow memory."""

    def peak(batches: int) -> int:
        start = pa.total_allocated_bytes()
        highest = 0

        def watched():
            nonlocal highest
            for first in range(batches):
                highest = max(highest, pa.total_allocated_bytes() - start)
                rows = pa.array(range(first * 1000, first * 1000 + 1000), pa.int64())
                columns = [rows if f.name == "row" else pa.nulls(1000, f.type) for f in OUTCOME_SCHEMA]
                answer = pa.array([("x" * 2000)] * 1000)
                columns[OUTCOME_SCHEMA.get_field_index("answer")] = answer
                yield pa.RecordBatch.from_arrays(columns, schema=OUTCOME_SCHEMA)

        written(tmp_path / "r.parquet", watched())
        return highest

    assert peak(100) < 2.5 * peak(20) + 32 * 1024 * 1024


def test_row_groups_are_full_however_the_batches_are_cut(tmp_path: Path) -> None:
    """Groups of a few hundred rows between full ones make a file that reads slowly."""
    target = written(tmp_path / "results.parquet", outcomes(16_000, 16_000, 1_000, 3))
    with pq.ParquetFile(target) as file:
        groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert [16_384, 16_384, 235] == groups


def test_only_columns_that_repeat_have_a_dictionary(tmp_path: Path) -> None:
    """A dictionary of nearly all values takes more time and room than the values."""
    carried = beside([f"ข้อความ {row}" for row in range(1_000)], 600, 400)
    target = written(tmp_path / "results.parquet", outcomes(1_000), schema=with_text(), carried=carried)
    with pq.ParquetFile(target) as file:
        group = file.metadata.row_group(0)
        columns = [group.column(index) for index in range(group.num_columns)]
    has_dictionary = {column.path_in_schema: column.has_dictionary_page for column in columns}
    assert (True, True) == (has_dictionary["status"], has_dictionary["provider"])
    assert (False, False, False) == (has_dictionary["row"], has_dictionary["answer"], has_dictionary["text"])


def with_text() -> pa.Schema:
    return result_schema(carried=[pa.field("text", pa.string())])


def test_large_carried_texts_go_through_in_pieces() -> None:
    """A batch of thousands of outcomes beside texts of a megabyte each must not wait for all of the texts."""
    texts = (pa.RecordBatch.from_arrays([pa.array([f"{row}" + "行" * 350_000])], names=["text"]) for row in range(40))
    pieces = _aligned(outcomes(40), texts)
    sizes = [(left.num_rows, right.num_rows) for left, right in pieces if right is not None]
    assert 40 == sum(rows for rows, _ in sizes)
    assert all(outcome_rows == text_rows <= 5 for outcome_rows, text_rows in sizes)
