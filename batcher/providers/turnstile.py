"""Where rows wait while a provider's breaker is open.

The breaker decides and never waits; this waits for it. While it is half-open one waiter goes to probe
and the others stay; when it closes all go. Past `max_outage_s` all are told that the run stops.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from batcher.clock import Clock
from batcher.core.progress import Progress
from batcher.errors import StoppedError
from batcher.limits.breaker import Breaker, Pass


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
        self._waiters: deque[asyncio.Future[bool]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._has_candidate = False
        self._was_open = False
        self._open_since_s = 0.0
        breaker.on_change(self._changed)

    async def wait(self) -> bool:
        """Go on when the breaker lets calls through; True for the one who may probe.

        Who gets True calls `enter` next, or `step_back` if it does not come to that.

        Raises:
            StoppedError: The outage has lasted too long.
        """
        if not self.breaker.is_open:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._progress.wait_begin("breaker", self._clock.monotonic())
        self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None and waiter.result():
                self.step_back()
            raise
        finally:
            self._progress.wait_end("breaker")

    def enter(self, now_s: float, *, is_candidate: bool) -> Pass | None:
        """A pass for one call, or None: wait again."""
        ticket = self.breaker.enter(now_s)
        if is_candidate:
            self.step_back()
        return ticket

    def step_back(self) -> None:
        """The one who might have probed does not; another may."""
        self._has_candidate = False
        self._pump()

    def _changed(self) -> None:
        is_open = self.breaker.is_open
        if is_open and not self._was_open:
            self._open_since_s = self._clock.monotonic()
            self._tell(f"{self._name} is down: its calls are held back and one at a time tries whether it is back")
        elif self._was_open and not is_open:
            down_s = self._clock.monotonic() - self._open_since_s
            self._tell(f"{self._name} is back after {down_s:.0f} s")
        self._was_open = is_open
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

    def _release_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(False)
        self._waiters.clear()

    def _release_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._has_candidate = True
                waiter.set_result(True)
                return

    def _fail_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(
                    StoppedError(
                        f"{self._name} has been down for {self._max_outage_s:.0f} s (circuit_breaker.max_outage)",
                        hint="`batcher resume` goes on when it is back; no row was lost",
                    )
                )
        self._waiters.clear()

    def _set_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiters:
            return
        until_stop_s = self._max_outage_s - self.breaker.outage_s(now_s)
        until_probe_s = self.breaker.can_pass(now_s)
        wait_s = until_stop_s if self._has_candidate else min(until_stop_s, until_probe_s)
        self._timer = asyncio.get_running_loop().create_task(self._ring(wait_s))

    async def _ring(self, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        self._timer = None
        self._pump()
