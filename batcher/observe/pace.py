"""How fast a run goes, how long it still takes, and when to say so. Arithmetic over a given time.

`Rate` remembers a few minutes of "rows done" and answers for any window of them, so a burst of answers
does not swing the time left. `Recent` does the same for counts by kind. `Pace` spaces plain lines: soon
after the start, then ever more rarely.
"""

from collections import Counter, deque
from collections.abc import Mapping

RATE_WINDOW_S = 10.0
LEFT_WINDOW_S = 120.0
FAILURES_WINDOW_S = 60.0

_SAMPLE_EVERY_S = 0.5
_KINDS_SAMPLE_EVERY_S = 2.0
_LEFT_AFTER_S = 5.0
_LEFT_AFTER_ROWS = 10
_PACE_S = (2.0, 10.0, 30.0, 60.0)
_PACE_THEN_S = 60.0


class Rate:
    """Rows a second over windows, from samples of a counter.

    Rows that were done before the start count for nothing: a resumed run is as fast as this process is.
    """

    def __init__(self, now_s: float, rows: int) -> None:
        self._first = (now_s, rows)
        self._samples: deque[tuple[float, int]] = deque([self._first])

    def add(self, now_s: float, rows: int) -> None:
        """Note the counter; samples closer than half a second are merged and old ones dropped."""
        if len(self._samples) > 1 and self._samples[-1][0] - self._samples[-2][0] < _SAMPLE_EVERY_S:
            self._samples.pop()
        self._samples.append((now_s, rows))
        # One sample older than the window stays: it is the window's left edge.
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= LEFT_WINDOW_S:
            self._samples.popleft()

    def per_s(self, window_s: float = RATE_WINDOW_S) -> float | None:
        """Rows a second over the last `window_s`; None until a second has passed."""
        now_s, rows = self._samples[-1]
        then_s, then = next(s for s in reversed(self._samples) if now_s - s[0] >= window_s or s is self._samples[0])
        return (rows - then) / (now_s - then_s) if now_s - then_s >= 1.0 else None

    def overall(self) -> float | None:
        """Rows a second since the start; None until a second has passed."""
        now_s, rows = self._samples[-1]
        first_s, first = self._first
        return (rows - first) / (now_s - first_s) if now_s - first_s >= 1.0 else None

    def left_s(self, rows_left: int) -> float | None:
        """Seconds until `rows_left` more are done, at the rate of the last two minutes.

        None until that means something: five seconds and ten rows after the start, or when nothing came
        in for the whole window.
        """
        if rows_left <= 0:
            return 0.0
        now_s, rows = self._samples[-1]
        first_s, first = self._first
        if now_s - first_s < _LEFT_AFTER_S or rows - first < _LEFT_AFTER_ROWS:
            return None
        per_s = self.per_s(LEFT_WINDOW_S)
        return rows_left / per_s if per_s else None


class Recent:
    """What was counted by kind in the last minute, from samples of growing counters."""

    def __init__(self, now_s: float, counts: Mapping[str, int]) -> None:
        self._samples: deque[tuple[float, dict[str, int]]] = deque([(now_s, dict(counts))])

    def add(self, now_s: float, counts: Mapping[str, int]) -> Counter[str]:
        """Note the counters; gives what was added to each within the window."""
        if now_s - self._samples[-1][0] >= _KINDS_SAMPLE_EVERY_S:
            self._samples.append((now_s, dict(counts)))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= FAILURES_WINDOW_S:
            self._samples.popleft()
        before = self._samples[0][1]
        return Counter(
            {kind: count - before.get(kind, 0) for kind, count in counts.items() if count > before.get(kind, 0)}
        )


class Pace:
    """When the next plain line is due: 2, 10, 30 and 60 seconds after the start, then each minute."""

    def __init__(self, now_s: float) -> None:
        self._started_s = now_s
        self._count = 0

    def is_due(self, now_s: float) -> bool:
        """Whether a line is due; when it is, the next one is planned. Lines that were missed are not made up for."""
        elapsed_s = now_s - self._started_s
        if elapsed_s < self._due_s(self._count):
            return False
        while elapsed_s >= self._due_s(self._count):
            self._count += 1
        return True

    @staticmethod
    def _due_s(count: int) -> float:
        if count < len(_PACE_S):
            return _PACE_S[count]
        return _PACE_S[-1] + (count - len(_PACE_S) + 1) * _PACE_THEN_S
