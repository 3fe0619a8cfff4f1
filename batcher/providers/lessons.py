"""What a key's calls teach about its limits: how many at once, and what its rate-limit headers say.

One per key; it stands between what decides (`limits/adaptive.py`, `limits/taught.py`) and what is
decided upon (permits, rates and the pause of the key). Only limits that the job leaves open are learned.

A key whose calls were all refused since its wire was last empty is shut: from then on one call at a time asks
whether it is open again, and the first answer lets all go. Or a key whose day is used up would be asked with as
many calls at once as may be in flight, each time that a pause ends. A limit on concurrency never looks like
this: it refuses some calls while it serves others.
"""

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.limits.adaptive import AdaptiveConcurrency
from batcher.limits.concurrency import Permits
from batcher.limits.pause import Pause
from batcher.limits.taught import HeaderLessons
from batcher.providers.exchange import Headed
from batcher.providers.room import COUNTED, Room


class KeyLessons:
    """Adapts the limits of one key to what its calls show.

    Args:
        room: Gets the rates that headers teach.
        pause: Gets the rest that headers ask for: a window that is used up, a day's for example.
        concurrency: Finds how many calls in flight serve the key best, or None where that is given.
        permits: The key's own, resized to what `concurrency` finds.
        learns_requests: Whether requests per minute are left open.
        learns_tokens: Whether tokens per minute are.
    """

    def __init__(
        self,
        room: Room,
        pause: Pause,
        *,
        concurrency: AdaptiveConcurrency | None,
        permits: Permits,
        learns_requests: bool,
        learns_tokens: bool,
        clock: Clock,
    ) -> None:
        self._room = room
        self._pause = pause
        self._concurrency = concurrency
        self._permits = permits
        self._headers = HeaderLessons()
        self._learns_requests, self._learns_tokens = learns_requests, learns_tokens
        self._clock = clock
        self._on_wire = 0
        self._permits_max = permits.permits_max
        self._is_shut = False
        self._was_served = False

    def sent(self) -> None:
        """A call goes on the wire."""
        if self._on_wire == 0:
            self._was_served = False
        self._on_wire += 1

    def left(self) -> None:
        """A call was given up on the wire: it teaches nothing."""
        self._on_wire -= 1

    def succeeded(self, started_s: float, now_s: float) -> None:
        """A call was answered."""
        concurrency = self._concurrency
        if concurrency is not None and concurrency.succeeded(started_s, now_s, self._on_wire):
            self._resize(concurrency.limit)
        self._on_wire -= 1
        self._was_served = True
        if self._is_shut:
            self._open()

    def failed(self, error: CallError, started_s: float, now_s: float) -> None:
        """A call failed."""
        on_wire = self._on_wire
        self._on_wire -= 1
        if error.kind != "rate_limited":
            self._was_served = True
            if self._is_shut:
                self._open()
        elif self._is_shut:
            # One call alone that is refused says nothing about how many may be in flight.
            return
        elif self._on_wire == 0 and not self._was_served:
            self._is_shut = True
            self._permits.resize(1)
        concurrency = self._concurrency
        if concurrency is not None and _teach(concurrency, error, started_s, now_s, on_wire):
            self._resize(concurrency.limit)

    def heard(self, response: Headed) -> None:
        """A response came; its headers are read now and then."""
        now_s = self._clock.monotonic()
        if not self._headers.wants(now_s):
            return
        lesson = self._headers.learn(response.headers, now_s=now_s, wall_s=self._clock.now(), in_flight=self._on_wire)
        if lesson is None:
            self._room.teach(requests_per_minute=None, tokens_per_minute=None)
            return
        if lesson.rest_s > 0:
            self._pause.pause_until(now_s + lesson.rest_s)
        is_new = self._room.teach(
            requests_per_minute=lesson.requests_per_minute if self._learns_requests else None,
            tokens_per_minute=lesson.tokens_per_minute if self._learns_tokens else None,
        )
        if is_new and self._concurrency is not None:
            # The rate explains the refusals that cut the concurrency.
            self._concurrency.set_free()

    def _resize(self, permits_max: int) -> None:
        self._permits_max = permits_max
        if not self._is_shut:
            self._permits.resize(permits_max)

    def _open(self) -> None:
        self._is_shut = False
        self._permits.resize(self._permits_max)


def _teach(concurrency: AdaptiveConcurrency, error: CallError, started_s: float, now_s: float, on_wire: int) -> bool:
    """Whether the limit is another one after this failure."""
    if error.kind == "rate_limited":
        return concurrency.refused(started_s, now_s, on_wire, error.retry_after_s)
    if error.kind == "timeout":
        return concurrency.timed_out(started_s, now_s, on_wire)
    if error.kind in COUNTED:
        return concurrency.failed()
    return concurrency.succeeded(started_s, now_s, on_wire)
