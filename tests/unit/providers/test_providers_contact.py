"""Web pages where an API should be: refused at once on first contact, an outage ever after."""

from decimal import Decimal
from typing import Any

import pytest
from exchanges import KINDS, make_exchange
from raw_server import raw_server, response

from batcher.core.contracts import CallError
from batcher.core.records import Request
from batcher.errors import RefusedError
from batcher.providers.contact import PAGES_MAX, Contact, base_url_advice
from batcher.providers.http import HttpCaller
from batcher.providers.structured import StructuredSupport
from batcher.providers.wire import ChatWire
from batcher.testing.clock import ManualClock

PAGE = b"<!DOCTYPE html><html><head><title>Welcome to nginx &amp; \xe0\xb8\xaa\xe0\xb8\xa7\xe0\xb8\xb1</title>"
GOOD = b'{"choices":[{"message":{"content":"a"}}]}'


def contact(*, is_first: bool = True) -> Contact:
    return Contact("https://me:pw@api.example.com/", is_first=is_first)


@pytest.mark.parametrize("status", [200, 404, 405])
def test_three_pages_in_a_row_refuse_the_job(status: int) -> None:
    """Behind the breaker they would be waited out for half an hour."""
    first = contact()
    assert [None, None] == [first.failed(status, PAGE), first.failed(status, PAGE)]
    refused = first.failed(status, PAGE)

    assert isinstance(refused, RefusedError)
    assert "3 calls in a row" in refused.message
    assert f'(HTTP {status}, "Welcome to nginx & สวั")' in refused.message
    assert "base_url is https://api.example.com/; most APIs want it to end in /v1" == refused.hint


@pytest.mark.parametrize("is_first", [True, False])
def test_after_one_answer_pages_are_an_outage(is_first: bool) -> None:
    known = contact(is_first=is_first)
    if is_first:
        known.answered()
    assert not any(known.failed(200, PAGE) for _ in range(99))


def test_an_error_in_json_is_an_answer_and_a_404_in_json_is_not() -> None:
    """A 401 or a 503 in JSON comes from an API; every web server has a 404, some of them in JSON."""
    for status in (401, 429, 500):
        known = contact()
        known.failed(status, b' {"error":{}}')
        assert not any(known.failed(200, PAGE) for _ in range(9))

    unknown = contact()
    unknown.failed(404, b'{"detail":"Not Found"}')
    assert any(unknown.failed(200, PAGE) for _ in range(PAGES_MAX))


@pytest.mark.parametrize("status", [403, 500, 502, 503, 504])
def test_a_gateways_own_page_is_not_counted(status: int) -> None:
    gateway = contact()
    assert not any(gateway.failed(status, PAGE) for _ in range(99))


def test_a_call_between_starts_the_count_again() -> None:
    first = contact()
    for _ in range(9):
        assert not any(first.failed(200, PAGE) for _ in range(PAGES_MAX - 1))
        first.failed(503, b"")


@pytest.mark.parametrize(
    ("base_url", "advice"),
    [
        ("https://api.example.com", "base_url is https://api.example.com; most APIs want it to end in /v1"),
        ("http://sk-key:x@10.0.0.1:8000/api?k=1",
         "base_url is http://10.0.0.1:8000/api; most APIs want it to end in /v1"),
        ("https://a.example/v1/chat/completions",
         "base_url is https://a.example/v1/chat/completions; it must end before /chat/completions"),
        ("https://open.example/api/paas/v4",
         "base_url is https://open.example/api/paas/v4; nothing there takes /chat/completions: check the address, "
         "and any proxy or login page"),
        ("http://[::1", "check base_url: it cannot be read"),
    ],
)  # fmt: skip
def test_the_advice_names_the_likeliest_mistake(base_url: str, advice: str) -> None:
    assert advice == base_url_advice(base_url)


@pytest.mark.parametrize("client", KINDS)
async def test_the_caller_raises_the_refusal_and_goes_on_after_an_answer(client: str) -> None:
    """Two callers (two keys) share one contact."""
    wires: list[bytes] = [response(PAGE), response(PAGE, status="404 X"), response(PAGE)]

    async def behave(writer: Any, request: bytes) -> None:
        writer.write(wires.pop(0))

    async def ended(caller: HttpCaller) -> str:
        try:
            return (await caller.call(Request(0, b"[]"))).text
        except CallError as error:
            return error.kind
        except RefusedError as error:
            return str(error.hint)

    async with raw_server(behave) as base_url:
        shared = Contact(base_url.removesuffix("/v1"), is_first=True)
        exchanges = [make_exchange(client, base_url=base_url, api_key=None, timeout_s=5) for _ in range(2)]
        callers = [
            HttpCaller(
                exchange, ChatWire("m", {}, None), StructuredSupport(has_format=False), cost_usd=lambda _: Decimal(0),
                provider="p", clock=ManualClock(), mask=str, contact=shared,
            )
            for exchange in exchanges
        ]  # fmt: skip
        kinds = [await ended(callers[number % 2]) for number in range(3)]
        assert ["bad_response", "bad_request"] == kinds[:2]
        assert kinds[2].endswith("most APIs want it to end in /v1")

        wires += [response(GOOD), *([response(PAGE)] * 9)]
        assert ["a", *(["bad_response"] * 9)] == [await ended(callers[number % 2]) for number in range(10)]
        for exchange in exchanges:
            await exchange.close()
