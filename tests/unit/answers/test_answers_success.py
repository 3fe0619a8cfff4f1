"""The success rule: exit code 0 or 3."""

from decimal import Decimal

import pytest

from batcher.answers.success import RowCounts, SuccessRule, judge_success


def counts(rows=100, failed=0, invalid=0, empty=0):
    return RowCounts(rows=rows, failed=failed, invalid=invalid, empty=empty)


@pytest.mark.parametrize("held", [counts(), counts(failed=1, invalid=5, empty=5), counts(rows=0), counts(rows=10**9)])
def test_shares_that_are_reached_exactly_hold(held: RowCounts) -> None:
    """1 of 100 is 1 %, and binary fractions must not say otherwise."""
    assert judge_success(held, SuccessRule()) == []


def test_every_share_that_is_too_large_has_its_sentence() -> None:
    sentences = judge_success(counts(rows=1_000, failed=37, invalid=60, empty=51), SuccessRule())

    assert sentences == [
        "37 of 1,000 rows failed (3.7 %); success.failed allows 1 %",
        "60 of 1,000 rows are invalid (6 %); success.invalid allows 5 %",
        "51 of 1,000 rows are empty (5.1 %); success.empty allows 5 %",
    ]


def test_a_share_barely_too_large_is_shown_with_enough_digits() -> None:
    """ "1 %; allows 1 %" would be a riddle."""
    sentences = judge_success(counts(rows=10_000_000, failed=100_001), SuccessRule())

    assert sentences == ["100,001 of 10,000,000 rows failed (1.00001 %); success.failed allows 1 %"]


def test_a_rule_of_zero_takes_no_failure() -> None:
    rule = SuccessRule(failed=Decimal(0), invalid=Decimal(1), empty=Decimal(1))

    assert judge_success(counts(rows=3, invalid=3), rule) == []
    assert judge_success(counts(rows=3, failed=1), rule) == ["1 of 3 rows failed (33.33 %); success.failed allows 0 %"]


@pytest.mark.parametrize("share", [Decimal("0.1"), Decimal("0.07"), Decimal("0.29"), Decimal("0.57")])
def test_exact_shares_hold_for_every_size(share: Decimal) -> None:
    """0.07 * 100 is 7.000000000000001 in binary: such a row would be taken for failed or forgiven."""
    for hundreds in range(1, 50):
        allowed = int(share * 100) * hundreds
        rule = SuccessRule(failed=share)
        assert judge_success(counts(rows=100 * hundreds, failed=allowed), rule) == []
        assert len(judge_success(counts(rows=100 * hundreds, failed=allowed + 1), rule)) == 1
