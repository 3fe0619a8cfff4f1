"""What every caller promises, whatever it wraps; a new wrapper joins by naming itself at the end."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from exchanges import make_exchange
from raw_server import raw_server, response

from batcher.core.contracts import Caller, CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Reply, Request
from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.tokens import TokenBucket
from batcher.providers.exchange import Answered, Exchange, Received
from batcher.providers.failures import StatusFailed, TransportFailed
from batcher.providers.gated import GatedCaller
from batcher.providers.http import HttpCaller
from batcher.providers.pool import Pool
from batcher.providers.retrying import RetryingCaller, RetryPolicy
from batcher.providers.room import LimitSet, Room
from batcher.providers.structured import StructuredSupport
from batcher.providers.turnstile import Turnstile
from batcher.providers.wire import ChatWire
from batcher.testing.clock import ManualClock, settle
from batcher.testing.fakes import ONE_CALL, FakeCaller, failure, reply, request


class CallerSuite:
    """The promises of `core.contracts.Caller`. `make` puts the caller around the steps of a script."""

    def make(self, steps: Sequence[Any]) -> Caller:
        raise NotImplementedError

    async def test_a_reply_comes_with_its_spend(self) -> None:
        given = await self.make([reply("ตอบ")]).call(request(3))

        assert ("ตอบ", 1) == (given.text, given.spend.attempts)

    async def test_a_failure_for_good_is_a_call_error_with_its_kind_and_spend(self) -> None:
        with pytest.raises(CallError) as caught:
            await self.make([failure("too_long")]).call(request())

        assert ("too_long", 1) == (caught.value.kind, caught.value.spend.attempts)

    async def test_it_is_safe_to_cancel_and_to_call_again(self) -> None:
        never = asyncio.Event()
        caller = self.make([never, reply("a"), reply("b")])
        task = asyncio.ensure_future(caller.call(request()))
        await settle()
        task.cancel()
        await settle()
        assert task.cancelled()
        never.set()

        assert "yes" != (await asyncio.wait_for(caller.call(request(1)), 5)).text

    async def test_many_calls_at_once_each_get_a_reply(self) -> None:
        caller = self.make([reply()])
        replies = await asyncio.gather(*(caller.call(request(row)) for row in range(200)))

        assert 200 == sum(one.spend.attempts for one in replies)

    async def test_a_bug_below_is_not_made_a_failure_of_the_row(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await self.make([ZeroDivisionError()]).call(request())


class TestFakeCaller(CallerSuite):
    def make(self, steps: Sequence[Any]) -> Caller:
        return FakeCaller(steps)


class TestRetryingCaller(CallerSuite):
    def make(self, steps: Sequence[Any]) -> Caller:
        return RetryingCaller(
            FakeCaller(steps), RetryPolicy(), clock=ManualClock(), chance=random.Random(1), progress=Progress()
        )


class TestPool(CallerSuite):
    def make(self, steps: Sequence[Any]) -> Caller:
        members = [FakeCaller(steps), FakeCaller(steps, load=1.0)]
        return Pool(members, clock=ManualClock(), progress=Progress(), tell=lambda said: None)


class Left:
    """Gives the place of each call back when it ends, as the engine does when an answer is kept."""

    def __init__(self, inner: Caller, flight: Flight) -> None:
        self._inner = inner
        self._flight = flight

    async def call(self, one: Request) -> Reply:
        try:
            return await self._inner.call(one)
        finally:
            self._flight.leave()


class TestGatedCaller(CallerSuite):
    def make(self, steps: Sequence[Any]) -> Caller:
        clock, progress, flight = ManualClock(), Progress(), Flight()
        gated = GatedCaller(
            FakeCaller(steps),
            name="p",
            room=Room(
                (LimitSet(Permits(3)), LimitSet(Permits(2), None, TokenBucket(60_000_000, clock))),
                estimator=TokenEstimator(),
                output_max=None,
                wall=None,
                clock=clock,
                progress=progress,
            ),
            pause=Pause(random.Random(1)),
            turnstile=Turnstile(
                Breaker(), name="p", max_outage_s=60, clock=clock, progress=progress, tell=lambda said: None
            ),
            clock=clock,
            progress=progress,
            flight=flight,
        )
        return Left(gated, flight)


class ScriptedExchange:
    """Keeps `Exchange`: a script's replies as bodies, its failures as a 413 (`too_long`)."""

    def __init__(self, steps: Sequence[Any]) -> None:
        self._caller = FakeCaller(steps)
        self.bodies: list[bytes] = []

    async def post(self, body: bytes) -> Answered:
        self.bodies.append(body)
        try:
            given = await self._caller.call(request())
        except CallError:
            raise StatusFailed(413, {}, b"") from None
        return Received(b'{"choices":[{"message":{"content":"%s"}}]}' % given.text.encode(), {})

    async def close(self) -> None: ...


class TestHttpCaller(CallerSuite):
    def make(self, steps: Sequence[Any]) -> Caller:
        return http_caller(ScriptedExchange(steps))


def http_caller(exchange: Any, response_format: Any = None, mask: Callable[[str], str] = str) -> HttpCaller:
    wire = ChatWire("m", {}, response_format)
    return HttpCaller(
        exchange,
        wire,
        StructuredSupport(has_format=wire.has_format),
        cost_usd=lambda usage: None if usage is None else ONE_CALL.cost_usd,
        provider="p",
        clock=ManualClock(),
        mask=mask,
    )


class OverTheWire:
    """Keeps `Exchange`: one of the real ones, asking a server on loopback that follows the script."""

    def __init__(self, kind: str, steps: Sequence[Any]) -> None:
        self._kind, self._caller = kind, FakeCaller(steps)
        self._open = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._exchange: Exchange | None = None
        self._bug: Exception | None = None

    async def post(self, body: bytes) -> Answered:
        async with self._opening:
            if self._exchange is None:
                base_url = await self._open.enter_async_context(raw_server(self._behave))
                self._exchange = make_exchange(self._kind, base_url=base_url, api_key="sk-x", timeout_s=20)
                self._open.push_async_callback(self._exchange.close)
        try:
            return await self._exchange.post(body)
        except TransportFailed:
            # What goes wrong in the server for no reason of the script's is a bug "below", of the exchange's.
            if self._bug is not None:
                raise self._bug from None
            raise

    async def close(self) -> None:
        await self._open.aclose()

    async def _behave(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        try:
            given = await self._caller.call(request())
        except CallError:
            writer.write(response(b"{}", status="413 X"))
        except ZeroDivisionError as bug:
            self._bug = bug
            writer.close()
        else:
            writer.write(response(b'{"choices":[{"message":{"content":"%s"}}]}' % given.text.encode()))


class WireSuite(CallerSuite):
    """The promises over a real connection, by the exchange of this `kind`."""

    kind = ""

    def make(self, steps: Sequence[Any]) -> Caller:
        self.exchanges.append(OverTheWire(self.kind, steps))
        return http_caller(self.exchanges[-1])

    @pytest.fixture(autouse=True)
    async def closed(self) -> AsyncIterator[None]:
        self.exchanges: list[OverTheWire] = []
        yield
        for exchange in self.exchanges:
            await exchange.close()

    async def test_it_is_safe_to_cancel_and_to_call_again(self) -> None:
        """As the suite's own, but cancelled while the server has the request."""
        never = asyncio.Event()
        caller = self.make([never, reply("a"), reply("b")])
        task = asyncio.ensure_future(caller.call(request()))
        async with asyncio.timeout(5):
            while not self.exchanges[-1]._caller.requests:
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

        assert "a" == (await asyncio.wait_for(caller.call(request(1)), 5)).text
        never.set()


class TestOurHttpCaller(WireSuite):
    kind = "fast"


class TestPyreqwestCaller(WireSuite):
    kind = "pyreqwest"


class TestSdkCaller(WireSuite):
    kind = "sdk"


class Bodies:
    """Keeps `Exchange`: gives these bodies, or raises these statuses with these words, in order."""

    def __init__(self, *steps: bytes | tuple[int, str]) -> None:
        self._steps = list(steps)
        self.sent: list[bytes] = []

    async def post(self, body: bytes) -> Answered:
        self.sent.append(body)
        step = self._steps.pop(0)
        if isinstance(step, bytes):
            return Received(step, {})
        raise StatusFailed(step[0], {}, json.dumps({"message": step[1]}).encode())

    async def close(self) -> None: ...


GOOD = b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


async def test_a_refused_format_is_told_apart_from_a_refused_row() -> None:
    """The error says "ask again at once", and the next body has no format."""
    exchange = Bodies((400, "response_format is not supported"), GOOD)
    caller = http_caller(exchange, {"type": "json_schema"})

    with pytest.raises(CallError) as caught:
        await caller.call(request())
    answer = await caller.call(request())

    assert (True, False, "bad_request") == (caught.value.is_reshaped, caught.value.costs_try, caught.value.kind)
    assert [True, False] == [b"response_format" in body for body in exchange.sent]
    assert not answer.is_structured


async def test_a_structured_reply_says_so() -> None:
    assert (await http_caller(Bodies(GOOD), {"type": "json_schema"}).call(request())).is_structured


@pytest.mark.parametrize("padding", [0, 150, 180, 195, 290, 299])
async def test_an_error_inside_200_shows_no_part_of_a_key(padding: int) -> None:
    """Masked before it is cut, and one line: it goes to terminals, logs and results."""
    words = "x" * padding + " sk-secret-0123456789 \\u001b[2J\\n end"
    body = b'{"error":{"message":"%s"}}' % words.encode()
    caller = http_caller(Bodies(body), mask=lambda text: text.replace("sk-secret-0123456789", "***"))

    with pytest.raises(CallError) as caught:
        await caller.call(request())

    assert "sk-" not in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("body", [b'{"error":' + b"[" * 100_000, b'{"choices":5,"x":', b"", b"\xff"])
async def test_a_hostile_body_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(CallError) as caught:
        await http_caller(Bodies(body)).call(request())

    assert "bad_response" == caught.value.kind
