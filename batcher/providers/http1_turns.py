"""Who may make the next connection, where many calls begin at once.

A server's queue of new connections is short, so few are made at a time. A call that waits for its turn gets what
comes first: its turn, or a connection that became free meanwhile. First come, first served: a call that starts later
does not take the connection away, and none waits longer than it has to.
"""

import asyncio
from collections import deque

from batcher.providers.http1_connection import Connection


class Turns:
    """The turns of one client, touched on its event loop only.

    Args:
        turns_max: So many connections are made at once.
    """

    def __init__(self, turns_max: int) -> None:
        self._turns_max = turns_max
        self._taken = 0
        self._waiting: deque[tuple[float, asyncio.Future[Connection | None]]] = deque()

    @property
    def taken(self) -> int:
        """How many connections are being made."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return sum(not waiter.done() for _, waiter in self._waiting)

    async def take(self, until_s: float) -> Connection | None:
        """A connection that became free, or None: make one now, and call `give_back` however that ends.

        Raises:
            TimeoutError: `end_late` was called after `until_s`, the loop's time, and there was nothing yet.
        """
        while self._taken >= self._turns_max:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append((until_s, waiter))
            try:
                connection = await waiter
            except asyncio.CancelledError:
                # What it waited for may have come in the same turn of the loop as the cancellation.
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._pass_on(waiter.result())
                raise
            if connection is None or connection.is_open:
                return connection
        self._taken += 1
        return None

    def give_back(self) -> None:
        """A connection was made, or could not be: who has waited longest makes the next."""
        waiter = self._first()
        if waiter is None:
            self._taken -= 1
        else:
            waiter.set_result(None)

    def offer(self, connection: Connection) -> bool:
        """Give a free connection to who has waited longest; False where nobody waits."""
        waiter = self._first()
        if waiter is None:
            return False
        waiter.set_result(connection)
        return True

    def end_late(self, now_s: float) -> None:
        """End the waits whose time is over. A timer for each of 10,000 calls would cost more than all else here."""
        for until_s, waiter in self._waiting:
            if until_s <= now_s and not waiter.done():
                waiter.set_exception(TimeoutError())

    def _pass_on(self, given: Connection | None) -> None:
        if given is None:
            self.give_back()
        elif given.is_open:
            given.free_again()

    def _first(self) -> "asyncio.Future[Connection | None] | None":
        while self._waiting:
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None
