"""JSONL: broken lines, columns, types, and what happens behind the head."""

from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
from source_files import columns_of, jsonl, numbered, opened, refusal, rows_of

from batcher.core.records import Row
from batcher.errors import InputError
from batcher.sources import lines
from batcher.sources.source import BrokenInputError


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": 2,', "the line is not valid JSON"),
        (b'{"id": 2} x', "the line is not valid JSON"),
        (b'{"id": NaN, "text": ""}', "the line is not valid JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"id": 2, "text": "\xff"}', "the line is not UTF-8"),
        (b'{"id": 2, "text": "\\ud800"}', "the line is not valid JSON"),
        (b'{"id": 2, "text": ' + b"[" * 500_000, "nested too deeply"),
        (b'{"id": 2}', "column 'text' is missing; write null where there is no value"),
        (b'{"id": 2, "text": "a"}\0', "the line is not valid JSON"),
    ],
)
def test_a_broken_line_is_named_before_anything_is_sent(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(2)) + b"\n" + line + b"\n" + jsonl({"id": 3, "text": "c"}))
    message = refusal(tmp_path, "r.jsonl")
    assert message.startswith("r.jsonl:4: ")
    assert said in message


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_forgiven(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n \t\n{"n": 2}')
    assert [{"n": 1}, {"n": 2}] == columns_of(opened(tmp_path, "r.jsonl"))


def test_utf16_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes('{"n": 1}\n'.encode("utf-16"))
    assert "UTF-16; save the file as UTF-8" in refusal(tmp_path, "r.jsonl")


def test_columns_are_those_of_all_lines_and_only_used_ones_must_be_everywhere(tmp_path: Path) -> None:
    """Exports leave out what is empty; that may not stop a job which does not ask for it."""
    (tmp_path / "r.jsonl").write_bytes(jsonl({"a.b": 1}, {"a.b": 2, "ข้อความ ยาว": "x"}))
    source = opened(tmp_path, "r.jsonl")
    assert ("a.b", "ข้อความ ยาว") == source.columns
    assert [{"a.b": 1}, {"a.b": 2}] == columns_of(source.select(["a.b"]))
    with pytest.raises(InputError, match=r"r\.jsonl:1: column 'ข้อความ ยาว' is missing"):
        source.select(["ข้อความ ยาว"]).check()


@pytest.mark.parametrize("name", ["é", "tên đầy đủ", "ข้อความ", "文", "🎫", "\x80", "a.b", 'a"b', "", "{x}"])
def test_a_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The decoder's own dictionaries know only ASCII names."""
    (tmp_path / "r.jsonl").write_bytes(jsonl({"a": "", name: ""}, {name: "x", "more": 1}))
    source = opened(tmp_path, "r.jsonl", key=name, limit=2).select([name])
    with pytest.raises(InputError, match="the key column"):
        source.check()
    source.check(carry=[name], keys=False)
    assert [{name: ""}, {name: "x"}] == columns_of(source)


def test_an_unknown_column_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(1)))
    source = opened(tmp_path, "r.jsonl")
    with pytest.raises(InputError, match=r"no column 'txt'; did you mean 'text'\? \(it has: id, text\)"):
        source.select(["txt"])
    assert "input.carry: the input has no column 'tet'" in refusal(tmp_path, "r.jsonl", check={"carry": ["tet"]})
    assert "input.key: the input has no column 'idd'; did you mean 'id'?" in refusal(tmp_path, "r.jsonl", key="idd")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, None], pa.bool_()),
        (["a"], pa.string()),
        ([None, None], pa.string()),
        ([[1], [2.5], None, []], pa.list_(pa.float64())),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ([{"a": None}, {"a": []}], pa.struct([("a", pa.list_(pa.string()))])),
    ],
)
def test_a_carried_column_has_one_type(tmp_path: Path, values: list[object], expected: pa.DataType) -> None:
    """The results' schema is fixed before the first row and never drifts."""
    (tmp_path / "r.jsonl").write_bytes(jsonl(*({"c": value} for value in values)))
    source = opened(tmp_path, "r.jsonl")
    source.check(carry=["c"])
    assert pa.schema([("c", expected)]) == source.schema(["c"])
    assert len(values) == sum(len(table) for table in source.tables(["c"]))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2, "x"], "r.jsonl:3: column 'c' is text, but an integer in r.jsonl:1"),
        (["x", True], "r.jsonl:2: column 'c' is true or false, but text in r.jsonl:1"),
        ([1, [1]], "r.jsonl:2: column 'c' is a list, but an integer in r.jsonl:1"),
        ([[1], ["x"]], "r.jsonl:2: the list or object in column 'c' holds other types"),
        ([[1, "x"]], "r.jsonl:1: the list or object in column 'c' holds other types"),
        ([{}], "its objects are all empty"),
        ([1, 2**70], "r.jsonl:2: column 'c' does not fit"),
        ([2**60 + 1, 0.5], "r.jsonl:1: column 'c' does not fit"),
    ],
)
def test_a_column_of_mixed_types_is_refused_where_it_is_carried(
    tmp_path: Path, values: list[object], said: str
) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*({"c": value, "text": "a"} for value in values)))
    assert said in refusal(tmp_path, "r.jsonl", check={"carry": ["c"]})
    assert len(values) == opened(tmp_path, "r.jsonl").check().rows


def test_numbers_stay_as_written_for_the_prompt(tmp_path: Path) -> None:
    """A prompt that says 3.0 where the file says 3 is another prompt."""
    (tmp_path / "r.jsonl").write_bytes(b'{"n": 3}\n{"n": 2.5}\n')
    source = opened(tmp_path, "r.jsonl")
    source.check(carry=["n"])
    assert ["3", "2.5"] == [str(row.columns["n"]) for row in rows_of(source)]
    assert [3.0, 2.5] == [value for table in source.tables(["n"]) for value in table["n"].to_pylist()]


def broken_behind_the_head(directory: Path, line: bytes) -> int:
    """A file of which only the first block is looked at, with one broken line far behind it; its number."""
    good = b"".join(b'{"id": %d, "text": "%s"}\n' % (number, b"x" * 2000) for number in range(3000))
    (directory / "r.jsonl").write_bytes(good + line + b"\n" + b'{"id": -1, "text": "y"}\n')
    return 3001


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": 2,', "not valid JSON"),
        (b'{"id": 2}', "column 'text' is missing"),
        (b'{"id": "two", "text": "a"}', "column 'id' does not fit its type so far: Expected int"),
    ],
)
@pytest.mark.parametrize("where", [None, "id <> 7"])
def test_a_broken_line_behind_the_head_stops_after_the_rows_before_it(
    tmp_path: Path, line: bytes, said: str, where: str | None
) -> None:
    """Every row before it is asked, and the message says where to go on."""
    number = broken_behind_the_head(tmp_path, line)
    source = opened(tmp_path, "r.jsonl", look_bytes=1000, where=where)
    facts = source.check(carry=["id"])
    assert (None, False) == (facts.rows, facts.is_whole)
    seen: list[Row] = []
    with pytest.raises(BrokenInputError, match=rf"^r\.jsonl:{number}: ") as caught:
        seen.extend(chain.from_iterable(source.rows()))
    assert said in caught.value.message
    assert 3000 - (where is not None) == len(seen)
    assert ("r.jsonl", number) == (caught.value.name, caught.value.line)


def test_a_carried_object_with_a_new_field_behind_the_head_is_not_cut(tmp_path: Path) -> None:
    """Arrow would drop the field without a word."""
    rows = [{"c": {"a": 1}, "text": "x" * 2000}] * 2000 + [{"c": {"a": 1, "b": 2}, "text": "x"}]
    (tmp_path / "r.jsonl").write_bytes(jsonl(*rows))
    source = opened(tmp_path, "r.jsonl", look_bytes=1000)
    source.check(carry=["c"])
    with pytest.raises(BrokenInputError, match=r"^r\.jsonl:2001: column 'c' does not fit"):
        rows_of(source)


def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of one endless line must not fill the memory."""
    (tmp_path / "r.jsonl").write_bytes(b'{"text": "' + b"x" * 3_000_000)
    file = opened_file(tmp_path)
    with pytest.raises(BrokenInputError, match=r"^r\.jsonl:1: the line is longer than 1 MiB"):
        list(lines.line_blocks(file, line_bytes_max=2**20))


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("content", [b"a\nbb\n\nccc", b"a\n", b"\n", b"", b"\xef\xbb\xbfa\r\nb"])
def test_lines_do_not_depend_on_the_size_of_blocks(tmp_path: Path, content: bytes, block_bytes: int) -> None:
    (tmp_path / "r.jsonl").write_bytes(content)
    blocks = list(lines.line_blocks(opened_file(tmp_path), block_bytes=block_bytes))
    expected = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [line.removesuffix(b"\n") for block in blocks for line in block.lines()]
    assert (expected if expected[-1] else expected[:-1]) == found
    assert [len(block.lines()) for block in blocks] == [
        len(block) for block in lines.line_blocks(opened_file(tmp_path), block_bytes=block_bytes)
    ], "counted alike whether they were split or not"
    numbers = [block.first_number + index for block in blocks for index in range(len(block.lines()))]
    assert list(range(1, len(numbers) + 1)) == numbers


def opened_file(directory: Path) -> "lines.InputFile":
    return lines.InputFile(directory / "r.jsonl", "r.jsonl", "jsonl", None, (directory / "r.jsonl").stat().st_size)


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("hello", "is text; a chat history is a list of {role, content}"),
        (None, "is null"),
        ([1], "has a number as message number 1"),
        ([{"role": "user"}], "lacks content in message number 1"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "lacks role in message number 2"),
        ([{"role": "user", "content": 3}], "has a number as content"),
    ],
)
def test_a_chat_column_holds_chats(tmp_path: Path, history: object, said: str) -> None:
    good = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    (tmp_path / "r.jsonl").write_bytes(jsonl({"chat": good}, {"chat": history}))
    message = refusal(tmp_path, "r.jsonl", check={"list_column": "chat"})
    assert message.startswith("r.jsonl:2: column 'chat' ")
    assert said in message


def test_a_good_chat_column_passes(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "สวัสดี"}]
    (tmp_path / "r.jsonl").write_bytes(jsonl({"chat": chat}))
    source = opened(tmp_path, "r.jsonl").select(["chat"])
    assert 1 == source.check(list_column="chat").rows
    assert [{"chat": chat}] == columns_of(source)
