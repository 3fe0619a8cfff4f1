"""How long a key rests after a 429: what the provider says, or a growing pause where it says nothing.

`parse_retry_after` reads the headers; `Pause` keeps the time until which one key rests, for all rows.
"""

import random
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

RETRY_AFTER_MAX_S = 86_400.0
"""A day: longer waits, and dates of another century, are cut to it."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")


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
        return max(0.0, self._until_s - now)

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
