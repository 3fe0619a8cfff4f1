"""Numbers as people read them: counts, shares, durations, dollars, rates, failure kinds.

Pure functions. They round for the eye only and never flatter: a share reads 100 % only when all is
done, and a cost above nothing never reads $0.00.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

_KIND_WORDS = {"rate_limited": "rate limit", "server": "server error", "auth": "key refused", "quota": "quota used up"}
_DOLLARS_SMALLEST = Decimal("0.000001")
_DIGITS_BELOW_A_DOLLAR = 3


def thousands(count: int) -> str:
    """`1234567` → `1,234,567`."""
    return f"{count:,}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 row`, `12,000 rows`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def share(done: int, total: int) -> str:
    """Part of a whole, rounded down: `24 %`, `0.3 %` below one per cent, `100 %` only when all is done."""
    if done >= total:
        return "100 %"
    tenths = done * 1000 // total
    return f"{tenths // 10} %" if tenths >= 10 or tenths == 0 else f"0.{tenths} %"


def duration(seconds: float) -> str:
    """The two largest units: `0.4 s`, `12 s`, `1 min 33 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 0.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    if whole < 86400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"


def dollars(usd: Decimal) -> str:
    """Cents from a dollar up, three digits below: `$1,234.50`, `$0.0123`, `$0.0004`; `$0` is nothing at all."""
    if usd == 0:
        return "$0"
    if usd < 0:
        return f"-{dollars(-usd)}"
    if usd < _DOLLARS_SMALLEST:
        return "under $0.000001"
    decimals = 2 if usd >= 1 else max(2, _DIGITS_BELOW_A_DOLLAR - 1 - usd.adjusted())
    rounded = usd.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)
    cents, _, rest = f"{rounded:,f}".partition(".")
    return f"${cents}.{rest.rstrip('0').ljust(2, '0')}"


def rate(rows_per_s: float) -> str:
    """`410 rows/s`, `4.2 rows/s`; below one a second by the minute: `12 rows/min`."""
    if rows_per_s >= 10:
        return f"{round(rows_per_s):,} rows/s"
    if rows_per_s >= 1 or rows_per_s <= 0:
        return f"{rows_per_s:.1f} rows/s" if rows_per_s > 0 else "0 rows/s"
    per_min = rows_per_s * 60
    return f"{round(per_min)} rows/min" if per_min >= 10 else f"{per_min:.1f} rows/min"


def kind_words(kind: str) -> str:
    """A failure kind in words: `rate_limited` → `rate limit`."""
    return _KIND_WORDS.get(kind, kind.replace("_", " "))


def kinds(counts: Mapping[str, int]) -> str:
    """Failures by kind, most first: `31 rate limit, 6 refused`; kinds that were not met are left out."""
    met = sorted(((count, kind) for kind, count in counts.items() if count > 0), key=lambda pair: (-pair[0], pair[1]))
    return ", ".join(f"{count:,} {kind_words(kind)}" for count, kind in met)
