"""Circuit breaker of one provider: holds rows back while it is down, and lets an outage cost no row its tries.

    closed --failures--> open --recovery_s--> half-open, one probe --success--> closed
                          ^                        |
                          +-------- failure -------+

Pure: it decides over monotonic seconds, never sleeps and never calls. Whoever wants to call asks
`enter` for a pass, waits `can_pass` seconds where there is none (or until `on_change` calls), and
hands the pass back with what came of it: `record_success`, `record_failure`, or `abandon`.

What is counted, beyond the textbook:

- One row alone never opens it. Failures in a row open it if they come from two rows or more, or if
  one of them never reached the provider (refused, DNS, TLS), which speaks of the provider alone.
- A pass knows when it was given. What entered before the breaker opened and fails after it counts
  neither against the breaker nor against its row.
- A success that entered before it opened does not close it, since it may have been on its way when
  the provider fell; but it brings the probe forward, once per opening.
- The failures that opened it looked like the rows' own when they came. Each of those rows is given
  them back: as many of its next failures do not count.
- A row that failed before another one was answered is a suspect: while the provider is well, its further
  failures speak of the row, and do not count towards opening. So a handful of poisoned rows that are
  left at the end of a run use up their tries and are set aside, instead of looking like an outage.
- A probe that is abandoned (cancelled, or refused for another reason) frees its place.

Not promised: where rows fail on a provider that is well, and none was answered since they first failed,
nothing tells this from an outage; such a run stops at `max_outage`, resumable.
"""

import math
from collections import Counter
from collections.abc import Callable

Pass = int
"""The permission to make one call; compare passes with nothing."""


class Breaker:
    """Closed, open, or half-open with one probe.

    Args:
        failure_threshold: So many counted failures without a success between them open it.
        recovery_s: After so many seconds one probe goes through.
    """

    def __init__(self, *, failure_threshold: int = 5, recovery_s: float = 60.0) -> None:
        if failure_threshold < 1 or recovery_s < 0:
            raise ValueError(
                f"threshold must be at least 1 and recovery not negative: {failure_threshold}, {recovery_s}"
            )
        self._threshold = failure_threshold
        self._recovery_s = recovery_s
        self._epoch: Pass = 0
        self._open_since: float | None = None
        self._probe_at = 0.0
        self._is_probing = False
        self._was_brought_forward = False
        # The failures since the last success: how many, and by row those that reached the provider.
        self._failures = 0
        self._was_unreached = False
        self._streak: Counter[int] = Counter()
        self._given_back: Counter[int] = Counter()
        self._suspects: set[int] = set()
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

    def outage_s(self, now: float) -> float:
        """Seconds since it opened without closing again; 0 while closed."""
        return 0.0 if self._open_since is None else now - self._open_since

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
            return self._epoch
        if self._is_probing or now < self._probe_at:
            return None
        self._is_probing = True
        return self._epoch

    def record_success(self, ticket: Pass, row: int, now: float) -> None:
        """The provider answered: with anything that shows that it is up, a 4xx or an invalid answer too."""
        if self._given_back:
            self._given_back.pop(row, None)
        if self._suspects:
            self._suspects.discard(row)
        if self._open_since is None:
            if self._failures:
                self._suspects.update(other for other in self._streak if other != row)
                self._forget_failures()
        elif ticket == self._epoch:
            self._close()
        elif not self._was_brought_forward:
            self._was_brought_forward = True
            self._probe_at = min(self._probe_at, now)
            self._tell()

    def record_failure(self, ticket: Pass, row: int, *, reached: bool, now: float) -> bool:
        """The call failed in a way that may be the provider's. True if it counts as a try of the row.

        It counts only if the provider was reached and is held to be well after it.

        Args:
            ticket: What `enter` gave for this call.
            row: The row's number.
            reached: Whether the provider may have seen the request.
            now: Monotonic seconds.
        """
        if ticket != self._epoch:
            return False
        if self._open_since is not None:
            self._open(now)
            return False
        if reached and row in self._suspects:
            return not self._take_back(row)
        self._failures += 1
        rows = len(self._streak) + (reached and row not in self._streak)
        self._was_unreached = self._was_unreached or not reached
        if self._failures >= self._threshold and (rows > 1 or self._was_unreached):
            self._given_back += self._streak
            self._forget_failures()
            self._open(now)
            return False
        if not reached:
            return False
        # Noted whether it is charged or taken from a credit: if the streak opens the breaker, either is given back.
        self._streak[row] += 1
        return not self._take_back(row)

    def abandon(self, ticket: Pass) -> None:
        """Nothing came of the call (cancelled, rate limited): if it was the probe, another may go."""
        if self._open_since is not None and self._is_probing and ticket == self._epoch:
            self._is_probing = False
            # What the abandoned probe may still report is worth nothing.
            self._epoch += 1
            self._tell()

    def _open(self, now: float) -> None:
        if self._open_since is None:
            self._open_since = now
        self._epoch += 1
        self._probe_at = now + self._recovery_s
        self._is_probing = False
        self._was_brought_forward = False
        self._tell()

    def _close(self) -> None:
        self._open_since = None
        self._is_probing = False
        self._tell()

    def _take_back(self, row: int) -> bool:
        """Whether the row had a failure to its credit, which is now used up."""
        credit = self._given_back[row]
        if credit > 1:
            self._given_back[row] = credit - 1
        elif credit == 1:
            del self._given_back[row]
        return credit > 0

    def _forget_failures(self) -> None:
        self._failures = 0
        self._was_unreached = False
        self._streak = Counter()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
