"""Small files and predicates that ask for much: each is a sentence, or rows in bounded memory and time."""

import contextlib
import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import columns_of, jsonl, numbered, opened, parquet, refusal, rows_of

from batcher.errors import InputError
from batcher.sources import table
from batcher.sources.files import resolve_files
from batcher.sources.parquet import ParquetTable
from batcher.sources.source import BrokenInputError

MIB = 2**20
NAME_SHOWN_MAX = 80


@contextlib.contextmanager
def counted() -> Iterator[pa.MemoryPool]:
    """Counts the memory that Arrow takes."""
    before = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(before)


def arrow_batches(directory: Path, column: str) -> Iterator[pa.RecordBatch]:
    table = ParquetTable(resolve_files(["r.parquet"], directory))
    return (batch.records for batch in table.batches([column]))


def one_entry(rows: int, text: str) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists of lists", "objects of objects"]
)
@pytest.mark.parametrize("levels", [70, 900])
@pytest.mark.parametrize("use", [{"check": {"carry": ["c"]}}, {"where": "c IS NOT NULL"}], ids=["carried", "where"])
def test_a_typed_column_that_is_nested_too_deeply_is_named(
    tmp_path: Path, opening: bytes, closing: bytes, levels: int, use: dict[str, dict[str, list[str]]]
) -> None:
    """Arrow takes 100 MB for the type of 900 levels, and Python's stack ends before them."""
    deep = opening * levels + b"null" + closing * levels
    (tmp_path / "r.jsonl").write_bytes(b'{"c": null}\n{"c": ' + deep + b"}\n")
    message = refusal(tmp_path, "r.jsonl", **use)
    assert message.startswith("r.jsonl:2: ")
    assert "the JSON is nested too deeply" in message


def test_deep_values_behind_the_head_are_named_too(tmp_path: Path) -> None:
    good = jsonl(*({"c": [1], "text": "x" * 2000} for _ in range(1000)))
    (tmp_path / "r.jsonl").write_bytes(good + b'{"c": ' + b"[" * 900 + b"]" * 900 + b', "text": ""}\n')
    source = opened(tmp_path, "r.jsonl", look_bytes=1000)
    source.check(carry=["c"])
    with pytest.raises(BrokenInputError, match=r"^r\.jsonl:1001: column 'c' does not fit"):
        rows_of(source)


def test_forty_levels_may_be_carried(tmp_path: Path) -> None:
    value: object = "票"
    for _ in range(40):
        value = [value]
    (tmp_path / "r.jsonl").write_bytes(jsonl({"c": value}))
    source = opened(tmp_path, "r.jsonl")
    source.check(carry=["c"])
    assert [{"c": value}] == [row for batch in source.tables(["c"]) for row in batch.to_pylist()]


@pytest.mark.parametrize("in_one_line", [True, False])
def test_an_object_used_as_a_dictionary_is_no_type(tmp_path: Path, in_one_line: bool) -> None:
    """A million names in one object took Arrow two minutes."""
    names = [f"khoá {number}" for number in range(2000)]
    objects = [dict.fromkeys(names, 1)] if in_one_line else [{name: 1} for name in names]
    (tmp_path / "r.jsonl").write_bytes(jsonl(*({"c": one} for one in objects)))
    said = refusal(tmp_path, "r.jsonl", check={"carry": ["c"]})
    assert said.startswith("r.jsonl:1: " if in_one_line else "r.jsonl:1001: ")
    assert "more than 1,000 different names" in said
    assert len(objects) == opened(tmp_path, "r.jsonl").check().rows


def columns_by_line(path: Path, count: int) -> None:
    path.write_bytes(jsonl(*({f"c{number}": 1, "text": "a"} for number in range(count))))


def columns_in_one_line(path: Path, count: int) -> None:
    path.write_bytes(jsonl({f"c{number}": 1 for number in range(count)}))


def columns_of_csv(path: Path, count: int) -> None:
    path.write_text(",".join(f"c{number}" for number in range(count)) + "\n" + ",".join("1" * count) + "\n")


def columns_of_parquet(path: Path, count: int) -> None:
    parquet(path, {f"c{number}": pa.array([1]) for number in range(count)})


@pytest.mark.parametrize(
    ("write", "name", "place"),
    [
        (columns_by_line, "r.jsonl", "r.jsonl:10000:"),
        (columns_in_one_line, "r.jsonl", "r.jsonl:1:"),
        (columns_of_csv, "r.csv", "r.csv:1:"),
        (columns_of_parquet, "r.parquet", "r.parquet:"),
    ],
)
def test_columns_are_counted(tmp_path: Path, write: Callable[[Path, int], None], name: str, place: str) -> None:
    """Names that come from the rows are no columns."""
    write(tmp_path / name, 10_001)
    assert f"{place} the input has more than 10,000 columns here" in refusal(tmp_path, name)


def test_a_thousand_columns_are_fine(tmp_path: Path) -> None:
    for write, name in ((columns_in_one_line, "r.jsonl"), (columns_of_csv, "r.csv"), (columns_of_parquet, "r.parquet")):
        write(tmp_path / name, 1000)
        (row,) = columns_of(opened(tmp_path, name))
        assert 1000 == len(row)


@pytest.mark.parametrize("stores_schema", [True, False])
def test_a_dictionary_of_one_large_text_is_decoded_in_pieces(tmp_path: Path, stores_schema: bool) -> None:
    """300 bytes of file stood for 600 MB in one batch."""
    texts = one_entry(600, "ก" * 333_333)
    pq.write_table(pa.table({"text": texts}), tmp_path / "r.parquet", compression="zstd", store_schema=stores_schema)
    with counted() as pool:
        assert 600 == sum(len(batch) for batch in opened(tmp_path, "r.parquet").rows())
    assert pool.max_memory() < 200 * MIB


def zeros() -> pa.Array:
    bounds = pa.array(range(0, 40_000_001, 100_000), pa.int32())
    return pa.ListArray.from_arrays(
        bounds, pa.Array.from_buffers(pa.int8(), 40_000_000, [None, pa.py_buffer(bytes(40_000_000))])
    )


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (lambda: pa.array(["a"] * 5000 + ["x" * 900_000, "y"] * 200), {}),
        (lambda: pa.array([["x" * 900_000] * 10] * 20), {}),
        (lambda: pa.array([["x" * 900_000, "y"] * 10] * 20), {}),
        (
            lambda: pa.array([f"{'x' * 900_000}{number}" for number in range(200)]),
            {"column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False},
        ),
        (zeros, {}),
    ],
    ids=["a late large entry", "lists of one entry", "lists of two entries", "differences", "lists of zeros"],
)
def test_what_unpacks_to_much_is_read_in_pieces(
    tmp_path: Path, values: Callable[[], pa.Array], options: dict[str, str | bool]
) -> None:
    """The footer tells the size of the encoded column only: a few kB for each of these."""
    array = values()
    parquet(tmp_path / "r.parquet", {"c": array}, compression="zstd", store_schema=False, **options)
    assert (tmp_path / "r.parquet").stat().st_size < 200_000
    sizes = []
    read = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *args: object, **options: object) -> Iterator[pa.RecordBatch]:
        for batch in read(self, *args, **options):
            sizes.append(batch.nbytes)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", spy)
        assert len(array) == sum(len(batch) for batch in arrow_batches(tmp_path, "c"))
    assert max(sizes) <= 64 * MIB


def test_a_large_group_behind_many_small_ones_is_seen(tmp_path: Path) -> None:
    """Only the first 16 groups were measured once."""
    with pq.ParquetWriter(tmp_path / "r.parquet", pa.schema([("t", pa.string())]), write_batch_size=1) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"t": ["a"] * 100}))
        writer.write_table(pa.table({"t": [f"{number}" + "x" * 900_000 for number in range(300)]}))
    with counted() as pool:
        assert 2300 == sum(len(batch) for batch in arrow_batches(tmp_path, "t"))
    assert pool.max_memory() < 64 * MIB


def test_ordinary_columns_make_full_batches(tmp_path: Path) -> None:
    """The bounds cost the good path nothing: labels and short texts come by the thousand."""
    rows = [{"text": f"vé {n} " * 20, "label": "ab"[n % 2], "n": n, "tags": ["x", "y"]} for n in range(5000)]
    parquet(tmp_path / "r.parquet", rows)
    assert [1000] * 5 == [len(batch) for batch in opened(tmp_path, "r.parquet").rows()]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (
            pa.Array.from_buffers(
                pa.string(), 2, [None, pa.py_buffer(struct.pack("<iii", 0, 1, 3)), pa.py_buffer(b"a\xff\xfe")]
            ),
            "row number 2: column 'c' holds text that is not UTF-8",
        ),
        (pa.array([0, 2**62], pa.timestamp("us")), "row number 2: column 'c' holds a value of type timestamp[us]"),
        (pa.array([0, 2**30], pa.int32()).cast(pa.date32()), "row number 2: column 'c' holds a value of type date32"),
        (pa.array([0, 2**62], pa.duration("s")), "row number 2: column 'c' holds a value of type duration[s]"),
        (pa.array([0, 0], pa.timestamp("us", "Mars/Olympus")), "row number 1: column 'c' holds a value of type"),
    ],
)
def test_values_that_python_cannot_hold_are_named(tmp_path: Path, array: pa.Array, said: str) -> None:
    parquet(tmp_path / "r.parquet", {"c": array})
    with pytest.raises(BrokenInputError) as caught:
        rows_of(opened(tmp_path, "r.parquet"))
    assert said in caught.value.message


def test_bytes_as_text_reach_neither_polars_nor_the_results(tmp_path: Path) -> None:
    """Arrow takes the file's word that text is UTF-8."""
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")])
    parquet(tmp_path / "r.parquet", {"c": text})
    specs: list[dict[str, Any]] = [{"where": "c = 'x'"}, {"key": "c"}]
    for spec in specs:
        assert "row number 1: column 'c' holds text that is not UTF-8" in refusal(tmp_path, "r.parquet", **spec)
    with pytest.raises(BrokenInputError, match="not UTF-8"):
        list(opened(tmp_path, "r.parquet").tables(["c"]))


@pytest.mark.parametrize("place", ["length", "length below zero", "encrypted", "no footer"])
def test_a_wrong_footer_gets_a_sentence(tmp_path: Path, place: str) -> None:
    path = tmp_path / "r.parquet"
    parquet(path, numbered(100))
    content = bytearray(path.read_bytes())
    match place:
        case "length":
            content[-8:-4] = struct.pack("<i", 2**31 - 1)
        case "length below zero":
            content[-8:-4] = struct.pack("<i", -5)
        case "encrypted":
            content[:4] = content[-4:] = b"PARE"
        case "no footer":
            content = content[:4] * 2
    path.write_bytes(content)
    assert refusal(tmp_path, "r.parquet").startswith("r.parquet: ")


@pytest.mark.parametrize(
    ("name", "line", "head"),
    [("r.jsonl.gz", b"\n", b""), ("r.jsonl.gz", b" \r\n", b""), ("r.csv.gz", b"\r\n", b"a,b\n")],
)
def test_millions_of_blank_lines_are_passed_over(tmp_path: Path, name: str, line: bytes, head: bytes) -> None:
    """30 million of them fit into 30 kB; their number still counts in what is said of the line behind."""
    bad = b"{" if name.startswith("r.jsonl") else b"1,2,3"
    blank = line * (30 * MIB // len(line))
    (tmp_path / name).write_bytes(gzip.compress(head + blank + bad + b"\n", 1))
    number = head.count(b"\n") + len(blank) // len(line) + 1
    assert refusal(tmp_path, name).startswith(f"{name}:{number}: ")


def test_blank_lines_within_a_cell_stay(tmp_path: Path) -> None:
    """Whole blocks of them too."""
    text = "a" + "\n" * (900_000) + "b"
    content = f'id,text\n1,"{"x" * MIB}{text}"\n\n2,c\n'
    (tmp_path / "r.csv").write_text(content)
    assert [{"id": "1", "text": "x" * MIB + text}, {"id": "2", "text": "c"}] == columns_of(opened(tmp_path, "r.csv"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([b'a,b\n1,"', *[b"x" * (MIB - 1) + b"\n"] * 70, b'"\n'], "r.csv.gz:2: a record is longer than 64 MiB"),
        ([b'a,b\n1,"', b"x\n" * 1_000_001, b'"\n'], "r.csv.gz:2: a record is longer than 64 MiB or 1,000,000 lines"),
        ([b'a,b\n1,"', *[b"x" * MIB] * 70, b'"\n'], "r.csv.gz:2: the line is longer than 64 MiB"),
        ([b"a,b\n", b"," * 5_000_000, b"\n"], "r.csv.gz:2: has more than 10,000 cells, but the header has 2"),
        ([b"," * 5_000_000, b"\n"], "r.csv.gz:1: the input has more than 10,000 columns"),
    ],
    ids=["a quote that is not closed", "short lines", "one line", "commas", "a header of commas"],
)
def test_a_csv_record_is_bounded(tmp_path: Path, content: list[bytes], said: str) -> None:
    with gzip.open(tmp_path / "r.csv.gz", "wb", 1) as file:
        file.writelines(content)
    assert refusal(tmp_path, "r.csv.gz").startswith(said)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("name", ["r.jsonl", "r.csv"])
def test_wide_encodings_are_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes('{"a": 1}\n'.encode(encoding))
    assert "UTF-16" in refusal(tmp_path, name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"n": 1e999}', "not valid JSON"),
        (b'{"n": ' + b"1" * MIB + b"}", "not valid JSON"),
        (b'{"n": 1e' + b"1" * MIB + b"}", "not valid JSON"),
        (b'{"\\ud800": 1}', "not valid JSON"),
    ],
)
def test_numbers_and_names_that_are_none(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "r.jsonl").write_bytes(line + b"\n")
    message = refusal(tmp_path, "r.jsonl")
    assert message.startswith("r.jsonl:1: ")
    assert said in message
    assert len(message) < 300


def test_of_two_equal_names_the_last_one_counts(tmp_path: Path) -> None:
    """As in every other reader of JSON."""
    (tmp_path / "r.jsonl").write_bytes(b'{"n": 1, "n": 2}\n')
    assert [{"n": 2}] == columns_of(opened(tmp_path, "r.jsonl"))


def test_long_names_are_cut_in_messages(tmp_path: Path) -> None:
    """A message of 10 MB fills the log and the terminal."""
    name = "ข้อความ" * 50_000
    (tmp_path / "r.jsonl").write_bytes(jsonl({name: 1}, {"a": "x"}))
    (tmp_path / "r.csv").write_bytes(f"{name},{name}\n".encode())
    parquet(tmp_path / "r.parquet", {name: [b"x"]})
    messages = [refusal(tmp_path, "r.jsonl", check={"carry": [name]}), refusal(tmp_path, "r.csv")]
    messages += [
        refusal(tmp_path, "r.jsonl", check={"carry": ["b"]}),
        refusal(tmp_path, "r.jsonl", where=f'"{name}x" = 1'),
    ]
    with pytest.raises(InputError) as caught:
        opened(tmp_path, "r.parquet").select([name])
    assert NAME_SHOWN_MAX == len(table.shown(name))
    assert max(map(len, [*messages, caught.value.message])) < 400


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("(" * 5000 + "n = 1" + ")" * 5000, "too many steps"),
        ("NOT (" * 40 + "n = 1" + ")" * 40, "too many steps"),
        ("n = 1" + " + 1" * 20_000, "too many steps"),
        (" OR ".join(f"n = {number}" for number in range(20_000)), "too many steps"),
        ("n = 1" + " AND n = 1" * 500, "too many steps"),
        ("CASE WHEN n = 1 THEN n ELSE " * 40 + "n" + " END" * 40 + " = 1", "too many steps"),
        ("E'\\'' = s AND " + "NOT (" * 40 + "n = 1" + ")" * 40 + " AND s = ''", "too many steps"),
        ("n = 1 /* ' */ AND " + "NOT (" * 40 + "n = 1" + ")" * 40, "comment"),
        ("LPAD(s, 2000000000, 'x') = 'a'", "long texts"),
        ("RPAD(s, n, 'x') = 'a'", "long texts"),
        (f"REPLACE(s, '', '{'x' * 1000}') = 'a'", "long texts"),
        ("REPLACE(REPLACE(s, 'a', 'aaaaaaa'), 'a', 'aaaaaaa') = 'a'", "long texts"),
        ("REPLACE(s, 'a', s) = 'a'", "long texts"),
        ("s" + " || s" * 200 + " = 'a'", "long texts"),
        ("GENERATE_SERIES(1, 10000000000) = n", "input.where"),
        ("s = '" + "y" * 100_000, "not an SQL predicate"),
        ("s = = " + "y" * 100_000, "not an SQL predicate"),
        (f"s + '{'y' * 100_000}' > n", "input.where"),
    ],
)
def test_a_predicate_that_would_hang_or_fill_the_memory_is_refused(tmp_path: Path, where: str, said: str) -> None:
    """The parser doubles its time with each `NOT (`, and 10,000 steps end the process without a word."""
    (tmp_path / "r.jsonl").write_bytes(jsonl({"n": 1, "s": "aaa"}))
    message = refusal(tmp_path, "r.jsonl", where=where)
    assert said in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (f"n IN ({', '.join(map(str, range(20_000)))})", 2),
        ("s IN (':(', ':((', '((((((((((((((((((((((((')", 1),
        ("s = '/* no comment */' OR n = 1", 1),
        ("LPAD(s, 5, '0') = '000:('", 1),
        ("REPLACE(s, ':', '票') = '票('", 1),
        ("s || '!' = ':(!'", 1),
        ("(((n = 1 OR (n = 2 AND (s <> 'x')))))", 2),
        (" OR ".join(f"n = {number}" for number in range(100)), 2),
        ("CASE WHEN n = 1 THEN 'vé' WHEN n = 2 THEN 'b' ELSE 'c' END = 'vé'", 1),
        ("n = 1 -- the first (((((((((((((((((((((((", 1),
    ],
)
def test_honest_predicates_go_on_working(tmp_path: Path, where: str, kept: int) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl({"n": 1, "s": ":("}, {"n": 2, "s": "x(" * 3}))
    assert kept == opened(tmp_path, "r.jsonl", where=where).check().rows


def changing(directory: Path, change: Callable[[Path], None], rows: int = 3000) -> None:
    """Read a file of a few blocks that changes after the first of them."""
    path = directory / "r.jsonl"
    path.write_bytes(jsonl(*({"id": number, "text": "x" * 2000} for number in range(rows))))
    source = opened(directory, "r.jsonl", look_bytes=1000)
    source.check()
    batches = source.rows()
    next(batches)
    change(path)
    for _ in batches:
        pass


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path) -> None:
    """Rows that appear while others are asked belong to no count and no fingerprint."""

    def grow(path: Path) -> None:
        with path.open("ab") as file:
            file.write(jsonl({"id": -1, "text": ""}))

    with pytest.raises(BrokenInputError, match=r"^r\.jsonl:3002: the file has changed while it was read"):
        changing(tmp_path, grow)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    """It must not pass as a shorter input."""
    with pytest.raises(BrokenInputError, match=r"^r\.jsonl:\d+: "):
        changing(tmp_path, lambda path: os.truncate(path, 3_000_000))


def test_a_file_that_is_replaced_while_it_is_read_is_named(tmp_path: Path) -> None:
    """The results are written from a second pass, which would find other rows than were asked."""

    def replace(path: Path) -> None:
        (tmp_path / "new").write_bytes(jsonl({"id": 1, "text": ""}))
        (tmp_path / "new").replace(path)

    with pytest.raises(BrokenInputError, match="has changed while it was read"):
        changing(tmp_path, replace)


def test_a_parquet_file_with_other_rows_than_at_the_start_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "r.parquet", numbered(10))
    source = opened(tmp_path, "r.parquet")
    parquet(tmp_path / "r.parquet", numbered(7))
    with pytest.raises(BrokenInputError, match=r"^r\.parquet: has changed while it was read: it had 10 rows, now 7"):
        rows_of(source)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "pipe"])
def test_a_link_to_a_device_does_not_hang(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for suffix in ("jsonl", "csv", "parquet", "jsonl.gz", "parquet.zst"):
        (tmp_path / f"r.{suffix}").symlink_to(target)
        if Path(tmp_path, f"r.{suffix}").is_file():
            pytest.skip("stdin is a file here")
        assert "is a pipe or device" in refusal(tmp_path, f"r.{suffix}")


@pytest.mark.parametrize("behind", [b"garbage", b"\0" * 512, b"\x1f\x8b"])
def test_an_archive_with_something_behind_is_named(tmp_path: Path, behind: bytes) -> None:
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(jsonl(*numbered(5))) + behind)
    assert "gzip archive" in refusal(tmp_path, "r.jsonl.gz")


def test_a_key_that_is_long_is_cut_in_the_message(tmp_path: Path) -> None:
    line = json.dumps({"id": "k" * MIB}).encode() + b"\n"
    (tmp_path / "r.jsonl").write_bytes(line * 2)
    message = refusal(tmp_path, "r.jsonl", key="id")
    assert message.startswith("r.jsonl:2: key 'kkk")
    assert len(message) < 300
