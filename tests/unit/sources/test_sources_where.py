"""`where` and `limit`: SQL's meaning, order kept, and predicates that are none."""

from pathlib import Path
from typing import Any

import pytest
from source_files import columns_of, jsonl, opened, parquet, refusal, rows_of

from batcher.errors import InputError
from batcher.sources.source import BrokenInputError

ROWS = [
    {"n": 1, "lang": "th", "score": 0.5, "tags": ["a"]},
    {"n": 2, "lang": "en", "score": None, "tags": []},
    {"n": 3, "lang": None, "score": 4.0, "tags": ["b"]},
    {"n": 4, "lang": "th", "score": 10.0, "tags": ["a", "b"]},
]


def write(directory: Path, form: str, rows: list[dict[str, Any]]) -> str:
    if form == "parquet":
        parquet(directory / "r.parquet", rows)
    else:
        (directory / "r.jsonl").write_bytes(jsonl(*rows))
    return f"r.{form}"


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("lang = 'th'", [1, 4]),
        ("lang <> 'th'", [2]),
        ("lang IS NULL OR score > 9", [3, 4]),
        ("n IN (4, 2)", [2, 4]),
        ("n NOT IN (4, 2)", [1, 3]),
        ("n BETWEEN 2 AND 3 AND NOT score IS NULL", [3]),
        ("lang LIKE 't%'", [1, 4]),
        ("COALESCE(score, 0) < 1", [1, 2]),
        ("CASE WHEN n > 2 THEN true ELSE false END", [3, 4]),
        ("UPPER(lang) = 'EN'", [2]),
        ("ARRAY_CONTAINS(tags, 'b')", [3, 4]),
        ("CAST(n AS DOUBLE) / 2 > 1.4", [3, 4]),
    ],
)
def test_rows_are_kept_where_the_predicate_is_true(tmp_path: Path, form: str, where: str, expected: list[int]) -> None:
    source = opened(tmp_path, write(tmp_path, form, ROWS), where=where).select(["n"])
    assert len(expected) == source.check().rows
    assert [(index, {"n": n}) for index, n in enumerate(expected)] == [
        (row.index, row.columns) for row in rows_of(source)
    ]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("score >", "is not an SQL predicate"),
        ("", "is not an SQL predicate"),
        ("n > 1; DROP TABLE x", "is not an SQL predicate"),
        ("nonsense(n) > 1", "is not an SQL predicate"),
        ("n > (SELECT MAX(n) FROM x)", "is not an SQL predicate"),
        ("lng = 'th'", "has no column 'lng'; did you mean 'lang'?"),
        ("n + 1", "not true or false"),
        ("lang", "not true or false"),
        ("lang > 3", "does not fit the columns (lang is string)"),
        ("1 = 1", "names no column"),
        ("SUM(n) > 1", "only at the columns of one row"),
        ("n > 1 AND FIRST(n) = 1", "only at the columns of one row"),
        ("COUNT(*) > 1", "only at the columns of one row"),
        ("ROW_NUMBER() OVER (ORDER BY n) > 1", "only at the columns of one row"),
        ("LAG(n) OVER (ORDER BY n) > 1", "only at the columns of one row"),
        ("UNNEST(tags) = 'a'", "only at the columns of one row"),
        ("n > 99", "no row that input.where keeps"),
    ],
)
def test_what_is_no_predicate_over_a_row_is_refused(tmp_path: Path, where: str, said: str) -> None:
    """An aggregate would mean something else on every batch, and silently."""
    assert said in refusal(tmp_path, write(tmp_path, "jsonl", ROWS), where=where)


def test_csv_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    """As text "9" is more than "10"; an empty cell is null there, as it is no number."""
    (tmp_path / "r.csv").write_bytes(b"id,score,code\n1,9,007\n2,10.5,12\n3,,7\n4,2,x\n")

    def kept(where: str) -> list[Any]:
        return [row["id"] for row in columns_of(opened(tmp_path, "r.csv", where=where))]

    assert ["1", "2"] == kept("score > 3")
    assert ["3"] == kept("score IS NULL")
    assert ["1"] == kept("code = '007'")
    assert ["2", "3", "4"] == kept("id >= 2")
    with pytest.raises(InputError, match="code is string"):
        kept("code > 3")


@pytest.mark.parametrize("start", [0, 9_000])
def test_a_csv_number_that_is_none_behind_the_head_is_named(tmp_path: Path, start: int) -> None:
    (tmp_path / "r.csv").write_bytes(b"text,score\n" + (b"x" * 200 + b",5\n") * 10_000 + b"y,high\n")
    source = opened(tmp_path, "r.csv", where="score > 3", look_bytes=1000)
    with pytest.raises(BrokenInputError, match=r"^r\.csv:10002: column 'score', which input.where compares"):
        for _ in source.rows(start):
            pass


def test_a_cast_that_fails_names_the_row_and_not_its_value(tmp_path: Path) -> None:
    rows = [{"n": "1"}, {"n": "secret"}]
    message = refusal(tmp_path, write(tmp_path, "jsonl", rows), where="CAST(n AS INTEGER) > 0")
    assert message.startswith("r.jsonl:2: input.where cannot be computed")
    assert "secret" not in message


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_limit_counts_what_where_keeps(tmp_path: Path, limit: int) -> None:
    source = opened(tmp_path, write(tmp_path, "jsonl", ROWS), where="lang IS NOT NULL", limit=limit)
    assert min(3, limit) == source.check().rows
    assert [1, 2, 4][:limit] == [row["n"] for row in columns_of(source)]
    assert [] == rows_of(source, limit)


def test_rows_behind_the_limit_are_not_read(tmp_path: Path) -> None:
    """A trial of three rows needs no whole file, not even a good one."""
    (tmp_path / "r.jsonl").write_bytes(b'{"text": "a"}\n' * 200_000 + b"broken\n")
    source = opened(tmp_path, "r.jsonl", limit=3, look_bytes=1000)
    facts = source.check()
    assert (3, 3, True) == (facts.rows, facts.rows_estimate, facts.is_whole)
    assert 3 == len(rows_of(source))


def test_a_line_that_where_leaves_out_may_lack_columns(tmp_path: Path) -> None:
    rows = [{"kind": "q", "text": "a"}, {"kind": "log"}]
    source = opened(tmp_path, write(tmp_path, "jsonl", rows), where="kind = 'q'").select(["text"])
    assert 1 == source.check().rows
    assert [{"text": "a"}] == columns_of(source)


def test_the_estimate_is_near(tmp_path: Path) -> None:
    rows = [{"n": number % 4, "text": "x" * 100} for number in range(100_000)]
    source = opened(tmp_path, write(tmp_path, "jsonl", rows), where="n = 0", look_bytes=3 * 2**20)
    facts = source.check()
    assert facts.rows is None
    assert not facts.is_whole
    assert 20_000 < facts.rows_estimate < 30_000
