"""Paths, lists and globs, and everything that is wrong with them."""

import gzip
import os
from pathlib import Path

import pytest
import zstandard
from source_files import columns_of, jsonl, numbered, opened, parquet, refusal, rows_of


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("rows.jsn", "rows.jsn: unknown kind of file '.jsn'"),
        ("rows.gz", "unknown kind of file"),
        ("row.jsonl", "row.jsonl: there is no such file"),
        ("row.jsonl", "did you mean 'rows.jsonl'?"),
        ("data", "data: is a directory; write data/*.parquet"),
        ("data-*.jsonl", "data-*.jsonl: no file matches"),
        ("s3://bucket/rows.jsonl", "s3:// paths are not supported yet"),
        ("https://example.com/rows.jsonl", "https:// paths are not supported yet"),
        ("pipe.jsonl", "pipe.jsonl: is a pipe or device"),
        ("", "input.path is empty"),
        ("rows\0.jsonl", "null"),
    ],
)
def test_a_wrong_path_gets_a_sentence(tmp_path: Path, path: str, said: str) -> None:
    """A directory, a pipe and a typing error each need another remedy."""
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*numbered(1)))
    for name in ("rows.jsn", "rows.gz"):
        (tmp_path / name).write_bytes(b"{}\n")
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert said in refusal(tmp_path, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(*numbered(1)))
    (tmp_path / "rows.jsonl").chmod(0)
    assert "rows.jsonl: cannot be read: Permission denied" in refusal(tmp_path, "rows.jsonl")


def test_no_path_at_all_is_refused(tmp_path: Path) -> None:
    assert "names no file" in refusal(tmp_path)


def test_files_come_as_listed_globs_sorted_and_none_twice(tmp_path: Path) -> None:
    """The order decides every row's index, so it must not depend on the file system."""
    for name in ("b10", "b2", "a"):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl({"name": name}))
    (tmp_path / "b3.jsonl").symlink_to(tmp_path / "b2.jsonl")
    source = opened(tmp_path, "b2.jsonl", "*.jsonl", str(tmp_path / "a.jsonl"))
    assert [{"name": "b2"}, {"name": "a"}, {"name": "b10"}] == columns_of(source)


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_bytes(jsonl({"n": 1}))
    assert [{"n": 1}] == columns_of(opened(tmp_path, "rows[1].jsonl"))


def test_names_in_any_language_and_case(tmp_path: Path) -> None:
    """P13: from file names on."""
    (tmp_path / "ตั๋ว 票.JSONL").write_bytes(jsonl({"n": 1}))
    assert [{"n": 1}] == columns_of(opened(tmp_path, "ตั๋ว*.JSONL"))


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    """CSV knows only text: its 1 is not JSON's 1."""
    (tmp_path / "a.jsonl").write_bytes(jsonl({"n": 1}))
    (tmp_path / "b.csv").write_bytes(b"n\n1\n")
    assert "b.csv: is csv, but a.jsonl is jsonl" in refusal(tmp_path, "a.jsonl", "b.csv")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("e.jsonl", b"", "no rows"),
        ("e.jsonl", b"\n  \n\r\n", "no rows"),
        ("e.csv", b"", "e.csv:1: is empty"),
        ("e.csv", b"\n\n", "e.csv:1: is empty"),
        ("e.csv", b"id,text\n", "no rows"),
        ("e.parquet", b"", "not a Parquet file"),
        ("e.parquet", b"id,text\n1,a\n", "is not a Parquet file, whatever its name says"),
        ("e.parquet", b"PAR1" + b"x" * 100, "cut off or damaged"),
        ("e.jsonl.gz", b"not gzip at all", "e.jsonl.gz:1: is no gzip archive"),
        ("e.csv.zst", b"not zstd at all", "e.csv.zst:1: is no zstd archive"),
        ("e.parquet.gz", b"not gzip at all", "is no whole gzip archive"),
        ("e.jsonl.gz", gzip.compress(jsonl(*numbered(5000)))[:-20], "the gzip archive ends too early"),
        ("e.jsonl.zst", zstandard.compress(jsonl(*numbered(5000)))[:-20], "the zstd archive ends too early"),
        ("e.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 500_000)[:-5], "the gzip archive ends too early"),
    ],
)
def test_an_empty_wrong_or_cut_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """A cut archive must not pass as a shorter input."""
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path, name)
    assert said in message
    assert name in message


def test_an_empty_parquet_has_no_rows(tmp_path: Path) -> None:
    parquet(tmp_path / "e.parquet", numbered(1))
    parquet(tmp_path / "f.parquet", {"a": []})
    assert "no rows" in refusal(tmp_path, "f.parquet")


def test_archives_of_several_members_are_read_to_the_end(tmp_path: Path) -> None:
    """`cat a.gz b.gz > c.gz` is how logs are joined; some readers stop after the first member."""
    parts = [jsonl(*numbered(10)[:6]), jsonl(*numbered(10)[6:])]
    (tmp_path / "c.jsonl.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    (tmp_path / "c.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, parts)))
    for name in ("c.jsonl.gz", "c.jsonl.zst"):
        assert numbered(10) == [row.columns for row in rows_of(opened(tmp_path, name))]


def test_a_compressed_parquet_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    parquet(tmp_path / "plain.parquet", numbered(3))
    (tmp_path / "r.parquet.gz").write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    source = opened(tmp_path, "r.parquet.gz")
    assert 3 == len(rows_of(source))
    del source
    assert [] == list(temporary.iterdir())
