"""Keys: none missing, none twice, however many there are."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from source_files import jsonl, numbered, opened, parquet, refusal, rows_of

from batcher.sources import key_hashes, keys
from batcher.sources.keys import KeyCheck


def test_a_key_that_stands_twice_is_named_with_both_places(tmp_path: Path) -> None:
    """Also far behind the head, and over several files."""
    (tmp_path / "a.jsonl").write_bytes(b"\n" + jsonl(*numbered(60_000)))
    (tmp_path / "b.jsonl").write_bytes(jsonl({"id": 70_000, "text": ""}, {"id": 41, "text": ""}))
    source = opened(tmp_path, "a.jsonl", "b.jsonl", key="id", look_bytes=1000)
    with pytest.raises(Exception, match=r"^b\.jsonl:2: key 41 in column 'id' is taken by a\.jsonl:43; give each row"):
        source.check()
    assert source.check(keys=False).rows_estimate > 0


def test_parquet_and_csv_name_their_places(tmp_path: Path) -> None:
    parquet(tmp_path / "r.parquet", [{"id": "ก"}, {"id": "ข"}, {"id": "ก"}])
    (tmp_path / "r.csv").write_bytes(b'id\n"a\nb"\nc\nc\n')
    parquet_said = "r.parquet, row number 3: key 'ก' in column 'id' is taken by r.parquet, row number 1"
    assert parquet_said in refusal(tmp_path, "r.parquet", key="id")
    assert "r.csv:5: key 'c' in column 'id' is taken by r.csv:4" in refusal(tmp_path, "r.csv", key="id")


def test_only_rows_of_the_run_need_their_own_key(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl({"id": 1, "v": 1}, {"id": 1, "v": 2}, {"id": 2, "v": 2}))
    assert 2 == opened(tmp_path, "r.jsonl", key="id", where="v = 2").check().rows
    assert 1 == opened(tmp_path, "r.jsonl", key="id", limit=1).check().rows
    assert "taken by r.jsonl:1" in refusal(tmp_path, "r.jsonl", key="id")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, None], "r.jsonl:2: the key column 'id' is empty here"),
        (["a", ""], "r.jsonl:2: the key column 'id' is empty here"),
        ([1.5], "key column 'id' is of type double"),
        ([1, 2.5], "key column 'id' is of type double"),
        ([[1]], "key column 'id' is of type list"),
        ([{"a": 1}], "key column 'id' is of type struct"),
        ([1, "1"], "r.jsonl:2: column 'id' is text, but an integer in r.jsonl:1"),
        ([1, 2**64], "r.jsonl:2: column 'id' does not fit"),
    ],
)
def test_what_names_no_row_is_refused(tmp_path: Path, values: list[Any], said: str) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*({"id": value} for value in values)))
    assert said in refusal(tmp_path, "r.jsonl", key="id")


def test_a_missing_key_column_on_one_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl({"id": 1, "text": "a"}, {"text": "b"}))
    assert "r.jsonl:2: column 'id' is missing" in refusal(tmp_path, "r.jsonl", key="id")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([dt.date(2026, 1, 2)]), ["2026-01-02"]),
        (pa.array([Decimal("1.50")]), ["1.50"]),
        (pa.array([1, 2], pa.timestamp("ns", "UTC")), ["1970-01-01 00:00:00.00000000" + end for end in ("1Z", "2Z")]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_keys_become_what_json_can_say(tmp_path: Path, array: pa.Array, expected: list[Any]) -> None:
    """Two times a nanosecond apart are two keys."""
    parquet(tmp_path / "r.parquet", {"id": array})
    source = opened(tmp_path, "r.parquet", key="id").select([])
    assert len(expected) == source.check().rows
    assert expected == [row.key for row in rows_of(source)]
    assert [{}] * len(expected) == [row.columns for row in rows_of(source)]


def test_many_keys_are_spilled_and_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary files are gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(keys, "KEPT_ROWS_MAX", 900)
    with KeyCheck(in_memory_max=1000) as check:
        for start in range(0, 50_000, 777):
            check.add(pa.array(range(start, start + 777)))
        assert any(tmp_path.iterdir())
        assert not check.has_suspects()
    with KeyCheck(in_memory_max=1000) as check:
        for start in range(0, 50_000, 1000):
            check.add(pa.array(range(start, start + 1001)))
        assert check.has_suspects()
        assert [False, True, True, False] == check.is_suspect(pa.array([999, 1000, 49_000, 49_001]))
    assert [] == list(tmp_path.iterdir())


def test_equal_hashes_of_different_keys_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash only suspects; the values decide."""
    monkeypatch.setattr(keys, "KEPT_ROWS_MAX", 10)
    monkeypatch.setattr(key_hashes, "_hashes", lambda array: pa.array([7] * len(array), pa.int64()))
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(50)))
    assert 50 == opened(tmp_path, "r.jsonl", key="id").check().rows
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(50), *numbered(4)[3:]))
    assert "r.jsonl:51: key 3 in column 'id' is taken by r.jsonl:4" in refusal(tmp_path, "r.jsonl", key="id")


@pytest.mark.parametrize("step", [1, 64, 2**20])
def test_spilled_keys_are_spread_over_the_files_whatever_numbers_they_are(tmp_path: Path, step: int) -> None:
    """Or one file would hold them all, and so would the memory that looks through it."""
    with key_hashes.HashCheck(in_memory_max=10_000) as check:
        for start in range(0, 100_000, 5_000):
            check.add(pa.array(range(start * step, (start + 5_000) * step, step), pa.int64()))
        assert not check.has_suspects()
        sizes = [len(part) for part in check._parts()]
    assert 100_000 == sum(sizes)
    assert max(sizes) < 5_000


def test_progress_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(jsonl(*numbered(3000)))
    told: list[int] = []
    opened(tmp_path, "r.jsonl", key="id").check(tell=told.append)
    assert 3000 == told[-1]


KEYS = [
    pa.array(["ก", "khoá", "钥匙", "🙂", "ก"]),
    pa.array([1, 2, 3, 4, 1], pa.uint64()),
    pa.array([True, False, True]),
    pa.array(["a", "b", "a"], pa.large_string()),
    pa.array([dt.date(2026, 11, 22), dt.date(2026, 11, 23), dt.date(2026, 11, 22)]).cast(pa.string()),
]


@pytest.mark.parametrize("array", KEYS, ids=lambda array: str(array.type))
@pytest.mark.parametrize("kept_max", [0, 2, 1000])
def test_few_and_many_keys_find_the_same(array: pa.Array, kept_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the keys in hand turn into hashes on the way; the number of rows decides only how it is found."""
    monkeypatch.setattr(keys, "KEPT_ROWS_MAX", kept_max)
    alone = pc.unique(array)
    for added, suspect in ((array, True), (alone, False)):
        with KeyCheck() as check:
            for index in range(len(added)):
                check.add(added.slice(index, 1))
            assert suspect == check.has_suspects()
            if suspect:
                first, *_, last = check.is_suspect(array)
                assert (True, True) == (first, last)


def test_large_keys_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand keys of a kilobyte each are more memory than their hashes."""
    monkeypatch.setattr(keys, "KEPT_BYTES_MAX", 10_000)
    with KeyCheck() as check:
        for index in range(20):
            check.add(pa.array([f"{index}" * 1000]))
        assert check._kept == []
        assert not check.has_suspects()


def test_no_key_at_all_is_no_duplicate() -> None:
    with KeyCheck() as check:
        assert not check.has_suspects()
