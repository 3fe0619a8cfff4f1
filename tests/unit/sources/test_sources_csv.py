"""CSV: RFC 4180, text that stays text, and lines that are not CSV."""

from pathlib import Path

import pyarrow as pa
import pytest
from source_files import columns_of, opened, refusal, rows_of

from batcher.sources.source import BrokenInputError


def test_cells_stay_the_text_they_are(tmp_path: Path) -> None:
    """A post code of 007 is no 7, and an empty cell is no null."""
    (tmp_path / "r.csv").write_bytes(b"code,n,empty\n007,1.50, \n+66,1e3,\n")
    source = opened(tmp_path, "r.csv")
    expected = [{"code": "007", "n": "1.50", "empty": " "}, {"code": "+66", "n": "1e3", "empty": ""}]
    assert expected == columns_of(source)
    assert pa.schema([("n", pa.string())]) == source.schema(["n"])
    assert ["1.50", "1e3"] == [value for table in source.tables(["n"]) for value in table["n"].to_pylist()]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_quotes_commas_and_line_ends_in_cells(tmp_path: Path, end: bytes) -> None:
    content = end.join([b'\xef\xbb\xbf"a, b",text', b'"1","say ""hi""', b"", b'ok"', b"", b'2,5" pipe', b'3,""'])
    (tmp_path / "r.csv").write_bytes(content)
    text_end = end.decode()
    expected = [
        {"a, b": "1", "text": f'say "hi"{text_end}{text_end}ok'},
        {"a, b": "2", "text": '5" pipe'},
        {"a, b": "3", "text": ""},
    ]
    assert expected == columns_of(opened(tmp_path, "r.csv"))


def test_unusual_line_separators_stay_in_their_cell(tmp_path: Path) -> None:
    """Python's own splitlines would cut at them."""
    text = "a\x0bb\x0c\x1c\x85\u2028c"
    (tmp_path / "r.csv").write_bytes(f'id,text\n1,{text}\n2,"{text}"\n'.encode())
    assert [text, text] == [row.columns["text"] for row in rows_of(opened(tmp_path, "r.csv"))]


def test_a_column_of_empty_cells_is_read(tmp_path: Path) -> None:
    """In a file of one column an empty line is no record, but a quoted empty cell is."""
    (tmp_path / "r.csv").write_bytes(b'text\n""\n\na\n')
    assert [{"text": ""}, {"text": "a"}] == columns_of(opened(tmp_path, "r.csv"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n\n1,2,3\n", "r.csv:4: has 3 cells, but the header has 2"),
        (b'a,b\n"x\ny",2\n1\n', "r.csv:4: has 1 cells, but the header has 2"),
        (b'a,b\n1,2\n"x"y,2\n', "r.csv:3: is not valid CSV"),
        (b'a,b\n1,2\n1,"never\nends\n', "r.csv:3: a quoted cell that begins here never ends"),
        (b"a,b\n1,2\n1,\xff\n", "r.csv:3: the line is not UTF-8"),
        (b"a,b\n1,\xff\n", "r.csv:2: the line is not UTF-8"),
        (b"a\xff,b\n1,2\n", "r.csv:1: the line is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"a,b,a\n1,2,3\n", "r.csv:1: the header names column 'a' twice"),
        (b"a;b\n1;2\n", "r.csv:1: the header is separated by ';'"),
        (b"a\tb\n1\t2\n", "r.csv:1: the header is separated by '\\t'"),
        (b'"a,b\n1,2\n', "r.csv:1: a quoted cell that begins here never ends"),
    ],
)
def test_a_broken_file_gets_a_sentence_with_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    assert said in refusal(tmp_path, "r.csv")


def test_files_may_order_their_columns_differently_but_have_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,2\n")
    (tmp_path / "b.csv").write_bytes(b"y,x\n4,3\n")
    (tmp_path / "c.csv").write_bytes(b"x,z\n4,3\n")
    assert [{"x": "1", "y": "2"}, {"x": "3", "y": "4"}] == columns_of(opened(tmp_path, "a.csv", "b.csv"))
    assert "c.csv:1: has no column 'y', but a.csv has" in refusal(tmp_path, "a.csv", "c.csv")


def test_a_broken_record_behind_the_head_comes_after_the_rows_before_it(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"id,text\n" + b'1,"a\n%s"\n' % (b"b" * 200) * 10_000 + b"2\n")
    source = opened(tmp_path, "r.csv", look_bytes=1000)
    source.check()
    seen = []
    with pytest.raises(BrokenInputError, match=r"^r\.csv:20002: has 1 cells") as caught:
        seen.extend(len(batch) for batch in source.rows())
    assert 10_000 == sum(seen)
    assert 20_002 == caught.value.line


def test_a_chat_history_needs_another_format(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"chat\n[]\n")
    assert "a CSV cell holds no chat history" in refusal(tmp_path, "r.csv", check={"list_column": "chat"})
