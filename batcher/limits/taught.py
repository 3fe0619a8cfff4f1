"""Limits of a key, learned from the headers of its responses where the job names none.

`HeaderLessons.learn` gives what is known: requests and tokens per minute, and how long to rest because a
window is used up. It never guesses a window. A wrong limit would throttle a job a thousandfold, and the
headers of most providers do not say what their limit is per; so it is named only

- by the header's name (`...-minute`: Cerebras, Mistral) or its policy (`w=60`, the IETF drafts), or
- by evidence, from how a quota comes back. There are three ways, which contradict each other:

  refill   the more is used, the longer the time until it is full: a bucket (OpenAI, Groq, Anthropic). A call
           that leaves 9,999 of 10,000 and "8.64s" has a window of a day, one with "6ms" of a minute. Where
           the bucket holds less than the limit, two responses tell it by what they differ in.
  sliding  the time stands still while time passes: it is the window.
  fixed    the time counts down to an end; from one end to the next is the window.

What they mean, as documented or seen (the sources are below):

- OpenAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, also `-project-tokens`; a reset is a Go
  duration "until the rate limit resets to its initial state". Per minute; requests per day where those are
  the tighter limit. Azure: the same names, counted in parts of a minute and mostly without a reset, so
  nothing is learned from it.
- Groq: the same names; requests are per day, tokens per minute. Nous: in seconds, and again with `-1h`.
- Cerebras: `x-ratelimit-limit-requests-minute`, `-hour`, `-day`; Mistral: `-req-minute`, without resets.
- Anthropic: `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}`; a reset is the moment when it is
  "fully replenished", in RFC 3339.
- OpenRouter: `X-RateLimit-{Limit,Remaining,Reset}`, epoch milliseconds; per day for free models.
- IETF drafts: 00 to 06 `RateLimit-{Limit,Remaining,Reset}` (`100, 100;w=60`); 07 `RateLimit: limit=, ...`;
  from 08 `RateLimit: "default";r=50;t=30` with `RateLimit-Policy: "default";q=100;w=60`.
- DeepSeek, vLLM, llama.cpp: none.

Sources: platform.openai.com/docs/guides/rate-limits; console.groq.com/docs/rate-limits;
inference-docs.cerebras.ai/support/rate-limits; openrouter.ai/docs/api/reference/limits;
api-docs.deepseek.com/quick_start/rate_limit; github.com/mistralai/client-ts/issues/169;
clemenssiebler.com (Azure, 2024); draft-ietf-httpapi-ratelimit-headers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from batcher.limits.headers import Reading, read_quotas

PERIODS_S = (60.0, 3_600.0, 86_400.0)
"""A window that is inferred is one of these: minute, hour, day."""

PERIOD_ERROR = 0.1
"""An inferred window is one of them when it is so near; they lie a factor of 24 or more apart."""

FIRST_LOOKS = 20
"""So many responses are read to begin with: enough for a bucket's window to be known."""

LOOK_S, LOOK_IDLE_S = 0.1, 5.0
"""Then one is read every so often; the longer where none of the first ones said anything."""

VOTES = 5
"""Readings in a row that have to agree, and that take a window back when they disagree."""

SPREAD = 1.5
"""The used part must have varied so much meanwhile: by then two ways of coming back have parted."""

QUANTA = 20.0
"""A time of fewer units of its own precision is too coarse to divide by."""

APART = 8
"""Two counts so far apart are known to an eighth, as each is rounded down."""

SLIDING_S = 10.0
"""A time that stood still for so long stands still."""

EDGE_S = 5.0
"""How far two ends of a window may lie apart and be the same one; answers are late by their own latency."""

REST_S_MAX = 86_400.0

QUOTAS_MAX = 16

_Way = Literal["refill", "sliding", "fixed"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a key's headers have taught so far; None is not known.

    Lesson(requests_per_minute=500, tokens_per_minute=None, rest_s=0.0)  # one limit, nothing used up
    """

    requests_per_minute: int | None
    tokens_per_minute: int | None
    rest_s: float


class HeaderLessons:
    """What one key's response headers say, read now and then.

    Pure: times are given. Whoever holds it asks `wants` for each response (one comparison), then `learn`.
    """

    def __init__(self) -> None:
        self._quotas: dict[str, _Quota] = {}
        self._looks = 0
        self._next_look_s = -math.inf
        self._requests_per_minute: int | None = None
        self._tokens_per_minute: int | None = None

    def wants(self, now_s: float) -> bool:
        """Whether it is worth reading a response's headers now; `now_s` in monotonic seconds."""
        return now_s >= self._next_look_s

    def learn(self, headers: Mapping[str, str], *, now_s: float, wall_s: float, in_flight: int) -> Lesson | None:
        """What is known after these headers, or None where that is nothing and nothing is used up.

        Args:
            headers: Of any response, names in any case. Values that are no numbers or times teach nothing.
            now_s: Monotonic seconds.
            wall_s: Seconds since the epoch, for times of day from a server that sends no `Date`.
            in_flight: The key's calls on the wire: what they will use is as good as used.
        """
        self._looks += 1
        rest_s = 0.0
        is_low = False
        for reading in read_quotas(headers, wall_s):
            quota = self._quotas.get(reading.name)
            if quota is None:
                if len(self._quotas) >= QUOTAS_MAX:
                    continue
                quota = self._quotas[reading.name] = _Quota()
            quota.observe(reading, now_s)
            rest_s = max(rest_s, quota.rest_s(now_s, in_flight))
            is_low = is_low or quota.is_low(in_flight)
        self._look_next(now_s, is_low=is_low)
        self._requests_per_minute = self._lowest("requests")
        self._tokens_per_minute = self._lowest("tokens")
        if rest_s == 0.0 and self._requests_per_minute is None and self._tokens_per_minute is None:
            return None
        return Lesson(self._requests_per_minute, self._tokens_per_minute, rest_s)

    def _look_next(self, now_s: float, *, is_low: bool) -> None:
        if self._looks < FIRST_LOOKS or is_low:
            return
        self._next_look_s = now_s + (LOOK_S if self._quotas else LOOK_IDLE_S)

    def _lowest(self, unit: str) -> int | None:
        rates = [quota.per_minute for quota in self._quotas.values() if quota.unit == unit]
        return min((rate for rate in rates if rate is not None), default=None)


class _Quota:
    """One limit of a key, and what its readings say about its window."""

    __slots__ = (
        "_anchor", "_candidate_s", "_contrary", "_end_s", "_has_left", "_is_bucket", "_limit", "_named_s", "_period_s",
        "_reading", "_reset_max_s", "_still_s", "_still_since_s", "_used_range", "_votes", "_way", "unit",
    )  # fmt: skip

    def __init__(self) -> None:
        self.unit = "requests"
        self._reading: Reading | None = None
        self._limit = 0
        self._has_left = False
        self._named_s: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._period_s: float | None = None
        self._way: _Way | None = None
        self._contrary = 0
        # refill: the window that the last readings agree on, how many they are, and the used parts they had.
        self._candidate_s: float | None = None
        self._votes = 0
        self._used_range = (math.inf, 0.0)
        self._anchor: tuple[int, float] | None = None
        self._is_bucket: bool | None = None
        # sliding: a time that stands still, and since when.
        self._still_s = self._still_since_s = 0.0
        # fixed: the end of this window, as early as any answer said, and how many ends were a minute apart.
        self._end_s = -math.inf
        self._reset_max_s = 0.0

    @property
    def per_minute(self) -> int | None:
        """The rate that this quota stands for, where its window is known and no longer than a minute."""
        period_s = self._named_s or self._period_s
        if period_s is None or period_s > PERIODS_S[0] * (1.0 + PERIOD_ERROR) or self._limit < 1:
            return None
        return max(1, int(self._limit * PERIODS_S[0] / period_s)) if self._named_s else self._limit

    def observe(self, reading: Reading, now_s: float) -> None:
        """Take in what one response said."""
        self.unit = reading.unit
        self._named_s = reading.period_s
        if reading.limit is not None:
            if abs(reading.limit - self._limit) > self._limit * PERIOD_ERROR:
                self._forget()
            self._limit = reading.limit
        self._reading = reading
        if reading.remaining:
            self._has_left = True
        if self._named_s is None and reading.reset_s is not None and reading.remaining is not None and self._limit:
            self._weigh(reading, reading.reset_s, reading.remaining, now_s)

    def _weigh(self, reading: Reading, reset_s: float, remaining: int, now_s: float) -> None:
        if self._period_s is not None and reset_s > self._period_s * (1.0 + PERIOD_ERROR) + EDGE_S:
            # No window is reset later than after its own length.
            self._forget()
        self._weigh_refill(reset_s, remaining, QUANTA * reading.precision_s)
        self._weigh_sliding(reset_s, now_s)
        self._weigh_fixed(reset_s, now_s)

    def _weigh_refill(self, reset_s: float, remaining: int, quantum_s: float) -> None:
        by_difference_s = self._by_difference_s(reset_s, remaining, quantum_s)
        used = self._limit - remaining
        if by_difference_s is not None:
            period_s = _nearest_period(by_difference_s)
            # In a window that counts down, more is left the longer there is to go: never in a bucket.
            self._is_bucket = by_difference_s > 0.0
            is_sure = True
        elif self._is_bucket is not False and used > 0 and reset_s >= quantum_s:
            period_s = _nearest_period(reset_s * self._limit / used)
            if period_s is None:
                return
            low, high = self._used_range
            self._used_range = (min(low, used), max(high, used))
            is_sure = self._used_range[1] >= SPREAD * self._used_range[0]
        else:
            return
        if period_s is None or period_s != self._candidate_s:
            self._candidate_s, self._votes, self._used_range = period_s, 0, (math.inf, 0.0)
        if period_s is not None:
            self._votes += 1
            if self._votes >= VOTES and is_sure and self._period_s is None:
                self._period_s, self._way = period_s, "refill"
        if self._way == "refill":
            self._contrary = 0 if period_s == self._period_s else self._contrary + 1
            if self._contrary >= VOTES:
                self._forget()

    def _by_difference_s(self, reset_s: float, remaining: int, quantum_s: float) -> float | None:
        """The window of a bucket by what two readings differ in; negative where it is none, None where too little."""
        before, self._anchor = self._anchor, self._anchor or (remaining, reset_s)
        if before is None or abs(remaining - before[0]) < APART:
            return None
        self._anchor = (remaining, reset_s)
        shorter_s = before[1] - reset_s
        return None if abs(shorter_s) < quantum_s else self._limit * shorter_s / (remaining - before[0])

    def _weigh_sliding(self, reset_s: float, now_s: float) -> None:
        stood_s = now_s - self._still_since_s
        if abs(reset_s - self._still_s) > max(0.5, 0.2 * min(stood_s, SLIDING_S)):
            self._still_s, self._still_since_s = reset_s, now_s
        elif stood_s >= SLIDING_S and self._period_s is None:
            self._period_s = _nearest_period(reset_s)
            self._way = "sliding" if self._period_s else None

    def _weigh_fixed(self, reset_s: float, now_s: float) -> None:
        end_s = now_s + reset_s
        self._reset_max_s = max(self._reset_max_s, reset_s)
        if end_s <= self._end_s + EDGE_S:
            self._end_s = min(self._end_s, end_s)
            return
        # Ends that creep are a bucket's or a sliding window's; a new window's is a whole window later.
        apart_s = end_s - self._end_s
        is_minute = now_s >= self._end_s and _nearest_period(apart_s) == PERIODS_S[0]
        if is_minute and _nearest_period(self._reset_max_s) == PERIODS_S[0] and self._period_s is None:
            self._period_s, self._way = PERIODS_S[0], "fixed"
        self._end_s = end_s

    def is_low(self, in_flight: int) -> bool:
        """Whether what is left is about what the calls in flight will use."""
        reading = self._reading
        if reading is None or reading.remaining is None or not self._limit:
            return False
        if self.unit == "requests" and self.per_minute is None:
            # A fiftieth of the limit at most is left unused for it.
            return reading.remaining <= min(in_flight - 1, self._limit // 50)
        return reading.remaining <= 0

    def rest_s(self, now_s: float, in_flight: int) -> float:
        """Seconds until there is something to use again; 0 while there is.

        A counter that has always stood at 0 counts nothing. A bucket is not waited for until it is full,
        but until what is in flight at once has come back, at most a fiftieth of it.
        """
        reading = self._reading
        if reading is None or reading.reset_s is None or not self._has_left or not self.is_low(in_flight):
            return 0.0
        share = reading.reset_s * self._limit / max(1, self._limit - (reading.remaining or 0))
        may_be_bucket = self._way is None and self._is_bucket is not False and _nearest_period(share) is not None
        if self._way in ("refill", "sliding") or may_be_bucket:
            portion = max(1, min(in_flight, self._limit // 50)) / self._limit
            return min(reading.reset_s, REST_S_MAX, (self._period_s or share) * portion)
        if self._end_s > now_s:
            return min(self._end_s - now_s, REST_S_MAX)
        return min(reading.reset_s, REST_S_MAX)


def _nearest_period(seconds: float) -> float | None:
    for period_s in PERIODS_S:
        if abs(seconds - period_s) <= period_s * PERIOD_ERROR:
            return period_s
    return None
