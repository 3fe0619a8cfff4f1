"""Gold rows: what counts as right, and when too few are."""

from decimal import Decimal

import pyarrow as pa
import pytest

from batcher.answers.gold import GoldRule, GoldTally, judge_gold, strange_truth, wilson

RULE = GoldRule("truth")


def tally_of(
    said: list[str | None],
    truths: list[str | None],
    *,
    labels: list[str] | None = None,
    statuses: list[str] | None = None,
    keys: list[str] | None = None,
) -> GoldTally:
    tally = GoldTally(labels)
    columns = {
        "row": pa.array(range(len(said)), pa.int64()),
        "status": pa.array(statuses or ["ok"] * len(said)),
        "said": pa.array(said, pa.string()),
    } | ({} if keys is None else {"key": pa.array(keys)})
    tally.add(pa.RecordBatch.from_pydict(columns), pa.array(truths, pa.string()))
    return tally


def test_rows_without_a_truth_are_not_gold() -> None:
    """Null, empty and blank all say that nobody knows."""
    tally = tally_of(["a", "b", "c", "d"], ["a", None, "", " \t"])

    assert (1, 1) == (tally.rows, tally.right)


def test_equal_is_what_labels_call_equal() -> None:
    """Case, width and what joins two words do not make an answer wrong."""
    said = ["Billing", "ＢＩＬＬＩＮＧ", "not_spam", "Kỹ thuật", "ชำระเงิน\u200b", "退款"]
    truths = ["billing", "billing", "not spam", "KỸ THUẬT", "ชำระเงิน", " 退款 "]

    assert 6 == tally_of(said, truths).right


@pytest.mark.parametrize("status", ["failed", "invalid"])
def test_failed_and_invalid_gold_rows_are_wrong(status: str) -> None:
    """An invalid answer may hold the right word; it is no answer all the same."""
    tally = tally_of(["a", "a"], ["a", "a"], statuses=["ok", status])

    assert (2, 1) == (tally.rows, tally.right)
    assert ["row 1"] == tally.wrong


def test_too_few_right_ones_are_named_with_their_interval() -> None:
    said = ["a"] * 41 + ["b"] * 9
    tally = tally_of(said, ["a"] * 50, keys=[f"คีย์{at}" for at in range(50)])

    assert [
        "41 of 50 gold rows are right (82 %, 95 % interval 69.2 % to 90.2 %); success.gold.min_accuracy asks 90 %; "
        "wrong: row 41 (key คีย์41), row 42 (key คีย์42), row 43 (key คีย์43), row 44 (key คีย์44), "
        "row 45 (key คีย์45) and 4 more"
    ] == judge_gold(tally, RULE)


def test_an_accuracy_that_is_reached_exactly_holds() -> None:
    assert [] == judge_gold(tally_of(["a"] * 9 + ["b"], ["a"] * 10), RULE)
    assert 1 == len(judge_gold(tally_of(["a"] * 8 + ["b"] * 2, ["a"] * 10), RULE))
    assert [] == judge_gold(tally_of(["a"] * 8 + ["b"] * 2, ["a"] * 10), GoldRule("truth", Decimal("0.8")))


def test_an_accuracy_barely_too_low_does_not_read_as_enough() -> None:
    said = ["a"] * 8_999 + ["b"] * 1_001

    assert "(89.9 %" in judge_gold(tally_of(said, ["a"] * 10_000), RULE)[0]


def test_no_gold_row_is_a_failure_and_not_a_pass() -> None:
    """A rule that was never measured does not hold."""
    assert "no row has a known truth" in judge_gold(tally_of(["a"], [None]), RULE)[0]


def test_a_truth_that_is_no_label_counts_as_wrong_and_is_named() -> None:
    tally = tally_of(["billing"] * 2, ["biling", "other"], labels=["billing", "other"])

    assert 'none of the labels are the truths "biling" in row 0' in judge_gold(tally, RULE)[0]


def test_a_strange_truth_is_found_before_the_run() -> None:
    labels = ["billing", "kỹ thuật", "退款"]

    assert None is strange_truth(pa.array(["Billing", None, " ", "KỸ-THUẬT", "退款"]), labels)
    assert 2 == strange_truth(pa.array(["billing", None, "ชำระเงิน", "billing"]), labels)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_the_interval_is_that_of_the_literature(right: int, rows: int, low: float, high: float) -> None:
    interval = wilson(right, rows)

    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
