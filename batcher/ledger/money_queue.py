"""Calls that wait for money: the smallest goes first, but none is passed for ever.

With little left, one call that may cost much would hold up all that still fit. So smaller ones go before a larger
one, `OVERTAKEN_MAX` times; then it is its turn, and all wait until it fits. One that can never fit holds up nobody.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.ledger.budget import Hold

OVERTAKEN_MAX = 100
"""So many smaller calls go before a larger one that waits; then all wait until it fits."""


class Waiter:
    """One call that waits. Not a record: two of them are never equal, and the heap asks."""

    __slots__ = ("future", "number", "worst_usd")

    def __init__(self, worst_usd: Decimal, number: int, future: "asyncio.Future[Hold]") -> None:
        self.worst_usd = worst_usd
        self.number = number
        self.future = future

    def __lt__(self, other: "Waiter") -> bool:
        return (self.worst_usd, self.number) < (other.worst_usd, other.number)


class MoneyQueue:
    """Who waits, by size and by age; true while somebody does, or did a moment ago.

    Args:
        is_hopeless: Whether a call that may cost so much will never fit, whatever comes back.
    """

    def __init__(self, is_hopeless: Callable[[Decimal], bool]) -> None:
        self._is_hopeless = is_hopeless
        self._numbers = 0
        self._by_size: list[Waiter] = []
        self._by_age: deque[Waiter] = deque()
        self._overtaken = 0

    def __bool__(self) -> bool:
        return bool(self._by_size)

    def join(self, worst_usd: Decimal) -> "asyncio.Future[Hold]":
        """Wait for that much; the future gets the hold, or the error."""
        self._numbers += 1
        waiter = Waiter(worst_usd, self._numbers, asyncio.get_running_loop().create_future())
        heapq.heappush(self._by_size, waiter)
        self._by_age.append(waiter)
        return waiter.future

    def may_overtake(self) -> bool:
        """Whether a call that has not waited may go before those who do; it goes."""
        if self._by_age:
            if self._overtaken >= OVERTAKEN_MAX:
                return False
            self._overtaken += 1
        return True

    def next(self) -> Waiter | None:
        """Whose turn it is: the smallest, or the oldest where it was overtaken too often."""
        while self._by_age and (self._by_age[0].future.done() or self._is_hopeless(self._by_age[0].worst_usd)):
            self._by_age.popleft()
            self._overtaken = 0
        while self._by_size and self._by_size[0].future.done():
            heapq.heappop(self._by_size)
        if self._by_age and self._overtaken >= OVERTAKEN_MAX:
            return self._by_age[0]
        return self._by_size[0] if self._by_size else None

    def goes(self, waiter: Waiter) -> None:
        """It is let go: whoever waits longer is overtaken once more."""
        if waiter is not self._by_age[0]:
            self._overtaken += 1

    def wanted(self) -> Iterator[Decimal]:
        """What each of those who wait may cost."""
        return (waiter.worst_usd for waiter in self._by_size if not waiter.future.done())

    def refuse(self, error: BaseException) -> None:
        """Tell everyone who waits."""
        waiters, self._by_size = self._by_size, []
        self._by_age.clear()
        self._overtaken = 0
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error)
