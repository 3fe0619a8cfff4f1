"""Where rows wait while a provider's breaker is open.

The breaker decides and never waits; this waits for it. While it is half-open one waiter goes to probe
and the others stay; when it closes all go. Past `max_outage_s` all are told that the run stops.

A row that has not failed before probes first: a poisoned one would fail on a provider that is well. Where only such
rows are left, a failed probe is followed by a canary, a request of our own, at most once in a recovery time.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from batcher.clock import Clock
from batcher.core.progress import Progress
from batcher.errors import StoppedError
from batcher.limits.breaker import Breaker, Pass
from batcher.observe.human import duration

WHY_MAX = 80
"""Characters of the reason that the sentences quote."""

NO_ROW = -1
"""For whom it does not matter which row it is: it never failed before."""


class Turnstile:
    """The waiting room of one provider, shared by its keys.

    Args:
        breaker: Closed, nothing here costs more than a look at it.
        name: The provider, for messages.
        max_outage_s: After so long without an answer the run stops, resumable.
        tell: Called with a sentence when the provider goes down and when it is back.
    """

    def __init__(
        self,
        breaker: Breaker,
        *,
        name: str,
        max_outage_s: float,
        clock: Clock,
        progress: Progress,
        tell: Callable[[str], None],
    ) -> None:
        self.breaker = breaker
        self._name = name
        self._max_outage_s = max_outage_s
        self._clock = clock
        self._progress = progress
        self._tell = tell
        self._fresh: deque[asyncio.Future[bool]] = deque()
        self._offenders: deque[asyncio.Future[bool]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._has_candidate = False
        breaker.on_change(self._changed)

    async def wait(self, row: int = NO_ROW) -> bool:
        """Go on when the breaker lets calls through; True for the one who may probe.

        Who gets True calls `enter` next, or `step_back` if it does not come to that. Rows that have not failed
        before go first, then those that have, each in the order in which they came.

        Raises:
            StoppedError: The outage has lasted too long.
        """
        if not self.breaker.is_open:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        (self._offenders if self.breaker.is_offender(row) else self._fresh).append(waiter)
        now_s = self._clock.monotonic()
        self._progress.wait_begin("breaker", now_s)
        # One more waiter moves no timer: with thousands of them that would be a task each.
        if self._timer is None or (self.breaker.can_pass(now_s) == 0.0 and not self._has_candidate):
            self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None and waiter.result():
                self.step_back()
            elif self._first(self._fresh) is None and self._first(self._offenders) is None:
                # The last one who waited takes the timer along.
                self._set_timer(self._clock.monotonic())
            raise
        finally:
            self._progress.wait_end("breaker")

    def enter(self, now_s: float, *, is_candidate: bool) -> Pass | None:
        """A pass for one call, or None: wait again."""
        ticket = self.breaker.enter(now_s)
        if is_candidate:
            self.step_back()
        return ticket

    def wants_canary(self, row: int) -> bool:
        """Whether who just recorded a failure for `row` must send a request of our own now.

        True only after a failed probe, where that row and every row that waits had failed before, and at most once in
        a recovery time. Nobody else passes from then on until `record_canary`: call it
        in any case, with False too where nothing came of the request.
        """
        return self._first(self._fresh) is None and self.breaker.begin_canary(row, self._clock.monotonic())

    def record_canary(self, *, is_up: bool) -> None:
        """What came of the canary: whether it was answered, with anything that shows that the provider is up."""
        self.breaker.record_canary(self._clock.monotonic(), is_up=is_up)

    def step_back(self) -> None:
        """The one who might have probed does not; another may."""
        self._has_candidate = False
        self._pump()

    def _changed(self) -> None:
        is_open, now_s, since_s = self.breaker.is_open, self._clock.monotonic(), self._progress.down_since_s
        if is_open and since_s is None:
            self._progress.down_since_s = now_s
            doubt = "" if self.breaker.was_answered else "; is base_url right?"
            self._tell(
                f"{self._name} is down{self._why}; its calls are held back and one at a time tries whether it is back"
                f"{doubt}"
            )
        elif since_s is not None and not is_open:
            self._progress.down_since_s, self._progress.latest_outage_s = None, now_s - since_s
            self._tell(f"{self._name} is back after {duration(now_s - since_s)}")
        self._pump()

    def _pump(self) -> None:
        """Let go who can, and set the timer for the next look."""
        now_s = self._clock.monotonic()
        if not self.breaker.is_open:
            self._release_all()
        elif self.breaker.outage_s(now_s) >= self._max_outage_s:
            self._fail_all()
        elif self.breaker.can_pass(now_s) == 0.0 and not self._has_candidate:
            self._release_one()
        self._set_timer(now_s)

    @property
    def _why(self) -> str:
        """The latest failure after a colon, or nothing where nobody said."""
        why = self.breaker.why
        return "" if not why else f": {why if len(why) <= WHY_MAX else why[: WHY_MAX - 1] + '…'}"

    def _release_all(self) -> None:
        for waiters in (self._fresh, self._offenders):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(False)
            waiters.clear()

    def _release_one(self) -> None:
        for waiters in (self._fresh, self._offenders):
            waiter = self._first(waiters)
            if waiter is not None:
                waiters.popleft()
                self._has_candidate = True
                waiter.set_result(True)
                return

    @staticmethod
    def _first(waiters: deque[asyncio.Future[bool]]) -> asyncio.Future[bool] | None:
        """Who has waited longest; those who gave up make room."""
        while waiters and waiters[0].done():
            waiters.popleft()
        return waiters[0] if waiters else None

    def _fail_all(self) -> None:
        never = "" if self.breaker.was_answered else "nothing was answered since the start: check base_url too; "
        for waiters in (self._fresh, self._offenders):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(
                        StoppedError(
                            f"{self._name} has been down for {self._max_outage_s:.0f} s "
                            f"(circuit_breaker.max_outage){self._why}",
                            hint=f"{never}no row was lost, and none lost a try",
                        )
                    )
            waiters.clear()

    def _set_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._first(self._fresh) is None and self._first(self._offenders) is None:
            return
        until_stop_s = self._max_outage_s - self.breaker.outage_s(now_s)
        until_probe_s = self.breaker.can_pass(now_s)
        wait_s = until_stop_s if self._has_candidate else min(until_stop_s, until_probe_s)
        self._timer = asyncio.get_running_loop().create_task(self._ring(wait_s))

    async def _ring(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        self._timer = None
        self._pump()
