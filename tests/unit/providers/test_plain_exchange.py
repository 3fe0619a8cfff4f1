"""Which client asks which address, and what the plain one makes of what its client says."""

import asyncio

import pytest
from raw_server import raw_server, response

from batcher.providers.classify import classify
from batcher.providers.exchange import make_exchange
from batcher.providers.http1 import Http1Client
from batcher.providers.http1_errors import Http1Error
from batcher.providers.network import DIRECT, Network, Proxy, network_for
from batcher.providers.pyreqwest_exchange import PyreqwestExchange
from batcher.providers.sdk_exchange import SdkExchange

PROXY = Network(Proxy("http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("base_url", "network", "expected"),
    [
        ("http://127.0.0.1:8000/v1", DIRECT, Http1Client),
        ("HTTP://Fleet.example/v1", DIRECT, Http1Client),
        ("http://[::1]:8000/v1", DIRECT, Http1Client),
        ("https://api.example.com/v1", DIRECT, PyreqwestExchange),
        ("http://user:word@127.0.0.1/v1", DIRECT, PyreqwestExchange),
        ("http://máy-chủ.example/v1", DIRECT, PyreqwestExchange),
        ("http://fleet.example/v1", PROXY, PyreqwestExchange),
    ],
)
async def test_plain_addresses_are_the_plain_clients(base_url: str, network: Network, expected: type) -> None:
    """TLS, proxies, passwords and names beyond ASCII are left to the client that knows them."""
    for kind, exchange in (("fast", expected), ("sdk", SdkExchange)):
        made = make_exchange(kind, base_url=base_url, api_key="sk-x", timeout_s=5, network=network)
        await made.close()
        assert exchange is type(made)


async def test_a_proxy_for_http_is_asked() -> None:
    """Seen from the proxy: the name behind it is never looked up here."""
    seen: list[bytes] = []

    async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
        seen.append(request)
        writer.write(response(b"{}"))

    async with raw_server(behave) as base_url:
        network = network_for("http://model.invalid/v1", {"HTTP_PROXY": base_url.removesuffix("/v1")})
        made = make_exchange("fast", base_url="http://model.invalid/v1", api_key=None, timeout_s=5, network=network)
        assert b"{}" == (await made.post(b"{}")).body
        await made.close()
    assert seen[0].startswith(b"POST http://model.invalid/v1/chat/completions HTTP/1.1\r\n")


def subclasses(base: type) -> set[type]:
    return {base}.union(*(subclasses(one) for one in base.__subclasses__()))


KINDS = {
    "Http1Error": ("connection", True, True),
    "ConnectFailed": ("connection", False, False),
    "ConnectTimedOut": ("timeout", False, False),
    "ConnectionClosed": ("connection", True, True),
    "AnswerTimeout": ("timeout", True, True),
    "BrokenHead": ("bad_response", True, True),
}


@pytest.mark.parametrize("cls", sorted(subclasses(Http1Error), key=str), ids=lambda one: one.__name__)
def test_each_exception_of_our_client_has_its_kind(cls: type[Http1Error]) -> None:
    """The kind, whether the provider was reached, and whether the call may be billed; a new class has to be added."""
    found = classify(cls("x"), now_s=0.0, mask=str)

    assert KINDS[cls.__name__] == (found.kind, found.reached, found.is_billing_unknown)
