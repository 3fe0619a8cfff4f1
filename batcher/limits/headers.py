"""Reads rate-limit headers: every spelling that is known becomes a `Reading` for each limit that is named.

What a header says is taken as it stands; what it means over time is `taught`'s matter. Hostile headers cost
little and give nothing: 256 headers are looked at, a value has at most 200 characters, a count at most 15
ASCII digits, a time lies within a year.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Literal

Unit = Literal["requests", "tokens"]

HEADERS_MAX, VALUE_MAX = 256, 200

RESET_S_MAX = 366 * 86_400.0

EPOCH_S_MIN, EPOCH_MS_MIN = 1e9, 1e12
"""A number so large is a time of day: seconds since the epoch, or milliseconds (OpenRouter)."""

CLOCK_PRECISION_S = 1.0
"""A time of day is compared with `Date`, which has whole seconds."""

_NAME = re.compile(
    r"(?:x-)?ratelimit-(?P<what>limit|remaining|reset)"
    r"(?:-(?P<scope>project-)?(?P<unit>requests?|req|tokens))?(?:-(?P<per>[0-9]{0,3}-?[a-z]{1,6}))?"
)
_ANTHROPIC = re.compile(r"anthropic-ratelimit-(?P<unit>requests|tokens)-(?P<what>limit|remaining|reset)")
_PER = re.compile(r"([0-9]{0,3})-?(s|sec|second|m|min|minute|h|hour|d|day)s?")
_PER_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0}
_PER_S |= {"h": 3600.0, "hour": 3600.0, "d": 86_400.0, "day": 86_400.0}

_COUNT = re.compile(r"([0-9]{1,15})(?:\.0*)?")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.([0-9]{1,9}))?")
_GO_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns|d)")
_GO_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# Members of the drafts' lists: `"default";q=100;w=60`, `100;w=60`, and draft 07's `limit=100`.
_MEMBER = re.compile(r"\s*(?:\"([^\"]{0,64})\"|([0-9A-Za-z_.*-]{1,64}))((?:\s*;\s*[a-z]{1,8}=[^;,]{1,64}){0,8})\s*")
_PARAMETER = re.compile(r";\s*([a-z]{1,8})=\"?([^;,\"]{1,64})\"?")
_PAIR = re.compile(r"(limit|remaining|reset)=([0-9.]{1,18})")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one response said about one limit; None is not said.

    Args:
        name: Which limit it is; the same in every response.
        unit: What it counts.
        period_s: Its window, where the header itself names it.
        limit: At most so many in a window.
        remaining: So many are left.
        reset_s: Seconds until it is reset, whatever the provider means by it.
        precision_s: The smallest step of `reset_s`.
    """

    name: str
    unit: Unit
    period_s: float | None
    limit: int | None
    remaining: int | None
    reset_s: float | None
    precision_s: float


def read_quotas(headers: Mapping[str, str], wall_s: float) -> list[Reading]:
    """Every limit that these headers speak of, in no order; empty for none.

    Args:
        headers: Names in any case.
        wall_s: Seconds since the epoch; a server's own `Date` goes before it.
    """
    found: dict[str, str] = {}
    date = None
    for name in islice(headers, HEADERS_MAX):
        lower = name.lower()
        if "ratelimit" in lower or lower == "date":
            value = _value(headers, name)
            if lower == "date":
                date = value
            elif value is not None and len(value) <= VALUE_MAX:
                found[lower] = value.strip()
    if not found:
        return []
    now_s = _date_s(date) or wall_s
    quotas: dict[str, _Parts] = {}
    for name, value in found.items():
        _read_header(name, value, quotas)
    _read_drafts(found, quotas)
    return [reading for key, parts in quotas.items() if (reading := parts.reading(key, now_s)) is not None]


def read_reset(text: str, now_s: float) -> tuple[float, float] | None:
    """Seconds until a reset, and the precision of that; None for what is no time.

    Seconds ("45.5"), a Go duration ("6m0s", "2m59.56s", "17ms"), seconds or milliseconds since the epoch, or
    RFC 3339 ("2026-11-22T04:00:00Z"). What lies in the past is 0.

    Args:
        text: The header's value.
        now_s: Seconds since the epoch by the server's clock.
    """
    number = _NUMBER.fullmatch(text)
    if number is not None:
        seconds = float(text)
        if seconds >= EPOCH_MS_MIN:
            return _bounded(seconds / 1000.0 - now_s, CLOCK_PRECISION_S)
        if seconds >= EPOCH_S_MIN:
            return _bounded(seconds - now_s, CLOCK_PRECISION_S)
        return _bounded(seconds, 10.0 ** -len(number[1] or ""))
    seconds, end = 0.0, 0
    for part in _GO_PART.finditer(text):
        if part.start() != end:
            return None
        seconds, end = seconds + float(part[1]) * _GO_S[part[2]], part.end()
    if end and end == len(text):
        return _bounded(seconds, 0.001)
    if not text.isascii() or text[10:11] not in ("T", "t", " "):
        return None
    try:
        at = datetime.fromisoformat(text)
        until_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
    return _bounded(until_s, CLOCK_PRECISION_S)


class _Parts:
    """What has been found of one limit."""

    __slots__ = ("period_s", "unit", "values")

    def __init__(self, unit: Unit, period_s: float | None) -> None:
        self.unit: Unit = unit
        self.period_s = period_s
        self.values: dict[str, str] = {}

    def reading(self, name: str, now_s: float) -> Reading | None:
        limit, remaining = _count(self.values.get("limit")), _count(self.values.get("remaining"))
        reset = read_reset(self.values["reset"], now_s) if "reset" in self.values else None
        if limit == 0 or (limit is not None and remaining is not None and remaining > limit):
            return None
        if limit is None and remaining is None:
            return None
        reset_s, precision_s = (None, 1.0) if reset is None else reset
        return Reading(name, self.unit, self.period_s, limit, remaining, reset_s, precision_s)


def _read_header(name: str, value: str, quotas: dict[str, _Parts]) -> None:
    match = _NAME.fullmatch(name) or _ANTHROPIC.fullmatch(name)
    if match is None:
        return
    groups = match.groupdict()
    unit: Unit = "tokens" if groups["unit"] == "tokens" else "requests"
    per = groups.get("per")
    period_s = None
    if per is not None:
        period = _PER.fullmatch(per)
        if period is None:
            return
        period_s = float(period[1] or 1) * _PER_S[period[2]]
        if period_s <= 0.0:
            return
    key = f"{groups.get('scope') or ''}{unit} {per or ''}"
    if name == "ratelimit-limit":
        # The drafts put policies behind the limit: `100, 100;w=60`.
        value = value.partition(",")[0].partition(";")[0]
    quotas.setdefault(key, _Parts(unit, period_s)).values[groups["what"]] = value


def _read_drafts(found: Mapping[str, str], quotas: dict[str, _Parts]) -> None:
    """Fold in `RateLimit` and `RateLimit-Policy`, and the policies behind a `RateLimit-Limit`."""
    state, policies = found.get("ratelimit"), found.get("ratelimit-policy") or found.get("ratelimit-limit")
    pairs = dict(_PAIR.findall(state)) if state else {}
    if pairs:
        quotas.setdefault("requests ", _Parts("requests", None)).values.update(pairs)
    elif state:
        for name, parameters in _members(state):
            parts = quotas.setdefault(f"policy {name}", _Parts("requests", None))
            parts.values |= {
                what: parameters[key] for key, what in (("r", "remaining"), ("t", "reset")) if key in parameters
            }
    for name, parameters in _members(policies or ""):
        if parameters.get("qu", "requests") != "requests" or "w" not in parameters:
            continue
        window = _COUNT.fullmatch(parameters["w"])
        limit = parameters.get("q", name)
        named = quotas.get(f"policy {name}")
        plain = quotas.get("requests ")
        if window is None or int(window[1]) == 0:
            continue
        if named is not None:
            named.values["limit"], named.period_s = limit, float(window[1])
        elif plain is not None and plain.values.get("limit") == limit:
            plain.period_s = float(window[1])


def _members(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    for member in islice(_MEMBER.finditer(text), 16):
        yield member[1] if member[1] is not None else member[2], dict(_PARAMETER.findall(member[3] or ""))


def _value(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value; None for bytes that are no text to the HTTP client (a gateway's, in UTF-8)."""
    try:
        return headers[name]
    except ValueError:
        return None


def _count(text: str | None) -> int | None:
    match = None if text is None else _COUNT.fullmatch(text.strip())
    return None if match is None else int(match[1])


def _bounded(seconds: float, precision_s: float) -> tuple[float, float] | None:
    return None if math.isnan(seconds) or seconds > RESET_S_MAX else (max(0.0, seconds), precision_s)


def _date_s(text: str | None) -> float | None:
    if not text or len(text) > VALUE_MAX:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
