"""The census counts what the results hold."""

import pyarrow as pa
import pytest

from batcher.answers.census import Census


def outcomes(*rows: tuple[str, str | None, str | None, str | None]) -> pa.RecordBatch:
    """(status, answer, label, error_kind) each."""
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, pa.string()) for column in columns], names=["status", "answer", "label", "error_kind"]
    )


def test_rows_are_counted_by_ending_label_and_kind() -> None:
    """Failed and invalid rows have their own kinds: truncated may be either."""
    census = Census(["ชำระเงิน", "kỹ thuật", "其他"])
    list(
        census.passing(
            iter(
                [
                    outcomes(("ok", "x", "ชำระเงิน", None), ("failed", None, None, "timeout")),
                    outcomes(("invalid", "?", None, "truncated"), ("failed", None, None, "truncated")),
                    outcomes(("ok", "y", "ชำระเงิน", None), ("ok", "z", "其他", None)),
                ]
            )
        )
    )

    assert (6, 3, 2, 1, 0) == (census.rows, census.ok, census.failed, census.invalid, census.empty)
    assert {"ชำระเงิน": 2, "kỹ thuật": 0, "其他": 1} == census.labels
    assert {"timeout": 1, "truncated": 1} == census.failed_kinds
    assert {"truncated": 1} == census.invalid_kinds


@pytest.mark.parametrize(
    "answer",
    [
        "",
        None,
        " \n\t",
        "\u200b\u200d\ufeff",
        '""',
        "“ ”",
        "\u3000",
        "\u3164",
        "\u2800",
        "```\n```",
        "\x00",
        "\u00ad",
        "「」",
    ],
    ids=ascii,
)
def test_an_answer_of_which_nothing_can_be_seen_is_empty(answer: str | None) -> None:
    """A model that answers a zero-width space to everything has answered nothing."""
    census = Census(None)
    census.add(outcomes(("ok", answer, None, None), ("ok", "มี", None, None)))

    assert 1 == census.empty


@pytest.mark.parametrize("answer", ["0", "-", ".", "。", "ก", "[]", "null", "🙂", "'a'", "\u200bค"])
def test_what_can_be_seen_is_not_empty(answer: str) -> None:
    census = Census(None)
    census.add(outcomes(("ok", answer, None, None)))

    assert 0 == census.empty


def test_answers_of_failed_rows_are_not_counted_as_empty() -> None:
    census = Census(None)
    census.add(outcomes(("failed", None, None, "timeout"), ("invalid", "", None, "refused")))

    assert (2, 0) == (census.rows, census.empty)
