"""Answers that are too large, compressed without end, cut or lying: bounded, named, and never drained."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import pytest
from exchanges import CLIENTS, make_exchange
from raw_server import raw_server, reset, response

from batcher.clock import SystemClock
from batcher.core.contracts import CallError
from batcher.core.records import Reply, Request, Usage
from batcher.providers.exchange import BODY_BYTES_MAX
from batcher.providers.http import HttpCaller
from batcher.providers.structured import StructuredSupport
from batcher.providers.wire import ChatWire

USAGE = b'"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}'
TEXT = "ดี tốt 好 🙂"
GOOD = b'{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}],%s}' % (TEXT.encode(), USAGE)
USED = Usage(10, 4, 2, 0)

Behave = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Watched:
    """A caller of one raw server, and what the event loop and the server saw of its calls."""

    def __init__(self, behave: Behave, client: str) -> None:
        self._behave, self._client = behave, client
        self.lag_s = 0.0
        self.headers: list[dict[str, str]] = []
        self.dropped = asyncio.Event()
        self.connections = 0

    async def call(self, *, times: int = 1, timeout_s: float = 20.0) -> list[Reply | CallError]:
        async def serve(writer: asyncio.StreamWriter, request: bytes) -> None:
            try:
                await self._behave(writer)
            except ConnectionError:
                self.dropped.set()
                raise

        async with raw_server(serve) as base_url:
            exchange = make_exchange(
                self._client, base_url=base_url, api_key="sk-secret-0123456789", timeout_s=timeout_s
            )
            caller = HttpCaller(
                exchange,
                ChatWire("m", {}, None),
                StructuredSupport(has_format=False),
                cost_usd=lambda usage: None if usage is None else Decimal(usage.input + usage.output),
                provider="main",
                clock=SystemClock(),
                mask=lambda text: text.replace("sk-secret-0123456789", "***"),
                secrets=("sk-secret-0123456789",),
                on_response=lambda response: self.headers.append(dict(response.headers.items())),
            )
            watch = asyncio.create_task(self._watch())
            try:
                return [await self._one(caller) for _ in range(times)]
            finally:
                watch.cancel()
                await exchange.close()

    async def failure(self, **options: float) -> CallError:
        (ended,) = await self.call(**options)
        assert isinstance(ended, CallError)
        return ended

    @staticmethod
    async def _one(caller: HttpCaller) -> Reply | CallError:
        try:
            return await caller.call(Request(0, b'[{"role":"user","content":"hi"}]'))
        except CallError as error:
            return error

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before_s = loop.time()
            await asyncio.sleep(0.001)
            self.lag_s = max(self.lag_s, loop.time() - before_s - 0.001)


def writes(*pieces: bytes, then_close: bool = False) -> Behave:
    async def behave(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_close:
            writer.close()

    return behave


def bomb(gigabytes: int) -> list[bytes]:
    """A gzip stream in pieces: 64 KB of each stand for 64 MiB of zeros, and each can follow any other."""
    start = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = start.compress(b"") + start.flush(zlib.Z_FULL_FLUSH)
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = block.compress(bytes(64 * 2**20)) + block.flush(zlib.Z_FULL_FLUSH)
    return [head, *([piece] * (16 * gigabytes))]


def resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


def endless(start: bytes, piece: bytes) -> Behave:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()

    return behave


MEGABYTE = b"x" * 10**6
TOO_LARGE = {
    "length": endless(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", MEGABYTE),
    "chunked": endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"f4240\r\n" + MEGABYTE + b"\r\n"),
    "until closed": endless(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", MEGABYTE),
}


@CLIENTS
@pytest.mark.parametrize("kind", TOO_LARGE)
async def test_an_answer_of_a_gigabyte_is_left_at_its_bound(client: str, kind: str) -> None:
    """With or without a length: the connection is dropped and not drained, and memory stays where it was."""
    watched, before_mb = Watched(TOO_LARGE[kind], client), resident_mb()
    error = await watched.failure()
    await asyncio.wait_for(watched.dropped.wait(), 5)

    assert ("bad_response", "the response is larger than 16 MiB") == (error.kind, error.message)
    assert (True, 200, True) == (error.reached, error.status, error.is_billing_unknown)
    assert resident_mb() - before_mb < 120


@CLIENTS
async def test_ten_gigabytes_in_ten_megabytes_are_not_unpacked(client: str) -> None:
    """A gzip bomb: decompressed in pieces, up to the bound, without holding up the loop."""
    pieces = bomb(10)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % sum(map(len, pieces))
    watched, before_mb = Watched(writes(head, *pieces), client), resident_mb()
    started_s = time.monotonic()
    error = await watched.failure()

    assert ("bad_response", "the response is larger than 16 MiB") == (error.kind, error.message)
    assert resident_mb() - before_mb < 120
    assert time.monotonic() - started_s < 5
    # The bound of the design is 50 ms; the rest is for a machine that has other things to do.
    assert watched.lag_s < 0.25


@CLIENTS
@pytest.mark.parametrize(("status", "kind"), [("429 X", "rate_limited"), ("503 X", "server"), ("401 X", "auth")])
async def test_the_status_of_a_gigabyte_of_error_is_believed(client: str, status: str, kind: str) -> None:
    """Its kind is the status's; of its words the start is read."""
    start = f"HTTP/1.1 {status}\r\nretry-after: 7\r\ncontent-length: 1000000000\r\n\r\n".encode()
    watched, before_mb = Watched(endless(start, b"slow down " * 10_000), client), resident_mb()
    error = await watched.failure()
    await asyncio.wait_for(watched.dropped.wait(), 5)

    assert kind == error.kind
    assert f"HTTP {status[:3]}: slow down slow down" in error.message
    assert len(error.message) < 400
    assert resident_mb() - before_mb < 60
    assert (None if kind == "auth" else 7.0) == error.retry_after_s


@CLIENTS
async def test_an_error_body_that_is_cut_keeps_its_status(client: str) -> None:
    cut = Watched(writes(response(b'{"error":{"mess', status="401 X", length=900), then_close=True), client)
    assert "auth" == (await cut.failure()).kind


@pytest.mark.parametrize("client", ["fast", "pyreqwest"])
async def test_an_error_body_that_never_ends_keeps_its_status(client: str) -> None:
    """By the fast clients; the SDK's own deadline takes the whole exchange for a timeout."""

    async def hang(writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"{", status="402 X", length=900))
        await writer.drain()
        await asyncio.sleep(1)

    assert "quota" == (await Watched(hang, client).failure(timeout_s=0.3)).kind


@CLIENTS
async def test_headers_without_end_are_a_bad_response(client: str) -> None:
    watched = Watched(endless(b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 8000 + b"\r\n"), client)
    before_mb = resident_mb()
    error = await watched.failure()

    assert ("bad_response", True) == (error.kind, error.reached)
    assert resident_mb() - before_mb < 60


@CLIENTS
async def test_an_answer_just_under_the_bound_is_an_answer(client: str) -> None:
    """Of 15 MiB, in one piece and compressed; and the connection serves on after it."""
    text = b"a" * (BODY_BYTES_MAX - 2**20)
    body = b'{"choices":[{"message":{"content":"%s"}}],%s}' % (text, USAGE)
    packed = gzip.compress(body, 1)
    for wire in (response(body), response(packed, headers="content-encoding: gzip\r\n")):
        replies = await Watched(writes(wire), client).call(times=2)
        assert [len(text), len(text)] == [len(reply.text) for reply in replies]
        assert [USED, USED] == [reply.spend.usage for reply in replies]


@CLIENTS
@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[' + b"{}," * 5_000_000 + b"{}]}",
        b'{"choices":5,"x":[' + b"[]," * 5_000_000 + b"[]]}",
        b'{"choices":5,"x":[' + b"[]," * 40_000 + b"[]]}",
        b'{"choices":[{"message":{"content":[' + b"{}," * 160_000 + b"{}]}}]}",
    ],
    ids=["choices", "lists", "few lists", "parts"],
)
async def test_json_that_is_all_brackets_does_not_hold_up_the_loop(client: str, body: bytes) -> None:
    """Fifteen megabytes of it would be five million records."""
    watched, before_mb = Watched(writes(response(body)), client), resident_mb()
    await watched.call()

    assert watched.lag_s < 0.3
    assert resident_mb() - before_mb < 200


@CLIENTS
async def test_a_secret_in_a_long_answer_is_masked_all_the_same(client: str) -> None:
    text = b"x" * 2**20 + b" sk-secret-0123456789 " + b"y" * 2**20
    (reply,) = await Watched(writes(response(GOOD.replace(TEXT.encode(), text))), client).call()

    assert "sk-secret" not in reply.text
    assert 2 * 2**20 < len(reply.text)


CUT = {
    "length": response(GOOD[:-1], length=len(GOOD) + 9),
    "chunked without its end": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD), GOOD),
    "in a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s" % (len(GOOD) + 90, GOOD),
    "gzip": response(gzip.compress(GOOD + b" " * 90)[:-9], length=900, headers="content-encoding: gzip\r\n"),
}


@CLIENTS
@pytest.mark.parametrize("how", CUT)
async def test_an_answer_that_was_cut_after_its_usage_is_in_the_ledger(client: str, how: str) -> None:
    """It was served and will be billed; what came says for how much."""
    error = await Watched(writes(CUT[how], then_close=True), client).failure()

    assert ("bad_response", 1, USED, Decimal(12)) == (
        error.kind, error.spend.attempts, error.spend.usage, error.spend.cost_usd,
    )  # fmt: skip
    assert not error.is_billing_unknown


@pytest.mark.parametrize(("client", "first_is_unknown"), [("pyreqwest", True), ("fast", False)])
async def test_the_first_cut_after_a_long_good_time_is_unknown_to_pyreqwest_alone(
    client: str, first_is_unknown: bool
) -> None:
    """Keeping what came before a cut costs it something, so after a long good time it stops to; ours always has it."""
    count = 0

    async def behave(writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        writer.write(response(GOOD) if count <= 1000 else CUT["length"])
        if count > 1000:
            await writer.drain()
            writer.close()

    *replies, first, second = await Watched(behave, client).call(times=1002)

    assert all(isinstance(reply, Reply) for reply in replies)
    assert isinstance(first, CallError)
    assert isinstance(second, CallError)
    usage = None if first_is_unknown else USED
    assert ("bad_response", first_is_unknown, usage) == (first.kind, first.is_billing_unknown, first.spend.usage)
    assert ("bad_response", False, USED) == (second.kind, second.is_billing_unknown, second.spend.usage)


@CLIENTS
@pytest.mark.parametrize("body", [GOOD[:-1], GOOD[:-1] + b',"x":', GOOD + b"}"])
async def test_json_with_a_brace_too_few_or_too_many_is_in_the_ledger(client: str, body: bytes) -> None:
    error = await Watched(writes(response(body)), client).failure()

    assert ("bad_response", USED, False) == (error.kind, error.spend.usage, error.is_billing_unknown)


UNKNOWN = {
    "cut before its usage": response(GOOD[:60], length=len(GOOD)),
    "cut in its usage": response(GOOD[:-30], length=len(GOOD)),
    "a text that speaks of usage": response(
        b'{"choices":[{"message":{"content":"\\"usage\\":{\\"prompt_tokens\\":1,\\"completion_tokens\\":1}', length=999
    ),
    "the usage of something else": response(b'{"x":{"usage":{"prompt_tokens":1,"completion_tokens":1}', length=999),
    "impossible counts": response(b'{"usage":{"prompt_tokens":-1,"completion_tokens":1},"x', length=999),
    "no body": b"",
}


@CLIENTS
@pytest.mark.parametrize("how", UNKNOWN)
async def test_what_nobody_can_know_is_said_to_be_unknown(client: str, how: str) -> None:
    """Neither nothing nor a guess: the budget books its worst case."""
    error = await Watched(writes(UNKNOWN[how], then_close=True), client).failure()

    assert error.reached
    assert error.is_billing_unknown
    assert error.spend.usage is None


@CLIENTS
async def test_a_timeout_and_a_reset_may_have_been_billed(client: str) -> None:
    async def drop(writer: asyncio.StreamWriter) -> None:
        reset(writer)

    assert (await Watched(drop, client).failure()).is_billing_unknown
    assert (await Watched(writes(), client).failure(timeout_s=0.3)).is_billing_unknown


FREE = {
    "401": response(b"{}", status="401 X"),
    "429": response(b'{"error":{"message":"slow"}}', status="429 X"),
    "500": response(b"", status="500 X"),
    "an error inside 200": response(b'{"error":{"message":"upstream"}}'),
    "a page": response(b"<!DOCTYPE html><title>nginx</title>"),
}


@CLIENTS
@pytest.mark.parametrize("how", FREE)
async def test_what_surely_costs_nothing_costs_nothing(client: str, how: str) -> None:
    error = await Watched(writes(FREE[how]), client).failure()

    assert (Decimal(0), None, False) == (error.spend.cost_usd, error.spend.usage, error.is_billing_unknown)


BILLED = {
    "error status": response(b'{"error":{"message":"filtered"},%s}' % USAGE, status="400 X"),
    "error status, usage in the error": response(b'{"error":{"message":"x",%s}}' % USAGE, status="500 X"),
    "error inside 200": response(b'{"error":{"message":"upstream"},%s}' % USAGE),
    "no choices": response(b'{"choices":[],%s}' % USAGE),
    "null content": response(b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}],%s}' % USAGE),
}


@CLIENTS
@pytest.mark.parametrize("how", BILLED)
async def test_a_failure_that_tells_its_usage_is_in_the_ledger(client: str, how: str) -> None:
    error = await Watched(writes(BILLED[how]), client).failure()

    assert (USED, Decimal(12), False) == (error.spend.usage, error.spend.cost_usd, error.is_billing_unknown)


@CLIENTS
async def test_headers_are_told_of_answers_and_of_errors(client: str) -> None:
    """Whoever learns limits from headers sees each response, and sees it before it is judged."""
    limit = "x-ratelimit-remaining-requests: 5\r\n"
    for wire in (
        response(GOOD, headers=limit),
        response(b"{}", status="429 X", headers=limit),
        response(b'{"choices":[]}', headers=limit),
        response(GOOD, headers=limit, length=len(GOOD) + 5),
    ):
        watched = Watched(writes(wire, then_close=True), client)
        await watched.call()
        assert ["5"] == [headers.get("x-ratelimit-remaining-requests") for headers in watched.headers]
