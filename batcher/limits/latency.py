"""How long calls take, as a quantile of the latest ones.

For deciding which call is one of the slowest: exact over a window, cheap to feed, computed anew only now
and then.
"""

from collections import deque

WINDOW = 512
"""So many latest calls count: enough for a 99th percentile, few enough to follow a provider through its day."""

ENOUGH = 50
"""With fewer nothing is said."""

RENEWED_EVERY = 32
"""The quantile is computed anew after so many calls."""


class LatencyQuantile:
    """The `share` quantile (0 to 1) of the latest calls, in seconds."""

    def __init__(self, share: float) -> None:
        if not 0 < share < 1:
            raise ValueError(f"a quantile's share is between 0 and 1: {share}")
        self._share = share
        self._latest: deque[float] = deque(maxlen=WINDOW)
        self._since = 0
        self._value_s: float | None = None

    @property
    def value_s(self) -> float | None:
        """The quantile, or None while too few calls have been seen."""
        return self._value_s

    def add(self, latency_s: float) -> None:
        """One call took so long."""
        self._latest.append(latency_s)
        self._since += 1
        if self._since >= RENEWED_EVERY and len(self._latest) >= ENOUGH:
            self._since = 0
            ordered = sorted(self._latest)
            self._value_s = ordered[min(len(ordered) - 1, int(len(ordered) * self._share))]
