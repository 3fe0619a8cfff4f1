"""Rate limits as a provider enforces them: pure state machines over a given monotonic time.

Three kinds of window, each for requests and for tokens, one pair a key. `KeyLimits` asks both and takes
from both or from neither: a refused request costs nothing. Tokens are charged at admission, prompt and
answer together, since the simulator knows its answer before it gives it; nothing is settled later.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol

WINDOW_S = 60.0
DAY_S = 86_400.0
_EPSILON = 1e-9

WindowKind = Literal["bucket", "sliding", "fixed"]
WINDOW_KINDS: tuple[WindowKind, ...] = ("bucket", "sliding", "fixed")
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may do; None is no limit.

    `bucket` refills all the time and holds `burst_s` seconds of the allowance (at least one request);
    `sliding` looks back over the last 60 s; `fixed` starts anew every 60 s, counted from the key's first request.
    A day is counted in the same way, its bucket holding all of it; `day_s` shortens it for a rehearsal. `slots`
    are the whole server's, for all keys together: so many requests are served at once, the others wait in line
    and none is refused, as with servers that people run themselves.

    Limits(requests_per_minute=600, burst_s=1)  # 10 at once, then 10 a second
    Limits(requests_per_day=200, day_s=30)  # a day that passes while one watches
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    window: WindowKind = "bucket"
    burst_s: float = WINDOW_S
    concurrency_max: int | None = None
    requests_per_day: int | None = None
    day_s: float = DAY_S
    slots: int | None = None


Refuser = Literal["day", "requests", "tokens", "size"]


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether one request may pass. `refused_by` is `size` when no waiting would ever help."""

    refused_by: Refuser | None
    wait_s: float
    headers: Headers


class Meter(Protocol):
    """One limit of one key. Times never go back."""

    limit: int

    def wait_s(self, amount: int, now_s: float) -> float:
        """Seconds until `amount` would be let in: 0 for now, infinity for never."""
        ...

    def take(self, amount: int, now_s: float) -> None:
        """Use `amount`; only after `wait_s` said 0."""
        ...

    def remaining(self, now_s: float) -> int:
        """What could be taken now."""
        ...

    def reset_s(self, now_s: float) -> float:
        """Seconds until all of it is free again."""
        ...


class TokenBucket:
    """Refills at limit / window a second, up to `burst_s` seconds of it; starts full."""

    def __init__(self, limit: int, *, burst_s: float = WINDOW_S, window_s: float = WINDOW_S) -> None:
        self.limit = limit
        self._rate = limit / window_s
        self._capacity = max(1.0, self._rate * burst_s)
        self._level = self._capacity
        self._at_s: float | None = None

    def wait_s(self, amount: int, now_s: float) -> float:
        """See `Meter`."""
        if amount > self._capacity + _EPSILON:
            return math.inf
        missing = amount - self._refilled(now_s)
        return 0.0 if missing <= _EPSILON else missing / self._rate

    def take(self, amount: int, now_s: float) -> None:
        """See `Meter`."""
        self._level = max(0.0, self._refilled(now_s) - amount)

    def remaining(self, now_s: float) -> int:
        """See `Meter`."""
        return int(self._refilled(now_s) + _EPSILON)

    def reset_s(self, now_s: float) -> float:
        """See `Meter`."""
        return (self._capacity - self._refilled(now_s)) / self._rate

    def _refilled(self, now_s: float) -> float:
        if self._at_s is not None:
            self._level = min(self._capacity, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        return self._level


class SlidingWindow:
    """At most `limit` in any window; what was taken comes back exactly one window later."""

    def __init__(self, limit: int, *, window_s: float = WINDOW_S) -> None:
        self.limit = limit
        self._window_s = window_s
        self._taken: deque[tuple[float, int]] = deque()
        self._used = 0

    def wait_s(self, amount: int, now_s: float) -> float:
        """See `Meter`."""
        if amount > self.limit:
            return math.inf
        excess = self._forget(now_s) + amount - self.limit
        if excess <= 0:
            return 0.0
        for taken_s, taken in self._taken:
            excess -= taken
            if excess <= 0:
                return taken_s + self._window_s - now_s
        raise AssertionError("more is used than was taken")

    def take(self, amount: int, now_s: float) -> None:
        """See `Meter`."""
        self._taken.append((now_s, amount))
        self._used += amount

    def remaining(self, now_s: float) -> int:
        """See `Meter`."""
        return self.limit - self._forget(now_s)

    def reset_s(self, now_s: float) -> float:
        """See `Meter`."""
        self._forget(now_s)
        return self._taken[-1][0] + self._window_s - now_s if self._taken else 0.0

    def _forget(self, now_s: float) -> int:
        while self._taken and self._taken[0][0] + self._window_s <= now_s:
            self._used -= self._taken.popleft()[1]
        return self._used


class FixedWindow:
    """`limit` for each window; they follow one another from the first use."""

    def __init__(self, limit: int, *, window_s: float = WINDOW_S) -> None:
        self.limit = limit
        self._window_s = window_s
        self._start_s: float | None = None
        self._used = 0

    def wait_s(self, amount: int, now_s: float) -> float:
        """See `Meter`."""
        if amount > self.limit:
            return math.inf
        ends_s = self._turn(now_s)
        return 0.0 if self._used + amount <= self.limit else ends_s - now_s

    def take(self, amount: int, now_s: float) -> None:
        """See `Meter`."""
        self._turn(now_s)
        self._used += amount

    def remaining(self, now_s: float) -> int:
        """See `Meter`."""
        self._turn(now_s)
        return self.limit - self._used

    def reset_s(self, now_s: float) -> float:
        """See `Meter`."""
        return self._turn(now_s) - now_s if self._used else 0.0

    def _turn(self, now_s: float) -> float:
        """Begin a new window if the last one is over; its end."""
        if self._start_s is None:
            self._start_s = now_s
        passed = int((now_s - self._start_s) // self._window_s)
        if passed:
            self._start_s += passed * self._window_s
            self._used = 0
        return self._start_s + self._window_s


class KeyLimits:
    """The request and token limits of one key."""

    def __init__(self, limits: Limits) -> None:
        self._day = _meter(limits.requests_per_day, limits, window_s=limits.day_s)
        self._requests = _meter(limits.requests_per_minute, limits)
        self._tokens = _meter(limits.tokens_per_minute, limits)
        # OpenAI's headers speak of one limit on requests: of the one that is tighter in the long run.
        per_minute = math.inf if limits.requests_per_minute is None else limits.requests_per_minute
        is_day_tighter = self._day is not None and self._day.limit / limits.day_s < per_minute / WINDOW_S
        self._shown = (("requests", self._day if is_day_tighter else self._requests), ("tokens", self._tokens))

    def admit(self, tokens: int, now_s: float) -> Admission:
        """Let one request of `tokens` in, or say what refuses it and for how long."""
        waits_s: dict[Refuser, float] = {
            "day": self._day.wait_s(1, now_s) if self._day else 0.0,
            "requests": self._requests.wait_s(1, now_s) if self._requests else 0.0,
            "tokens": self._tokens.wait_s(tokens, now_s) if self._tokens else 0.0,
        }
        if waits_s["tokens"] == math.inf:
            return Admission("size", 0.0, self._headers(now_s))
        refused_by = next((name for name, wait_s in waits_s.items() if wait_s > 0), None)
        if refused_by is None:
            for meter, amount in ((self._day, 1), (self._requests, 1), (self._tokens, tokens)):
                if meter is not None:
                    meter.take(amount, now_s)
        return Admission(refused_by, max(waits_s.values()), self._headers(now_s))

    def used(self, kind: Literal["day", "requests", "tokens"], now_s: float) -> tuple[int, int]:
        """The limit and what is used of it, for the words of a refusal."""
        meter = {"day": self._day, "requests": self._requests, "tokens": self._tokens}[kind]
        return (0, 0) if meter is None else (meter.limit, max(0, meter.limit - meter.remaining(now_s)))

    def _headers(self, now_s: float) -> Headers:
        # https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
        headers: Headers = ()
        for name, meter in self._shown:
            if meter is not None:
                headers += (
                    (f"x-ratelimit-limit-{name}", str(meter.limit)),
                    (f"x-ratelimit-remaining-{name}", str(meter.remaining(now_s))),
                    (f"x-ratelimit-reset-{name}", go_duration(meter.reset_s(now_s))),
                )
        return headers


def go_duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in its headers: `0s`, `17ms`, `8.64s`, `6m0s`."""
    milliseconds = math.ceil(seconds * 1000 - _EPSILON)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    rest_s = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"


def _meter(limit: int | None, limits: Limits, *, window_s: float = WINDOW_S) -> Meter | None:
    if limit is None:
        return None
    if limits.window == "sliding":
        return SlidingWindow(limit, window_s=window_s)
    if limits.window == "fixed":
        return FixedWindow(limit, window_s=window_s)
    return TokenBucket(limit, burst_s=limits.burst_s if window_s == WINDOW_S else window_s, window_s=window_s)
