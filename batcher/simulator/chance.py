"""Seeded chance: one uniform draw per question asked of it, and latencies made from such draws.

A draw depends only on the seed, on what it is for, and on what it is about. So the same seed gives the
same faults and latencies request by request, whatever else happened in between.
"""

import math
import re
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import xxhash

from batcher.errors import JobError

_Z95 = 1.6448536269514722
_UNIT_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)\s*")
_NORMAL = NormalDist()


def draw(seed: int, purpose: str, about: int | str) -> float:
    """A number in [0, 1) that depends on these three values alone."""
    return (xxhash.xxh3_64_intdigest(f"{seed}\0{purpose}\0{about}".encode()) >> 11) / 2**53


@dataclass(frozen=True, slots=True)
class Latency:
    """How long an answer takes: `constant` (low_s), `uniform` (low_s to high_s) or `lognormal` (p50 low_s, p95 high_s).

    Latency.parse("50ms")  # constant
    Latency.parse("uniform:50ms,100ms")
    Latency.parse("lognormal:200ms,900ms")  # half are faster than 200 ms, 5 % slower than 900 ms
    """

    kind: Literal["constant", "uniform", "lognormal"] = "constant"
    low_s: float = 0.0
    high_s: float = 0.0

    @classmethod
    def parse(cls, text: str | float, where: str = "latency") -> "Latency":
        """Read it as people write it; a bare number is seconds.

        Raises:
            JobError: It is none of the three forms, or its two durations are in the wrong order.
        """
        kind, colon, rest = str(text).partition(":")
        if not colon:
            return cls("constant", parse_duration_s(text, where))
        low, _, high = rest.partition(",")
        kind = kind.strip()
        if not high or kind not in ("uniform", "lognormal"):
            raise JobError(f"{where} is {text!r}; write 50ms, uniform:50ms,100ms or lognormal:200ms,900ms (p50, p95)")
        low_s, high_s = parse_duration_s(low, where), parse_duration_s(high, where)
        if high_s < low_s or (kind == "lognormal" and low_s == 0.0):
            raise JobError(f"{where} is {text!r}; the first duration must be above 0 and the second not below it")
        return cls("uniform" if kind == "uniform" else "lognormal", low_s, high_s)

    def at(self, share: float) -> float:
        """Seconds that `share` of the answers stay under; `share` in [0, 1)."""
        if self.kind == "constant":
            return self.low_s
        if self.kind == "uniform":
            return self.low_s + (self.high_s - self.low_s) * share
        # The tails end at 4.7 sigma: the quantile of 0 is minus infinity.
        z = _NORMAL.inv_cdf(min(max(share, 1e-6), 1.0 - 1e-6))
        sigma = math.log(self.high_s / self.low_s) / _Z95
        return self.low_s * math.exp(sigma * z)


def parse_duration_s(value: str | float, where: str) -> float:
    """Seconds from `50ms`, `1.5s`, `2m`, `1h` or a bare number of seconds.

    Raises:
        JobError: It is no duration, or negative.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    text = str(value)
    match = _DURATION.fullmatch(text)
    if match is not None:
        return float(match[1]) * _UNIT_S[match[2]]
    if not isinstance(value, bool) and re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        return float(text)
    raise JobError(f"{where} is {value!r}; write a duration such as 50ms, 1.5s or 2m")
