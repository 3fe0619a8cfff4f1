"""How many requests the simulator serves at once; the others wait in line, and none is refused.

That is how servers behave which people run themselves (vLLM, llama.cpp): too much asked of them is a long
queue, and a queue longer than the clients' timeout serves nobody.
"""

import asyncio
from collections import deque


class Slots:
    """Places, first come first served; None is as many as come.

    Their number may change while requests are served: fewer places are not taken back, they are not given again.
    """

    def __init__(self, count: int | None) -> None:
        self._count = count
        self._taken = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return sum(not place.done() for place in self._line)

    def resize(self, count: int | None) -> None:
        """Change the number of places."""
        self._count = count
        self._hand_out()

    async def take(self) -> None:
        """Wait for a place. Who leaves the line takes none."""
        if self._has_room() and not self._line:
            self._taken += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give a place back; the first in line gets it."""
        self._taken -= 1
        self._hand_out()

    def _has_room(self) -> bool:
        return self._count is None or self._taken < self._count

    def _hand_out(self) -> None:
        while self._line and self._has_room():
            place = self._line.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)
