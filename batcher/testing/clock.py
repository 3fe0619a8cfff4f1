"""Time that a test moves.

`ManualClock` keeps `batcher.clock.Clock` and stands still until `advance`. `SimulatedLoop` is an
event loop whose own timers run on simulated time: code that waits by the loop (aiolimiter,
`asyncio.timeout`) then needs no real second either, and an hour of traffic passes in a moment.
Neither knows of threads: what runs in one is not waited for.
"""

import asyncio
import heapq
import selectors
from itertools import count
from typing import Any

TURNS_MAX = 100_000
"""A test whose tasks are still busy after so many turns of the loop is spinning."""

START_S = 1_700_000_000.0
"""14 November 2023, 22:13:20 UTC."""


class ManualClock:
    """A clock that stands still until it is told to move.

    Args:
        now_s: The wall time at the start; a fixed day, so that records come out the same every time.
        monotonic_s: The monotonic time at the start; not 0, which hides a forgotten subtraction.
    """

    def __init__(self, now_s: float = START_S, monotonic_s: float = 1_000.0) -> None:
        self._wall_offset_s = now_s - monotonic_s
        self._monotonic_s = monotonic_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()

    def now(self) -> float:
        """Seconds since the epoch, UTC; moves with `advance` and jumps with `set_now`."""
        return self._wall_offset_s + self._monotonic_s

    def monotonic(self) -> float:
        """Seconds that only grow, and only by `advance`."""
        return self._monotonic_s

    def set_now(self, now_s: float) -> None:
        """Let the wall time jump, as after a correction by NTP; monotonic time stays."""
        self._wall_offset_s = now_s - self._monotonic_s

    @property
    def sleepers(self) -> int:
        """How many tasks sleep on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, wait_s: float) -> None:
        """Wait until `advance` has moved the time that far; at once (after one turn) for 0 or less."""
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_s + wait_s, next(self._number), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move the time, wake each sleeper at its own moment and let tasks run in between.

        Sleepers of one moment wake in the order in which they lay down. `advance(0)` lets the ready
        tasks run until all of them wait.
        """
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        target_s = self._monotonic_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= target_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._monotonic_s = max(self._monotonic_s, due_s)
            future.set_result(None)
            await settle()
        self._monotonic_s = target_s
        await settle()


async def settle() -> None:
    """Let every ready task run until all of them wait for something.

    Raises:
        RuntimeError: They never come to rest; some task is spinning.
    """
    loop = asyncio.get_running_loop()
    # asyncio has no public word for "nothing is ready"; a loop without this attribute (uvloop) gets
    # a number of turns that is enough for the longest chain of hand-overs in our tests.
    ready: Any = getattr(loop, "_ready", None)
    if ready is None:
        for _ in range(200):
            await asyncio.sleep(0)
        return
    for _ in range(TURNS_MAX):
        await asyncio.sleep(0)
        if not ready:
            return
    raise RuntimeError(f"tasks are still busy after {TURNS_MAX} turns of the loop; one of them is spinning")


TURN_S = 1e-6
"""What a turn of the simulated loop takes. Were it nothing, code that waits for a rounding error to pass
would wait for ever."""


class _SimulatedSelector(selectors.DefaultSelector):
    """Asks the real selector without waiting, and moves the simulated time by what it did not wait."""

    elapsed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self.elapsed_s += TURN_S
        if events:
            return events
        if timeout is None:
            raise RuntimeError("every task waits for something that no timer will bring: a deadlock")
        self.elapsed_s += max(0.0, timeout)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when all tasks sleep, its time jumps to the next timer.

    Use it as `asyncio.Runner(loop_factory=SimulatedLoop)`. It is a `Clock` too, by `LoopClock`.
    """

    def __init__(self) -> None:
        self._simulated = _SimulatedSelector()
        super().__init__(self._simulated)

    def time(self) -> float:
        """The simulated monotonic time, in seconds from 0."""
        return self._simulated.elapsed_s


class LoopClock:
    """The running loop's own time as a `Clock`: simulated under `SimulatedLoop`."""

    def now(self) -> float:
        """Seconds since a fixed day plus the loop's time."""
        return START_S + self.monotonic()

    def monotonic(self) -> float:
        """The running loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, wait_s: float) -> None:
        """`asyncio.sleep` on the running loop."""
        await asyncio.sleep(max(0.0, wait_s))
