"""How a provider has been doing: the share of rows that it fails, and how much evidence chance could add to that.

A memory of about the latest 200 verdicts or the last two minutes, whichever is shorter, so that it means the same
at 5 and at 5,000 requests/s: weights fall by e with each. What came since the last look is taken as spread evenly
over that time, so a success costs nothing here but a count that somebody else keeps.
"""

import math

MEMORY_VERDICTS = 200.0
"""Enough to tell 10 % from 20 %; at 5,000/s no more than 40 ms, well under the time in which a row uses its tries."""

MEMORY_S = 120.0

SUCCESS_WEIGHT = 1.5
"""What a success takes from the evidence that a failure adds 1 to: it grows in the long run only above 60 %."""

FALSE_ALARM_S = 360_000.0
"""What is aimed at: chance alone opens the breaker once in so many seconds of traffic, 100 hours."""

QUIET_NEEDS = 5.0
"""What chance needs on a provider that is hardly ever failing: the default of `failure_threshold`."""

SICK_SHARE = 0.15
"""From here on a row may lose five tries by chance: 0.15**5 is one row in 13,000, at 9 % it is one in 170,000."""

POISON_SHARE = 0.8
"""Rows that failed fail again in this share of their calls: then it is the rows."""

AGAIN_MIN = 1.0
"""More answers than this to rows that had failed, decayed as all is here: one may be luck."""

SICK_VERDICTS_MIN, CHANCE_VERDICTS_MIN = 30.0, 8.0
"""A share of fewer is noise: to let failures go free of charge, and to ask for more evidence."""

UNKNOWN_ADDS = 8
"""What chance adds on a provider of which little is known: as on one that fails 30 % of its calls, at 1 call/s."""

MIXED_MIN, MIXED_SHARE_MAX = 5, 0.65
"""So many failures, and up to this share, of what was on the wire when it opened make bad weather and no outage."""

EARLY_SHARE_MAX = 0.8
"""The same with those that opened it: failures come first where a dead backend fails faster than a live one answers."""

BURST_MAX = 2000
"""Failures in one burst that bad weather may bring without opening the breaker."""

_SHARE_STEPS = 50
_PRIOR_SHARE, _PRIOR_VERDICTS = 0.05, 10.0


def decay_exponent(share: float) -> float:
    """By which power of e the chance falls that the evidence reaches one more, while `share` of the rows fails.

    The positive root t of share * e**t + (1 - share) * e**(-1.5 t) = 1 (Lundberg's exponent; Wald 1944): evidence
    of k is reached, in one rise from 0, with a chance of at most e**(-t k).

    Args:
        share: In (0, 0.6); from 0.6 on the evidence rises by itself and there is no root.
    """
    low, high = 1e-6, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        is_below = share * math.exp(middle) + (1 - share) * math.exp(-SUCCESS_WEIGHT * middle) < 1
        low, high = (middle, high) if is_below else (low, middle)
    return low


# Above one half it is not learned that failing is usual: 70 % and more must open the breaker at last.
_EXPONENTS = tuple(decay_exponent(max(1, step) / 100) for step in range(_SHARE_STEPS + 1))


def weather_failures(*, opened_by: int, late: int, served: int) -> int:
    """How many failures to learn from an opening that turned out to be bad weather; 0 if it was an outage.

    Args:
        opened_by: Failures that opened it; 0 where they did not reach the provider.
        late: Failures of what was on the wire then.
        served: Answers since.
    """
    failures = opened_by + late
    if opened_by and served > MIXED_MIN and failures <= EARLY_SHARE_MAX * (failures + served):
        return failures
    return late if MIXED_MIN <= late <= MIXED_SHARE_MAX * (late + served) else 0


class Health:
    """Shares of failures among the first, and among the further verdicts of rows, as they have been lately."""

    def __init__(self) -> None:
        self._failures = self._successes = self._span_s = 0.0
        self._again_failures = self._again_successes = 0.0
        self._now: float | None = None
        self._burst = 0.0
        self._burst_at = 0.0

    def learn(
        self, now: float, *, failures: int, successes: int, again_failures: int = 0, again_successes: int = 0
    ) -> None:
        """Add what came since the last time.

        Args:
            now: Monotonic seconds.
            failures: Of rows that had not failed before.
            successes: Of any rows.
            again_failures: Of rows that had failed before.
            again_successes: Of rows that had failed before; counted among `successes` too.
        """
        elapsed_s = 0.0 if self._now is None else max(0.0, now - self._now)
        self._now = now
        age = elapsed_s / MEMORY_S + (failures + successes) / MEMORY_VERDICTS
        keep = math.exp(-age)
        weight = (1 - keep) / age if age > 1e-9 else 1.0
        self._failures = keep * self._failures + weight * failures
        self._successes = keep * self._successes + weight * successes
        self._span_s = keep * self._span_s + weight * elapsed_s
        self._again_failures = keep * self._again_failures + weight * again_failures
        self._again_successes = keep * self._again_successes + weight * again_successes

    def weather(self, now: float, failures: int) -> None:
        """An opening turned out to be bad weather: a burst of so many failures is no outage, nor is one twice as large.

        Chance alone makes no such bursts: a thousand calls begin at once, and a dead backend fails its half before a
        live one has answered any.
        """
        self._burst = min(BURST_MAX, max(self._faded_burst(now), 2.0 * failures))
        self._burst_at = now

    def _faded_burst(self, now: float) -> float:
        return self._burst * math.exp((self._burst_at - now) / MEMORY_S)

    def forget(self) -> None:
        """The failures so far did not speak of the provider."""
        self._burst = 0.0
        self._failures = self._again_failures = self._again_successes = 0.0

    @property
    def share(self) -> float:
        """Of rows that fail; a quiet provider's 5 % where little is known."""
        known = self._failures + self._successes
        return (self._failures + _PRIOR_SHARE * _PRIOR_VERDICTS) / (known + _PRIOR_VERDICTS)

    @property
    def is_sick(self) -> bool:
        """Whether failures are weather: many rows fail, and those that failed were seen not always to fail again."""
        if self._failures + self._successes < SICK_VERDICTS_MIN or self.share < SICK_SHARE:
            return False
        again = self._again_failures + self._again_successes
        return self._again_successes > AGAIN_MIN and self._again_failures / again < POISON_SHARE

    def chance_adds(self, *, is_silent: bool) -> int:
        """So many failures more than the threshold keep chance from opening the breaker twice in `FALSE_ALARM_S`.

        Args:
            is_silent: No row was answered since the evidence began to rise; where little is known, that decides.
        """
        burst = 0 if self._now is None else int(self._faded_burst(self._now))
        verdicts = self._failures + self._successes
        if verdicts < CHANCE_VERDICTS_MIN:
            return max(burst, 0 if is_silent else UNKNOWN_ADDS)
        per_s = max(1.0, verdicts / self._span_s) if self._span_s > 0 else 1.0
        # 1.5 standard errors above the estimate: the price of taking it for too low is an opening.
        share = self.share + 1.5 * math.sqrt(self.share * (1 - self.share) / (verdicts + _PRIOR_VERDICTS))
        exponent = _EXPONENTS[min(_SHARE_STEPS, math.ceil(share * 100))]
        return max(0, burst, int(math.log(per_s * FALSE_ALARM_S) / exponent - QUIET_NEEDS))
