"""Circuit breaker of one provider: holds rows back while it is down, and lets an outage cost no row its tries.

    closed --failures--> open --recovery_s--> half-open, one probe --answered--> closed
                          ^                        |
                          +-------- failure -------+---- a canary is answered --> closed, and the rows pay

Pure: it decides over monotonic seconds, never sleeps and never calls. Whoever wants to call asks
`enter` for a pass, waits `can_pass` seconds where there is none (or until `on_change` calls), and
hands the pass back with what came of it: `record_success`, `record_failure`, or `abandon`.

**What opens it.** Evidence: plus 1 for a failure, minus 1.5 for a success, never below 0 (a one-sided cumulative
sum, a window that ends where the provider was last well: Page, "Continuous inspection schemes", 1954). It grows
in the long run only where more than 60 % fail, at any rate: below that, a provider does more good open to all than
held to one probe. It opens at `failure_threshold` and what chance could add (`Health.chance_adds`): nothing for a
quiet provider; for one that fails 30 % of its calls, some 12 at 1 call/s and 20 at 5,000/s. So an outage is seen
after 5 failures at a low rate and within milliseconds at a high one, and noise hardly ever opens it. A burst of
failures that turns out to be weather, as answers came late, asks for twice as many the next time (`Health.weather`).

**Rows speak, not calls.** One row alone never opens it, unless the provider was not even reached (refused, DNS, TLS).
A row that fails, sees at least as many others answered as failed, and fails again is a suspect: its failures speak of
itself. They cost tries and are no evidence. Where nobody is answered the same rows may speak again, so
that a job with three rows in flight sees an outage too.

**What costs a try.** A failure on a provider that is well. These cost nothing:

- what entered before it opened and failed after it, what failed as a probe, what did not reach the provider;
- the failures of an episode that led to an opening. They looked like the rows' own when they came, so each row is
  given them back: as many of its next failures do not count;
- further failures of the same rows while several fail and none is answered, as whose fault it is will soon be known;
- failures in bad weather, up to 20 a row in both cases: many rows fail, and those that failed are answered the next
  time. With one backend of two dead, half of all calls fail: calls go on, since half of them are served, and no row
  is lost. Where those that failed fail again, it is the rows and not the weather, and they pay.

**What closes it.** A probe that is answered. A success that entered before it opened does not, since it may have been
on its way when the provider fell; but it brings the probe forward, once per opening. Where only offenders (rows
that failed and were not answered since) are left to probe with, a failed probe says nothing: after `begin_canary` a
request of our own is sent, and `record_canary` hears what came of it. If it was answered, the breaker closes, and the
offenders pay and are no evidence, until another row fails or one of them is answered.

Memory is bounded by `OFFENDERS_MAX`. A call costs O(1), opening shared among the failures that led to it.
Not promised: one row alone cannot be told from an outage; if it is the last one, its tries are used up.
"""

import math
from collections.abc import Callable

from batcher.limits.health import SUCCESS_WEIGHT, Health, weather_failures
from batcher.limits.offenders import OFFENDERS_MAX, Offender, Offenders

Pass = int
"""The permission to make one call; compare passes with nothing."""

FREE_MAX = 20
"""Failures that cost a row nothing for either reason. If half of all calls fail, 25 in a row are one in 30 million."""

SOON_MAX = 50
"""With a higher threshold the breaker is meant not to open: silence tells nothing soon."""


class Breaker:
    """Closed, open, or half-open with one probe.

    Args:
        failure_threshold: So much evidence opens it on a quiet provider: failures without a success between them.
        recovery_s: After so many seconds one probe goes through.
    """

    def __init__(self, *, failure_threshold: int = 5, recovery_s: float = 60.0) -> None:
        if failure_threshold < 1 or recovery_s < 0:
            raise ValueError(
                f"threshold must be at least 1 and recovery not negative: {failure_threshold}, {recovery_s}"
            )
        self._threshold = failure_threshold
        self._recovery_s = recovery_s
        # A pass is the number of failures and openings before it. What it brings counts if it was given `_since` then.
        self._number: Pass = 0
        self._since: Pass = 0
        self._latest_answered: Pass = -1
        self._open_since: float | None = None
        self._probe_at = 0.0
        self._is_probing = False
        self._was_brought_forward = False
        self._why: str | None = None
        self._health = Health()
        self._offenders = Offenders()
        # Counted up only; `_learn` looks at what came since the last time.
        self._successes = self._failures = self._again_successes = self._again_failures = 0
        self._learned = (0, 0, 0)
        # An episode lasts from the first failure until the evidence is back at 0, or opens the breaker.
        self._evidence = 0.0
        self._episode = 0
        self._voices = 0
        self._rows_heard = 0
        self._was_unreached = False
        self._streak: dict[int, Offender] = {}
        # The canary: since when none was sent, whose probe failed last, and whether the last one was answered.
        self._canary_at = -math.inf
        self._failed_probe: int | None = None
        self._is_vouched_for = False
        self._vouch = 0
        self._late_failures = self._opened_by = 0
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever those who wait should look again: closed, opened, or a probe's place is free."""
        self._listeners.append(listener)

    @property
    def is_open(self) -> bool:
        """Whether rows are held back; half-open counts as open."""
        return self._open_since is not None

    @property
    def open_since(self) -> float | None:
        """Monotonic seconds at which this outage began, failed probes included; None while closed."""
        return self._open_since

    @property
    def was_answered(self) -> bool:
        """Whether anything has ever been answered; a provider that never was may be the wrong address."""
        return self._successes > 0

    @property
    def why(self) -> str | None:
        """The latest failure in its own words; None where nobody said."""
        return self._why

    def outage_s(self, now: float) -> float:
        """Seconds since it opened without closing again; 0 while closed."""
        return 0.0 if self._open_since is None else now - self._open_since

    def is_offender(self, row: int) -> bool:
        """Whether the row reached the provider, failed, and was not answered since."""
        return row in self._offenders

    def can_pass(self, now: float) -> float:
        """0 if `enter` would give a pass, else seconds until it might; infinite while a probe is out."""
        if self._open_since is None:
            return 0.0
        if self._is_probing:
            return math.inf
        return max(0.0, self._probe_at - now)

    def enter(self, now: float) -> Pass | None:
        """A pass for one call, or None if it has to wait. Half-open, the one who gets it is the probe."""
        if self._open_since is None:
            return self._number
        if self._is_probing or now < self._probe_at:
            return None
        self._is_probing = True
        self._failed_probe = None
        return self._number

    def record_success(self, ticket: Pass, row: int, now: float) -> None:
        """The provider answered: with anything that shows that it is up, a 4xx or an invalid answer too."""
        self._successes += 1
        if ticket > self._latest_answered:  # noqa: PLR1730  # on the hot path a call of max costs twice as much
            self._latest_answered = ticket
        if self._offenders and self._offenders.pop(row, None) is not None:
            self._again_successes += 1
            self._streak.pop(row, None)
            if self._is_vouched_for:
                # One of those who were to blame is answered: it is the weather after all, and the others' marks go.
                self._is_vouched_for = False
                self._vouch += 1
        if self._open_since is None:
            if self._evidence:
                self._ease(now)
        elif ticket >= self._since:
            self._close(now)
        elif not self._was_brought_forward:
            self._was_brought_forward = True
            self._probe_at = min(self._probe_at, now)
            self._tell()

    def record_failure(self, ticket: Pass, row: int, *, reached: bool, now: float, why: str | None = None) -> bool:
        """The call failed in a way that may be the provider's. True if it counts as a try of the row.

        It counts only if the provider was reached and is held to be well after it.

        Args:
            ticket: What `enter` gave for this call.
            row: The row's number.
            reached: Whether the provider may have seen the request.
            now: Monotonic seconds.
            why: The failure in a few words, for people.
        """
        self._why = why or self._why
        if self._open_since is not None or ticket < self._since:
            was_known = row in self._offenders
            if reached:
                self._offenders.remember(row)
            if ticket >= self._since:
                self._failed_probe = row if was_known else None
                self._open(now)
            else:
                self._late_failures += 1
            return False
        if reached:
            return self._hear(row, now)
        self._is_vouched_for = False
        self._was_unreached = True
        self._raise_evidence(now)
        return False

    def abandon(self, ticket: Pass) -> None:
        """Nothing came of the call (cancelled, rate limited): if it was the probe, another may go."""
        if self._open_since is not None and self._is_probing and ticket >= self._since:
            self._is_probing = False
            # What the abandoned probe may still report is worth nothing.
            self._disown()
            self._tell()

    def begin_canary(self, row: int, now: float) -> bool:
        """Whether whoever's probe for `row` just failed should send a request of our own now, as the next probe.

        Only if the row had failed before, since otherwise its failure speaks of the provider; and at most once in
        `recovery_s`. After True nobody else passes until `record_canary`.
        """
        if self._open_since is None or self._failed_probe != row or self._is_probing:
            return False
        if now - self._canary_at < self._recovery_s:
            return False
        self._canary_at = now
        self._failed_probe = None
        self._is_probing = True
        return True

    def record_canary(self, now: float, *, is_up: bool) -> None:
        """What came of the canary. Up: it closes, and it is the offenders who fail, not the provider."""
        if self._open_since is None:
            return
        if is_up:
            self._health.forget()
            self._is_vouched_for = True
            self._vouch += 1
            self._close(now)
        else:
            self._open(now)

    def _hear(self, row: int, now: float) -> bool:
        """A row failed at a provider that was reached, while closed. True if it counts as a try."""
        is_again = row in self._offenders
        if is_again:
            self._again_failures += 1
        else:
            self._is_vouched_for = False
        offender = self._offenders.remember(row)
        # An answer to what was on its way already when this row failed says nothing of the time since.
        is_answered = self._latest_answered >= offender.failed_at
        answered = offender.weigh(self._successes, self._failures) if is_answered else 0
        self._number += 1
        offender.failed_at = self._number
        if self._is_vouched_for:
            offender.vouch = self._vouch
        speaks = not offender.suspicion and offender.vouch != self._vouch
        if offender.episode != self._episode and (speaks or self._evidence):
            offender.episode, offender.charged = self._episode, 0
            if len(self._streak) < OFFENDERS_MAX:
                self._streak[row] = offender
        if speaks:
            self._rows_heard += offender.spoke_in != self._episode
            offender.spoke_in = self._episode
            if self._raise_evidence(now):
                return False
        offender.successes_seen = self._successes
        offender.failures_seen = None if self._is_vouched_for else self._failures
        # Several rows fail and none is answered: whose fault it is will be known soon.
        is_silent = speaks and is_again and not answered and self._rows_heard > 1 and self._threshold <= SOON_MAX
        is_weather = not self._is_vouched_for and self._health.is_sick
        if offender.free < FREE_MAX and (is_silent or is_weather):
            offender.free += 1
            return False
        return offender.pay()

    def _raise_evidence(self, now: float) -> bool:
        """One more failure that speaks of the provider; True if it opens the breaker."""
        if not self._evidence:
            self._learn(now)
        self._voices += 1
        self._failures += 1
        self._evidence += 1.0
        if self._evidence < self._threshold or not (self._rows_heard > 1 or self._was_unreached):
            return False
        if self._evidence < self._threshold + self._health.chance_adds(is_silent=self._evidence == self._voices):
            return False
        for offender in self._streak.values():
            offender.acquit()
        # An outage is no measure of what is usual; whether it was one is known when it closes.
        self._opened_by = 0 if self._was_unreached else self._voices
        self._voices = 0
        self._end_episode(now)
        self._open(now)
        return True

    def _ease(self, now: float) -> None:
        """One success while there is evidence."""
        self._evidence -= SUCCESS_WEIGHT
        if self._evidence <= 0:
            self._end_episode(now)

    def _end_episode(self, now: float) -> None:
        self._learn(now)
        self._streak = {}
        self._evidence = 0.0
        self._episode += 1
        self._rows_heard = 0
        self._was_unreached = False

    def _learn(self, now: float) -> None:
        seen = (self._successes, self._again_failures, self._again_successes)
        successes, *again = (count - before for count, before in zip(seen, self._learned, strict=True))
        self._learned = seen
        self._health.learn(
            now, failures=self._voices, successes=successes, again_failures=again[0], again_successes=again[1]
        )
        self._voices = 0

    def _open(self, now: float) -> None:
        if self._open_since is None:
            self._open_since = now
            self._late_failures = 0
            self._is_vouched_for = False
        self._disown()
        self._probe_at = now + self._recovery_s
        self._is_probing = False
        self._was_brought_forward = False
        self._tell()

    def _disown(self) -> None:
        """What the passes out so far bring does not count."""
        self._number += 1
        self._since = self._number

    def _close(self, now: float) -> None:
        served = self._successes - self._learned[0]
        weather = weather_failures(opened_by=self._opened_by, late=self._late_failures, served=served)
        if weather:
            # What was on the wire when it opened was answered in good part: that is how the provider is.
            self._voices = weather
            self._learn(now)
            self._health.weather(now, self._opened_by + self._late_failures)
        self._open_since, self._opened_by = None, 0
        self._is_probing = False
        self._failed_probe = None
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
