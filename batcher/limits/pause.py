"""How long a key rests after a 429: what the provider says, or a growing pause where it says nothing.

`parse_retry_after` and `parse_limit_reset` read the headers, `parse_retry_words` the provider's words;
`Pause` keeps the time until which one key rests, for all rows.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_S = 86_400.0
"""A day: longer waits, and dates of another century, are cut to it."""

_WORDS_READ = 20_000
_RESETS_READ = 64
# Nobody is asked to wait for thirty years: from here on a number is a moment. 1e11 s is the year 5138.
_EPOCH_S, _EPOCH_MS = 1e9, 1e11

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_UNITS = r"days?|hours?|hrs?|minutes?|mins?|seconds?|secs?|milliseconds?|ms|us|µs|μs|ns|[dhms]"
_PART = re.compile(
    rf"[\s,]{{0,4}}(?:and )?([0-9]{{1,12}}(?:\.[0-9]{{0,12}})?)\s{{0,2}}({_UNITS})(?![a-z])", re.IGNORECASE
)
_UNIT_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_PARTS_MAX = 6
# Draft "RateLimit header fields for HTTP": r is what remains, t the seconds until it is whole again.
_USED_UP = re.compile(r";\s{0,4}r=0\s{0,4};\s{0,4}t=([0-9]{1,12})")
_AGAIN = re.compile(
    r"(?:try|wait|available|resets?)[a-z ]{0,24}?\b(?:in|after|for)\b|\bwait\b|retryDelay\W{1,8}", re.IGNORECASE
)
_AGAIN_IN_CHINESE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(秒|分钟|小时)\s*(?:之后|以后|后)")
_CHINESE_UNIT_S = {"秒": 1.0, "分钟": 60.0, "小时": 3600.0}


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait as a provider asked, or None where it did not or nobody can read it.

    `retry-after-ms` comes first (OpenAI and Azure), then `Retry-After` in seconds, whole or not, or as a
    date (RFC 9110, section 10.2.3). A date is taken against the server's own `Date`, so that two clocks
    that differ do no harm. What lies in the past is 0; more than a day is a day.

    Args:
        headers: Names in any case.
        now: Seconds since the epoch, for a date from a server that sends no `Date`.
    """
    wait_ms = _number(_header(headers, "retry-after-ms"))
    if wait_ms is not None:
        return _bounded(wait_ms / 1000.0)
    text = _header(headers, "retry-after")
    wait_s = _number(text)
    if wait_s is not None:
        return _bounded(wait_s)
    until_s = _date_s(text)
    if until_s is None:
        return None
    server_now_s = _date_s(_header(headers, "date"))
    return _bounded(until_s - (now if server_now_s is None else server_now_s))


def parse_limit_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until a used-up limit is whole again, or None where no header says so; for a 429.

    Each `...ratelimit-reset...` counts whose `...ratelimit-remaining...` is 0 or missing: OpenAI, Azure
    and Groq (`x-ratelimit-reset-requests: 6m0s`), Cerebras (`-requests-day`, seconds), Anthropic
    (`anthropic-ratelimit-tokens-reset`, RFC 3339), OpenRouter (`X-RateLimit-Reset`, milliseconds since
    the epoch), and the IETF's drafts (`RateLimit-Reset: 30`, `RateLimit: "day";r=0;t=30`). The longest of
    them; at most a day.
    It may be longer than need be: OpenAI names the time until the limit is *full*, so what the words of
    the refusal say (`parse_retry_words`) is the better source where both are there.

    Args:
        headers: Names in any case.
        now: Seconds since the epoch, for moments from a server that sends no `Date`.
    """
    limits = {name.lower(): value.strip() for name, value in headers.items() if "ratelimit" in name.lower()}
    server_now_s = _date_s(_header(headers, "date"))
    now_s = now if server_now_s is None else server_now_s
    waits = []
    for name in [name for name in limits if "reset" in name][:_RESETS_READ]:
        remaining = _number(limits.get(name.replace("reset", "remaining")))
        wait_s = _reset_s(limits[name], now_s)
        if wait_s is not None and (remaining is None or remaining <= 0):
            waits.append(_bounded(wait_s))
    waits += [_bounded(float(seconds)) for seconds in _USED_UP.findall(limits.get("ratelimit", ""))]
    return max(waits, default=None)


def parse_retry_words(words: str) -> float | None:
    """Seconds to wait as the words of a refusal say, or None where they name none.

    "Please try again in 7m12s", "in 20s", "retry in 37.2s", "retry after 24 seconds", "请 20 秒后重试", and
    `"retryDelay": "37s"` of Google's error details. More than a day is a day.
    """
    words = words[:_WORDS_READ]
    for asked in _AGAIN.finditer(words):
        duration = _duration_at(words, asked.end())
        if duration is not None:
            return _bounded(duration.seconds)
    found = _AGAIN_IN_CHINESE.search(words)
    return None if found is None else _bounded(float(found[1]) * _CHINESE_UNIT_S[found[2]])


def _reset_s(text: str, now_s: float) -> float | None:
    number = _number(text)
    if number is not None:
        if number >= _EPOCH_S:
            return (number / 1000.0 if number >= _EPOCH_MS else number) - now_s
        return number
    duration = _duration_at(text, 0)
    if duration is not None and duration.end == len(text):
        return duration.seconds
    until_s = _moment_s(text)
    return None if until_s is None else until_s - now_s


@dataclass(frozen=True, slots=True)
class _Duration:
    seconds: float
    end: int


def _duration_at(text: str, start: int) -> _Duration | None:
    """`6m0s`, `1m30.5s`, `250ms`, ` 1 hour and 5 minutes`, read from there on, and where it ends."""
    seconds, end = 0.0, start
    for _ in range(_PARTS_MAX):
        part = _PART.match(text, end)
        if part is None:
            break
        unit = part[2].lower()
        unit = "ms" if unit.startswith("milli") else unit if unit in _UNIT_S else unit[0]
        seconds, end = seconds + float(part[1]) * _UNIT_S[unit], part.end()
    return _Duration(seconds, end) if end > start else None


def _moment_s(text: str) -> float | None:
    """A date of RFC 3339 or of HTTP, in seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return _date_s(text)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is not None:
        return value.strip()
    return next((value.strip() for key, value in headers.items() if key.lower() == name), None)


def _number(text: str | None) -> float | None:
    # Not `float` alone: that also reads "nan", "1_0" and digits of other scripts.
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _date_s(text: str | None) -> float | None:
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        # "-0000" and a missing zone are read as no zone; HTTP dates are always UTC.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _bounded(wait_s: float) -> float:
    return min(max(0.0, wait_s), RETRY_AFTER_MAX_S)


class Pause:
    """Until when one key rests. A later 429 makes it longer, never shorter.

    Where the provider names no time, the first pause of an episode is 0.5 to 1 s and each further one
    twice as long, up to 30 to 60 s. "Retry at once" (0, or a date in the past) names no time either: as
    a 429 costs no attempt, obeying it could ask without end. A refusal is counted once for all the
    calls that were in flight when it came: a hundred rows refused at once are one. The success of a
    call that started after it ends the episode.

    Args:
        jitter: Where chance comes from.
        first_s: The longest first pause.
        max_s: The longest pause of all, where the provider names none.
    """

    def __init__(self, jitter: random.Random, *, first_s: float = 1.0, max_s: float = 60.0) -> None:
        self._jitter = jitter
        self._first_s = first_s
        self._max_s = max_s
        self._until_s = 0.0
        self._refusals = 0
        self._refused_s = float("-inf")

    def pause_until(self, until_s: float) -> None:
        """Rest at least until then (monotonic seconds)."""
        self._until_s = max(self._until_s, until_s)

    def remaining_s(self, now: float) -> float:
        """Seconds left to rest; 0 is go."""
        return self._until_s - now if now < self._until_s else 0.0

    def refused(self, now: float, *, started: float, retry_after_s: float | None) -> None:
        """A call that started at `started` was refused with 429."""
        is_new = started > self._refused_s
        if is_new:
            self._refused_s = now
        if retry_after_s:
            self.pause_until(now + retry_after_s)
        elif is_new:
            self.pause_until(now + self._backoff_s())
            self._refusals += 1

    def succeeded(self, *, started: float) -> None:
        """A call that started at `started` was answered."""
        if self._refusals and started > self._refused_s:
            self._refusals = 0

    def _backoff_s(self) -> float:
        """min(max_s, first_s * 2**refusals) * (1 - jitter / 2), jitter in [0, 1)."""
        grown_s = self._first_s * 2.0 ** min(self._refusals, 32)
        return float(min(self._max_s, grown_s) * (1.0 - self._jitter.random() / 2.0))
