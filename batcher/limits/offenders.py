"""Rows that failed at a provider and were not answered since, as the breaker remembers them."""

from collections import OrderedDict

OFFENDERS_MAX = 20_000
"""More than are ever in hand at once. Rows that were set aside are never heard of again: the oldest make room."""


class Offender:
    """What is known of one row.

    `episode` is the latest one in which it failed, `spoke_in` the latest in which that was evidence, `charged` the
    tries that the episode cost it or took from its `credit`. `failed_at` is the breaker's number of its latest
    failure, `successes_seen` and `failures_seen` the counts of all rows then; no failures where what came since
    says nothing of the row. `suspicion` above 0 means that its failures speak of itself. `free` of them
    cost nothing in bad weather. `vouch` is the number of the canary after whose answer it failed.
    """

    __slots__ = (
        "charged", "credit", "episode", "failed_at", "failures_seen", "free", "spoke_in", "successes_seen", "suspicion",
        "vouch",
    )  # fmt: skip

    def __init__(self) -> None:
        self.episode = self.spoke_in = -1
        self.charged = self.credit = self.free = self.failed_at = 0
        self.successes_seen = 0
        self.failures_seen: int | None = None
        self.suspicion = 0
        self.vouch = -1

    def weigh(self, successes: int, failures: int) -> int:
        """It failed again: raise or lower the suspicion by what the other rows met since; how many were answered.

        Args:
            successes: Of all rows, so far.
            failures: Those of all rows that were evidence, so far.
        """
        answered = successes - self.successes_seen
        if self.failures_seen is not None and answered:
            speaks_of_row = failures - self.failures_seen <= answered
            self.suspicion = max(0, self.suspicion + (1 if speaks_of_row else -1))
        return answered

    def acquit(self) -> None:
        """Its failures led to an opening: they are given back, and what is answered from now on says nothing of it."""
        self.credit += self.charged
        self.failures_seen = None
        self.suspicion = max(0, self.suspicion - 1)

    def pay(self) -> bool:
        """Whether a failure that is charged costs the row a try: not while it has failures to its credit."""
        # Noted in either case: if this episode opens the breaker, both are given back.
        self.charged += 1
        if self.credit > 0:
            self.credit -= 1
            return False
        return True


class Offenders(OrderedDict[int, Offender]):
    """By row, the latest to fail last; at most `OFFENDERS_MAX`."""

    def remember(self, row: int) -> Offender:
        """The row's record, which is new if it has not failed before."""
        offender = self.get(row)
        if offender is not None:
            self.move_to_end(row)
            return offender
        offender = self[row] = Offender()
        if len(self) > OFFENDERS_MAX:
            self.popitem(last=False)
        return offender
