"""The failure table of the contract (design, section 7), seen through both HTTP clients."""

import asyncio
import socket
from decimal import Decimal

import pytest
from exchanges import CLIENTS, make_exchange
from raw_server import raw_server, reset, response

from batcher.clock import SystemClock
from batcher.core.contracts import CallError
from batcher.core.records import Reply, Request
from batcher.providers.http import HttpCaller
from batcher.providers.structured import StructuredSupport
from batcher.providers.wire import ChatWire

GOOD = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"m-1","system_fingerprint":"fp","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"\xe0\xb8\x94\xe0\xb8\xb5"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":4}}}'
)


def error_body(message: str, *, code: str | None = None, type_: str = "invalid_request_error") -> bytes:
    quoted = "null" if code is None else f'"{code}"'
    return f'{{"error":{{"message":"{message}","type":"{type_}","param":null,"code":{quoted}}}}}'.encode()


async def ask(base_url: str, client: str, *, timeout_s: float = 5.0) -> Reply:
    exchange = make_exchange(client, base_url=base_url, api_key="sk-secret", timeout_s=timeout_s)
    caller = HttpCaller(
        exchange,
        ChatWire("m", {"temperature": 0}, None),
        StructuredSupport(has_format=False),
        cost_usd=lambda usage: None if usage is None else Decimal(usage.input),
        provider="main",
        clock=SystemClock(),
        mask=lambda text: text.replace("sk-secret", "***"),
    )
    try:
        return await caller.call(Request(0, b'[{"role":"user","content":"hi"}]'))
    finally:
        await exchange.close()


async def failure(write: bytes | None, client: str, **kwargs: float) -> CallError:
    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        if write is not None:
            writer.write(write)

    async with raw_server(behave) as base_url:
        with pytest.raises(CallError) as caught:
            await ask(base_url, client, **kwargs)
    return caught.value


@CLIENTS
async def test_an_answer_comes_back_byte_for_byte_with_its_usage(client: str) -> None:
    seen: list[bytes] = []

    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        seen.append(request)
        writer.write(response(GOOD))

    async with raw_server(behave) as base_url:
        reply = await ask(base_url, client)

    assert reply.text == "ดี"
    assert (reply.model, reply.system_fingerprint, reply.finish_reason) == ("m-1", "fp", "stop")
    assert (reply.spend.usage.input, reply.spend.usage.cached, reply.spend.usage.output) == (10, 4, 2)
    assert reply.spend.cost_usd == Decimal(10)
    assert b"authorization: bearer sk-secret" in seen[0].lower()
    assert seen[0].endswith(b'{"model":"m","temperature":0,"messages":[{"role":"user","content":"hi"}]}')
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1")


STATUS_TABLE = [
    ("429 Too Many", error_body("slow down", code="rate_limit_exceeded"), "rate_limited"),
    ("429 Too Many", error_body("You exceeded your current quota", code="insufficient_quota"), "quota"),
    ("402 Payment", error_body("Insufficient Balance"), "quota"),
    ("500 X", error_body("boom"), "server"),
    ("502 X", b"<html>bad gateway</html>", "server"),
    ("503 X", b"", "server"),
    ("504 X", b"", "server"),
    ("529 X", error_body("overloaded"), "server"),
    ("520 X", b"", "server"),
    ("408 X", b"", "server"),
    ("409 X", b"", "server"),
    ("401 X", error_body("Incorrect API key provided: sk-secret"), "auth"),
    ("403 X", error_body("not allowed"), "auth"),
    ("400 X", error_body("maximum context length is 4096 tokens", code="context_length_exceeded"), "too_long"),
    ("400 X", error_body("the request exceeds the available context size"), "too_long"),
    ("413 X", b"", "too_long"),
    ("400 X", error_body("The response was filtered", code="content_filter"), "refused"),
    ("400 X", error_body("temperature must be below 2"), "bad_request"),
    ("404 X", error_body("The model `m` does not exist", code="model_not_found"), "bad_request"),
    ("422 X", b'{"detail":[{"msg":"bad"}]}', "bad_request"),
    ("418 X", b"", "bad_request"),
    ("307 X", b"", "bad_request"),
    ("200 OK", b'{"error":{"message":"upstream failed","code":502}}', "bad_response"),
    ("200 OK", b'{"id":"x","choices":[]}', "bad_response"),
    ("200 OK", b'{"id":"x"}', "bad_response"),
    ("200 OK", b'{"choices":[{"message":{"role":"assistant","content":null},"finish_reason":"stop"}]}', "bad_response"),
    ("200 OK", b"<!DOCTYPE html><title>Welcome</title>", "bad_response"),
    ("200 OK", b'{"choices":[{"mess', "bad_response"),
    ("200 OK", b"", "bad_response"),
    ("200 OK", b"[1,2]", "bad_response"),
    ("200 OK", b"\xff\xfe\x00", "bad_response"),
]  # fmt: skip


@CLIENTS
@pytest.mark.parametrize(("status", "body", "kind"), STATUS_TABLE)
async def test_each_status_and_body_has_its_kind(client: str, status: str, body: bytes, kind: str) -> None:
    error = await failure(response(body, status=status, headers="location: http://127.0.0.2:9/\r\n"), client)

    assert error.kind == kind
    assert error.reached
    assert error.spend.attempts == 1
    assert "sk-secret" not in error.message


@CLIENTS
@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (response(GOOD[:40], length=len(GOOD)), "bad_response"),
        (b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"cho\r\n', "bad_response"),
        (response(b"not gzip", headers="content-encoding: gzip\r\n"), "bad_response"),
        (b"", "connection"),
    ],
    ids=["cut", "cut chunks", "not gzip", "closed"],
)
async def test_a_cut_answer_is_a_bad_response_and_a_closed_connection_is_not(
    client: str, write: bytes, kind: str
) -> None:
    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        writer.write(write)
        await writer.drain()
        writer.close()

    async with raw_server(behave) as base_url:
        with pytest.raises(CallError) as caught:
            await ask(base_url, client)

    assert caught.value.kind == kind
    assert caught.value.reached


@CLIENTS
async def test_a_reset_is_a_connection_failure_that_reached_the_provider(client: str) -> None:
    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        reset(writer)

    async with raw_server(behave) as base_url:
        with pytest.raises(CallError) as caught:
            await ask(base_url, client)

    assert (caught.value.kind, caught.value.reached) == ("connection", True)
    assert "the connection was closed before an answer came" == caught.value.message


@CLIENTS
async def test_a_refused_connection_speaks_of_the_provider_alone(client: str) -> None:
    """It must never count as the row's own failure, nor be taken for a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(CallError) as caught:
        await ask(f"http://127.0.0.1:{port}/v1", client)

    assert (caught.value.kind, caught.value.reached) == ("connection", False)
    assert "connection refused" == caught.value.message


@CLIENTS
async def test_dns_and_tls_failures_speak_of_the_provider_alone(client: str) -> None:
    async def speak_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 this is a mail server\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak_first, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    addresses = {
        "http://no-such-host.invalid/v1": "the host name cannot be resolved (DNS): ",
        f"https://127.0.0.1:{port}/v1": "there is no TLS: ",
    }
    for base_url, words in addresses.items():
        with pytest.raises(CallError) as caught:
            await ask(base_url, client, timeout_s=2.0)
        assert (caught.value.kind, caught.value.reached) == ("connection", False)
        assert caught.value.message.startswith(words), caught.value.message
    server.close()


@CLIENTS
async def test_silence_and_a_dripping_body_are_timeouts(client: str) -> None:
    """A server that sends a byte now and then must not hold a row for ever; the SDK's client only bounds each read."""
    error = await failure(None, client, timeout_s=0.3)
    assert (error.kind, error.reached) == ("timeout", True)

    async def drip(writer: asyncio.StreamWriter, request: bytes) -> None:
        writer.write(response(b"", length=500))
        for _ in range(40):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(drip) as base_url:
        with pytest.raises(CallError) as caught:
            await ask(base_url, client, timeout_s=0.3)
    assert caught.value.kind == "timeout"


@CLIENTS
@pytest.mark.parametrize(
    ("header", "wait_s"), [("retry-after: 7", 7.0), ("retry-after-ms: 250", 0.25), ("x-nothing: 1", None)]
)
async def test_retry_after_is_read_from_the_headers(client: str, header: str, wait_s: float | None) -> None:
    error = await failure(response(error_body("slow"), status="429 X", headers=f"{header}\r\n"), client)

    assert error.retry_after_s == wait_s
    assert not error.costs_try


@pytest.mark.parametrize("client", ["fast", "pyreqwest"])
async def test_no_key_means_no_authorization_header(client: str) -> None:
    """A self-hosted server without keys must not be sent an invented one."""
    seen: list[bytes] = []

    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        seen.append(request.lower())
        writer.write(response(GOOD))

    async with raw_server(behave) as base_url:
        exchange = make_exchange(client, base_url=base_url, api_key=None, timeout_s=5)
        assert (await exchange.post(b"{}")).body == GOOD
        await exchange.close()

    assert b"authorization" not in seen[0]


@CLIENTS
async def test_a_redirect_names_where_to_without_what_may_be_a_token(client: str) -> None:
    where = "location: https://api.example.com/v2/chat/completions?token=bi-mat\r\n"
    error = await failure(response(b"", status="307 X", headers=where), client)

    assert "HTTP 307: moved to https://api.example.com/v2/chat/completions" == error.message
    assert "write the final address in base_url" in (error.hint or "")


@CLIENTS
async def test_a_page_that_refuses_is_not_blamed_on_the_key(client: str) -> None:
    """A firewall in front of the provider answers 403 with a page of its own; the key may be a good one."""
    page = response("<!DOCTYPE html><title>Truy cập bị chặn 访问被拒绝</title>".encode(), status="403 Forbidden")
    error = await failure(page, client)

    assert ("auth", "HTTP 403: an HTML page instead of JSON") == (error.kind, error.message)
    assert "a firewall, a proxy or a login page" in (error.hint or "")
