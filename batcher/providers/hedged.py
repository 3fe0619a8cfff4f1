"""A second copy of the slowest calls, so that the tail of a run does not hang on one stuck connection.

A call that takes longer than nearly all before it is sent once more, if everything lets the copy through at
that moment; whichever answers first wins, and the other is given up. Copies are bounded by a share of all
calls. One hedge per provider, shared by its keys. Dean and Barroso, "The Tail at Scale", 2013.

What the copy that was given up has cost nobody knows, so the cost of such a row is unknown (where tokens
are not free), and the budget keeps its worst case.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal

from batcher.core.contracts import CallError
from batcher.core.records import NOTHING_SPENT, Reply, Spend
from batcher.limits.latency import LatencyQuantile
from batcher.providers.gated import Send
from batcher.providers.retrying import with_spend

LOOK_AGAIN_S = 1.0
"""A slow call without a copy is looked at so often."""

_Copy = asyncio.Task[Reply]


class Hedge:
    """See `gated.Hedge`.

    Args:
        after: The quantile of latency beyond which a call counts as slow, 0 to 1.
        max_extra: Copies sent, as a share of all calls, 0 to 1.
        is_free: Whether the provider's tokens are known to cost nothing.
    """

    def __init__(self, *, after: float, max_extra: float, is_free: bool) -> None:
        self._latency = LatencyQuantile(after)
        self._max_extra = max_extra
        self._given_up = Spend(attempts=1, cost_usd=Decimal(0) if is_free else None)
        self._calls = 0
        self._copies = 0

    def took(self, latency_s: float) -> None:
        """A call was answered after so long."""
        self._latency.add(latency_s)

    async def race(self, first: Send, second: Callable[[], Send | None]) -> Reply:
        """The reply of the call, or of its copy if that answers first; both have to fail for this to fail.

        Args:
            first: Makes the call.
            second: Gives what makes the copy, or None where nothing lets it through now.

        Raises:
            CallError: Both failed; the first one's failure, with the spend of both.
        """
        self._calls += 1
        copies: set[_Copy] = {asyncio.create_task(_run(first))}
        try:
            send = await self._copy_when_slow(copies, second)
            if send is not None:
                copies.add(asyncio.create_task(_run(send)))
            return await self._winner(copies)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)

    async def _copy_when_slow(self, first: set[_Copy], second: Callable[[], Send | None]) -> Send | None:
        """What makes the copy, once the call has become one of the slowest; None when it has ended before."""
        waited_s = 0.0
        while True:
            patience_s = self._latency.value_s
            if patience_s is not None and waited_s >= patience_s and self._copies < self._max_extra * self._calls:
                send = second()
                if send is not None:
                    self._copies += 1
                    return send
            # A call may be slow before it is known what is slow, or while there is no room for a copy; no one
            # event tells when that changes.
            wait_s = LOOK_AGAIN_S if patience_s is None or waited_s >= patience_s else patience_s - waited_s
            done, _ = await asyncio.wait(first, timeout=wait_s)
            if done:
                return None
            waited_s += wait_s

    async def _winner(self, copies: set[_Copy]) -> Reply:
        failure: CallError | None = None
        spend = NOTHING_SPENT
        pending = copies
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            replies = []
            for copy in done:
                try:
                    replies.append(copy.result())
                except CallError as error:
                    spend = spend + error.spend
                    failure = failure or error
            if replies:
                for other in replies[1:]:
                    spend = spend + other.spend
                for _ in pending:
                    spend = spend + self._given_up
                return with_spend(replies[0], spend)
        assert failure is not None  # no copy is left, and none has answered
        failure.spend = spend
        raise failure


async def _run(send: Send) -> Reply:
    return await send()
