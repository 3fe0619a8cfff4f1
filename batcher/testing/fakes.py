"""Fakes of the five contracts, for tests of what stands around them.

Each keeps its contract and remembers what was asked of it. `FakeCaller` is scripted: what a row gets is
a reply, an error, or a gate that the test opens.

    caller = FakeCaller([CallError("busy", kind="server"), reply("a")])
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

import msgspec

from batcher.core.contracts import CallError
from batcher.core.flight import Flight
from batcher.core.records import Invalid, Outcome, Reply, Request, Row, Spend, Usage, Valid, Verdict
from batcher.errors import BatcherError, FailureKind, InputError, StorageError

ONE_CALL = Spend(1, Usage(input=10, output=2), Decimal("0.001"))
"""What a reply of a fake costs."""


def request(row: int = 0, messages: bytes = b"[]") -> Request:
    """A request for a row."""
    return Request(row, messages)


def reply(text: str = "yes", *, spend: Spend = ONE_CALL) -> Reply:
    """A reply with this text."""
    return Reply(text, spend, latency_ms=5.0, provider="fake", finish_reason="stop")


def failure(
    kind: FailureKind = "server",
    *,
    status: int | None = None,
    retry_after_s: float | None = None,
    reached: bool = True,
) -> CallError:
    """A failed attempt; its spend is one unbilled call."""
    return CallError(
        f"made to fail: {kind}", kind=kind, status=status, retry_after_s=retry_after_s, reached=reached, spend=Spend(1)
    )


class FakeSource:
    """Keeps `Source`: rows 0 to `count` - 1, whose column `text` is their index.

    Args:
        count: How many rows it has.
        batch: Rows in a batch.
        breaks_at: The row that cannot be read; None for none.
        error: What reading it raises.
    """

    def __init__(
        self, count: int, *, batch: int = 10, breaks_at: int | None = None, error: BaseException | None = None
    ) -> None:
        self._count, self._batch, self._breaks_at = count, batch, breaks_at
        self._error = error or InputError(f"rows.jsonl:{breaks_at}: made to break")
        self.rows_read = 0

    def rows(self, start: int = 0) -> Iterator[Sequence[Row]]:
        """See `Source`."""
        stop = self._count if self._breaks_at is None else self._breaks_at
        for first in range(start, stop, self._batch):
            batch = [Row(index, {"text": str(index)}) for index in range(first, min(stop, first + self._batch))]
            self.rows_read += len(batch)
            yield batch
        if self._breaks_at is not None:
            raise self._error


class FakeRenderer:
    """Keeps `Renderer`: the messages are the row's index, and each fault that is explained."""

    def __init__(self) -> None:
        self.explained: list[tuple[Request, str, str]] = []

    def render(self, row: Row) -> Request:
        """See `Renderer`."""
        return Request(row.index, msgspec.json.encode([row.index]), row.key)

    def again(self, request: Request, answer: str, fault: str) -> Request:
        """See `Renderer`."""
        self.explained.append((request, answer, fault))
        asked = msgspec.json.decode(request.messages)
        messages = msgspec.json.encode([*asked, answer, fault])
        return msgspec.structs.replace(request, messages=messages, ask_number=request.ask_number + 1)


Step = Reply | BaseException | asyncio.Event
"""A reply is given, an error raised, an event waited for; after an event the next step comes."""


class FakeCaller:
    """Keeps `Caller`: one step a call, from the row's own script where it has one, else from the common one.

    A script that is used up goes on with its last step; no script at all answers "yes".

    Args:
        script: The steps for all rows, in the order of their calls.
        rows: Scripts of single rows.
        flight: Boarded by each call and left by one that fails, as the gate does; None where a gate is around it.
        name: For a pool.
        load: For a pool.
        rest_s: For a pool.
    """

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        rows: Mapping[int, Sequence[Step]] | None = None,
        flight: Flight | None = None,
        name: str = "fake",
        load: float = 0.0,
        rest_s: float = 0.0,
    ) -> None:
        self._script = list(script)
        self._rows = {row: list(steps) for row, steps in (rows or {}).items()}
        self._flight = flight
        self.name, self.load, self.rest_s = name, load, rest_s
        self.rest_elsewhere_s: Callable[[], float] = lambda: math.inf
        self.requests: list[Request] = []
        self.in_flight = 0
        self.in_flight_max = 0

    def share_with(self, rest_elsewhere_s: Callable[[], float]) -> None:
        """See `pool.Member`."""
        self.rest_elsewhere_s = rest_elsewhere_s

    async def canary(self, *, rest_s: float) -> Reply:  # noqa: ARG002  # the contract's
        """See `pool.Member`; asked for row -1."""
        return await self.call(Request(row=-1, messages=b"[]"))

    async def call(self, request: Request) -> Reply:
        """See `Caller`."""
        if self._flight is not None:
            self._flight.board()
        self.requests.append(request)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            return await self._play(request.row)
        except CallError:
            if self._flight is not None:
                self._flight.leave()
            raise
        finally:
            self.in_flight -= 1

    async def _play(self, row: int) -> Reply:
        # Every call takes a turn of the loop, as real ones do.
        await asyncio.sleep(0)
        while isinstance(step := self._next_step(row), asyncio.Event):
            await step.wait()
        if isinstance(step, CallError):
            raise _fresh(step)
        if isinstance(step, BaseException):
            raise step
        return step

    def _next_step(self, row: int) -> Step:
        steps = self._rows.get(row, self._script)
        if not steps:
            return reply()
        is_last = len(steps) == 1
        if is_last and isinstance(steps[0], asyncio.Event):
            return steps.pop()
        return steps[0] if is_last else steps.pop(0)


class FakeChecker:
    """Keeps `Checker`: an answer that begins with "bad" is invalid, one that begins with "cut" truncated."""

    def check(self, request: Request, reply: Reply) -> Verdict:  # noqa: ARG002  # of the contract
        """See `Checker`."""
        if reply.text.startswith("bad"):
            return Invalid(reply.text, "is bad", again=f"{reply.text} is bad")
        if reply.text.startswith("cut"):
            return Invalid(reply.text, "is cut", kind="truncated")
        return Valid(reply.text)


class MemorySink:
    """Keeps `Sink`, in memory.

    Args:
        fail_at: The number of the put that fails, from 1, and all after it; None for none.
        slow: Waited for by each put, like a disk that is busy.
        seen: Called with each outcome that was kept.
    """

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        slow: asyncio.Event | None = None,
        seen: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._fail_at, self._slow, self._seen = fail_at, slow, seen
        self._puts = 0
        self.on_kept: Callable[[Sequence[Outcome]], None] | None = None
        self.outcomes: dict[int, Outcome] = {}

    async def put(self, outcome: Outcome) -> None:
        """See `Sink`."""
        self._puts += 1
        if self._slow is not None:
            await self._slow.wait()
        if self._fail_at is not None and self._puts >= self._fail_at:
            raise StorageError("the disk is full: made to fail")
        if outcome.row in self.outcomes:
            raise BatcherError(f"row {outcome.row} has its outcome already")
        self.outcomes[outcome.row] = outcome
        if self.on_kept is not None:
            self.on_kept([outcome])
        if self._seen is not None:
            self._seen(outcome)


def _fresh(error: CallError) -> CallError:
    """The same failure as a new exception: callers change `costs_try` and `spend` of the one they get."""
    return CallError(
        error.message,
        kind=error.kind,
        status=error.status,
        retry_after_s=error.retry_after_s,
        reached=error.reached,
        spend=error.spend,
        is_reshaped=error.is_reshaped,
        is_billing_unknown=error.is_billing_unknown,
        hint=error.hint,
    )
