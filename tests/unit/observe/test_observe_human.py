"""Numbers as people read them."""

from decimal import Decimal

import pytest

from batcher.observe.human import counted, dollars, duration, kinds, rate, share, thousands


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        ("0", "$0"),
        ("0.0004", "$0.0004"),
        ("0.00000012", "under $0.000001"),
        ("0.0000034567", "$0.00000346"),
        ("0.0123", "$0.0123"),
        ("0.123456", "$0.123"),
        ("0.5", "$0.50"),
        ("0.9996", "$1.00"),
        ("1", "$1.00"),
        ("12.345", "$12.35"),
        ("1234567.891", "$1,234,567.89"),
        ("-0.5", "-$0.50"),
    ],
)
def test_dollars_show_enough_digits(usd: str, text: str) -> None:
    """Money that was spent never reads $0.00."""
    assert text == dollars(Decimal(usd))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.42, "0.4 s"),
        (0.97, "1 s"),
        (12.4, "12 s"),
        (59.6, "1 min"),
        (93, "1 min 33 s"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_duration_uses_two_units(seconds: float, text: str) -> None:
    """More than two units is noise, and 60 s is a minute."""
    assert text == duration(seconds)


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 0, "100 %"),
        (0, 10, "0 %"),
        (3, 1000, "0.3 %"),
        (1, 1_000_000, "0 %"),
        (12_000, 50_000, "24 %"),
        (999_999, 1_000_000, "99 %"),
        (10, 10, "100 %"),
    ],
)
def test_share_never_flatters(done: int, total: int, text: str) -> None:
    """100 % means all of it."""
    assert text == share(done, total)


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(0, "0 rows/s"), (0.02, "1.2 rows/min"), (0.2, "12 rows/min"), (4.21, "4.2 rows/s"), (12345.6, "12,346 rows/s")],
)
def test_rate_picks_a_readable_unit(per_s: float, text: str) -> None:
    """A slow local model does a few rows a minute."""
    assert text == rate(per_s)


def test_counts_are_singular_and_plural() -> None:
    """1 row, 2 rows."""
    assert ("1 row", "0 rows", "12,000 rows", "2 tries") == (
        counted(1, "row"),
        counted(0, "row"),
        counted(12_000, "row"),
        counted(2, "try", "tries"),
    )
    assert "1,234,567" == thousands(1_234_567)


def test_kinds_come_most_first_in_words() -> None:
    """What fails most stands first; kinds not met are left out."""
    assert "31 rate limit, 6 refused, 6 server error" == kinds(
        {"refused": 6, "server": 6, "rate_limited": 31, "auth": 0}
    )
