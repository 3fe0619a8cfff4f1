"""Several HTTP clients for one address, where one connection does not take all the calls.

Over HTTP/2 a client keeps one connection to a host, and a server takes a number of calls at once on it: 100 with
most (RFC 9113 recommends no fewer). The 101st waits, so with 1,000 in flight and 200 ms an answer one connection
carried 470 calls/s, and ten carried 3,500. Over HTTP/1.1 each call has a connection of its own anyway: one client.

A client connects to one machine all its life. Where another is to be asked from now on the lanes are retired: new
calls get new clients, and an old client is closed when the last of its calls is over.

Pure bookkeeping: opens a client where no lane has room, and never waits.
"""

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

STREAMS_MAX = 100
"""Calls at once on one connection."""


class _Closes(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closes)


class Lane(Generic[C]):
    """A client and the calls that are out through it."""

    __slots__ = ("calls", "client", "is_retired")

    def __init__(self, client: C) -> None:
        self.client = client
        self.calls = 0
        self.is_retired = False


class Lanes(Generic[C]):
    """The clients of one address.

    Args:
        open_client: Makes one more.
        calls_max: Of one client; None for any number.
    """

    def __init__(self, open_client: Callable[[], C], *, calls_max: int | None = STREAMS_MAX) -> None:
        self._open = open_client
        self._calls_max = calls_max
        self._lanes = [Lane(open_client())]
        self._retired: list[Lane[C]] = []

    def __len__(self) -> int:
        return len(self._lanes)

    def take(self) -> Lane[C]:
        """A lane with room, for one call: the first, so that those behind it fall idle. `give` it back."""
        lane = self._lanes[0]
        if self._calls_max is not None and lane.calls >= self._calls_max:
            lane = self._with_room(self._calls_max)
        lane.calls += 1
        return lane

    def give(self, lane: Lane[C]) -> bool:
        """The call is over, however it ended. True where it was a retired client's last: close that."""
        lane.calls -= 1
        if lane.is_retired and not lane.calls:
            self._retired.remove(lane)
            return True
        return False

    def retire(self) -> list[C]:
        """No new call goes through a client that is open now; those without a call, to be closed."""
        # First of all, for it may fail.
        first = Lane(self._open())
        old, self._lanes = self._lanes, [first]
        for lane in old:
            lane.is_retired = True
        self._retired += [lane for lane in old if lane.calls]
        return [lane.client for lane in old if not lane.calls]

    def widen(self) -> None:
        """One connection for each call, it turned out: a single client is enough from now on."""
        self._calls_max = None

    def clients(self) -> Iterator[C]:
        """All that are open, to be closed."""
        return (lane.client for lane in (*self._lanes, *self._retired))

    def _with_room(self, calls_max: int) -> Lane[C]:
        for lane in self._lanes:
            if lane.calls < calls_max:
                return lane
        self._lanes.append(Lane(self._open()))
        return self._lanes[-1]
