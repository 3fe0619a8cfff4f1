"""Which address the fast client connects to over TLS, who is asked for it, and how often."""

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from networks import NAME, H2Script, Http1, Http2, Names, Pki, Proxy, mute_port

from batcher.core.contracts import CallError
from batcher.providers import network
from batcher.providers.classify import classify
from batcher.providers.failures import TransportFailed
from batcher.providers.network import Network, Tls
from batcher.providers.pyreqwest_exchange import PyreqwestExchange

TEXTS = ("ตั๋วหมดแล้ว", "tôi bị trừ tiền hai lần", "我被重复扣款了 🙂")

# As the client itself says it.
UNKNOWN_NAME = "the host name cannot be resolved (DNS): failed to lookup address information: Name or service not known"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@contextlib.asynccontextmanager
async def exchanging(
    pki: Pki, port: int, *, host: str = NAME, timeout_s: float = 10.0, proxy: str | None = None
) -> AsyncIterator[PyreqwestExchange]:
    way = Network(None if proxy is None else network.Proxy(proxy), Tls(ca=pki.ca))
    exchange = PyreqwestExchange(base_url=f"https://{host}:{port}/v1", api_key="sk-x", timeout_s=timeout_s, network=way)
    try:
        yield exchange
    finally:
        await asyncio.wait_for(exchange.close(), 2)


async def told(exchange: PyreqwestExchange, text: str = TEXTS[0]) -> str | CallError:
    """The answer's text, or the failure."""
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    try:
        answered = await exchange.post(body)
    except TransportFailed as error:
        return classify(error, now_s=0, mask=str)
    return json.loads(answered.body)["choices"][0]["message"]["content"]


async def kinds(exchange: PyreqwestExchange, count: int) -> Counter[str]:
    """What came of so many calls at once: "ok", or the kinds of the failures."""
    texts = [f"{TEXTS[index % 3]} {index}" for index in range(count)]
    answers = await asyncio.gather(*(told(exchange, text) for text in texts))
    return Counter(
        answer.kind if isinstance(answer, CallError) else "ok" if answer == text else "another's answer"
        for text, answer in zip(texts, answers, strict=True)
    )


def time_passes(monkeypatch: pytest.MonkeyPatch, *, by_s: float) -> None:
    loop = asyncio.get_running_loop()
    now_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: now_s() + by_s)


def server_at(pki: Pki, host: str, port: int = 0, *, answer_s: float = 0.0) -> Http1:
    server = Http1(host=host, context=pki.context(), answer_s=answer_s)
    server.port = port
    return server


@pytest.mark.parametrize("version", [1, 2])
async def test_a_burst_makes_one_lookup(pki: Pki, version: int) -> None:
    """Left to itself, pyreqwest asks the system for each connection, in as many threads; here that knows no such
    name at all."""
    names = Names(api_test=["127.0.0.1"])
    made = Http1(context=pki.context(), answer_s=0.1) if version == 1 else Http2(pki, H2Script(answer_s=0.1))
    with made as server:
        async with exchanging(pki, server.port) as exchange:
            before = threads()
            assert {"ok": 300} == await kinds(exchange, 300)
            assert {"ok": 300} == await kinds(exchange, 300)
            more = threads() - before

    assert [NAME] == names.asked
    assert {f"alpn {None if version == 1 else 'h2'}"} == {name for name in server.seen if name.startswith("alpn")}
    assert more < 10, "no thread for each connection"


def threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0


async def test_an_address_that_refuses_is_passed_over(pki: Pki) -> None:
    """Nobody listens on the first; the second is found once, and not for each connection."""
    names = Names(api_test=["127.0.0.2", "127.0.0.1"])
    with server_at(pki, "127.0.0.1") as server:
        async with exchanging(pki, server.port) as exchange:
            assert {"ok": 30} == await kinds(exchange, 30)
    assert [NAME] == names.asked


async def test_an_address_that_hangs_is_passed_over(pki: Pki) -> None:
    """It is known after a quarter of a second, not after the ten of a connection."""
    names = Names(api_test=["127.0.0.2", "127.0.0.1"])
    with server_at(pki, "127.0.0.1") as server, mute_port("127.0.0.2", server.port):
        async with exchanging(pki, server.port) as exchange:
            began_s = time.monotonic()
            assert {"ok": 30} == await kinds(exchange, 30)
            assert time.monotonic() - began_s < 3
    assert [NAME] == names.asked


async def test_a_server_that_moved_is_followed_by_the_first_call_that_cannot_connect(pki: Pki) -> None:
    """Calls that the old machine had begun with are lost, and never sent again unseen; one that found nobody there
    was not sent, and goes to the new address."""
    names = Names(api_test=["127.0.0.1"])
    old = server_at(pki, "127.0.0.1", answer_s=0.2).__enter__()
    async with exchanging(pki, old.port) as exchange:
        assert {"ok": 20} == await kinds(exchange, 20)
        on_the_way = asyncio.ensure_future(kinds(exchange, 20))
        await wait_until(lambda: old.seen["calls"] == 40)
        old.__exit__()
        with server_at(pki, "127.0.0.2", old.port) as new:
            names.means[NAME] = ["127.0.0.2"]
            lost = await on_the_way
            after = [await kinds(exchange, 20) for _ in range(3)]
            opened = list(exchange._lanes.clients())

    assert {"connection": 20} == lost
    assert [{"ok": 20}] * 3 == after
    assert 60 == new.seen["calls"]
    assert [NAME] * 2 == names.asked, "once more for all"
    assert 1 == len(opened), "the old client is closed"


async def test_a_name_that_means_another_machine_is_followed_and_no_call_is_cut(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old machine may serve its last calls for minutes; its client is closed after the last of them."""
    names = Names(api_test=["127.0.0.1"])
    with server_at(pki, "127.0.0.1", answer_s=0.5) as old, server_at(pki, "127.0.0.2", old.port) as new:
        async with exchanging(pki, old.port) as exchange:
            slow = asyncio.ensure_future(kinds(exchange, 10))
            await wait_until(lambda: old.seen["calls"] == 10)
            names.means[NAME] = ["127.0.0.3", "127.0.0.2"]
            time_passes(monkeypatch, by_s=331)
            beside = asyncio.ensure_future(told(exchange))
            await wait_until(lambda: exchange._renewal is not None)
            await exchange._renewal
            then, meanwhile = await kinds(exchange, 10), len(list(exchange._lanes.clients()))
            assert ({"ok": 10}, TEXTS[0]) == (await slow, await beside)
            await wait_until(lambda: not old._tasks)
            after = len(list(exchange._lanes.clients()))

    assert (11, 10) == (old.seen["calls"], new.seen["calls"]), "who finds the time over does not wait for the resolver"
    assert ({"ok": 10}, 2, 1) == (then, meanwhile, after)
    assert [NAME] * 2 == names.asked


async def test_a_name_that_means_the_same_machine_among_others_changes_nothing(
    pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolvers turn their answers round; each turn would cost all connections."""
    names = Names(api_test=["127.0.0.1"])
    with server_at(pki, "127.0.0.1") as server, server_at(pki, "127.0.0.2", server.port) as other:
        async with exchanging(pki, server.port) as exchange:
            assert TEXTS[0] == await told(exchange)
            names.means[NAME] = ["127.0.0.2", "127.0.0.1"]
            time_passes(monkeypatch, by_s=31)
            assert TEXTS[0] == await told(exchange)
            await exchange._renewal
            assert TEXTS[0] == await told(exchange)

    assert (1, 0) == (server.seen["connections"], other.seen["connections"])
    assert [NAME] * 2 == names.asked


@pytest.mark.parametrize("fault", ["unknown", "silent"])
async def test_a_resolver_that_is_down_fails_no_call_that_needs_none(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Connections stand, and the address is known."""
    names = Names(api_test=["127.0.0.1"])
    with server_at(pki, "127.0.0.1") as server:
        async with exchanging(pki, server.port) as exchange:
            first = await kinds(exchange, 5)
            names.means.clear()
            names.silent = fault == "silent"
            time_passes(monkeypatch, by_s=31)
            async with asyncio.timeout(3):
                later = [await kinds(exchange, 5) for _ in range(5)]

    assert [{"ok": 5}] * 6 == [first, *later]
    assert [NAME] * 2 == names.asked


async def test_through_a_proxy_only_the_proxys_name_is_looked_up(pki: Pki) -> None:
    """The provider's may be the proxy's alone to know, and is nobody else's business."""
    names = Names(proxy_test=["127.0.0.2", "127.0.0.1"])
    with Http1(context=pki.context()) as server, Proxy() as proxy:
        async with exchanging(pki, server.port, proxy=f"http://proxy.test:{proxy.port}") as exchange:
            assert {"ok": 30} == await kinds(exchange, 30)

    assert ["proxy.test"] == names.asked
    assert {f"CONNECT {NAME}:{server.port} HTTP/1.1"} == set(proxy.lines)


async def test_an_unknown_name_is_told_as_ever_and_asked_for_once_by_all(pki: Pki) -> None:
    """The same kind, the same words; nothing was sent, so nothing is billed."""
    names = Names()
    async with exchanging(pki, 9) as exchange:
        failures = await asyncio.gather(*(told(exchange) for _ in range(300)))
        asked = len(names.asked)
        again = await told(exchange)

    for failure in [*failures, again]:
        assert isinstance(failure, CallError)
        assert UNKNOWN_NAME == failure.message
        assert ("connection", False, False) == (failure.kind, failure.reached, failure.is_billing_unknown)
    assert (1, 2) == (asked, len(names.asked))


async def test_a_host_where_nobody_listens_is_told_as_ever(pki: Pki) -> None:
    """Whether the name has one address or two."""
    names = Names(api_test=["127.0.0.1"], two_test=["127.0.0.1", "127.0.0.2"])
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for host in (NAME, "two.test"):
        async with exchanging(pki, port, host=host) as exchange:
            failure = await told(exchange)
        assert isinstance(failure, CallError)
        assert ("connection refused", "connection", False) == (failure.message, failure.kind, failure.reached)
    assert 3 == len(names.asked), "after the failure of a connection the name is asked for again"


async def test_the_certificate_must_be_that_of_the_name(pki: Pki) -> None:
    """An address that was looked up here proves nothing."""
    names = Names(api_test=["127.0.0.1"])
    asked_for: list[str | None] = []
    context = pki.context(pki.misnamed)
    context.sni_callback = lambda _tls, name, _context: asked_for.append(name)
    with Http1(context=context) as server:
        async with exchanging(pki, server.port) as exchange:
            failure = await told(exchange)

    assert isinstance(failure, CallError)
    assert failure.message.startswith("TLS: the certificate is for another host; mend base_url (")
    assert ("connection", False) == (failure.kind, failure.reached)
    assert {NAME} == set(asked_for)
    assert 0 == server.seen["calls"], "no key went to who could not show a certificate"
    assert set(names.asked) == {NAME}


async def test_tls_and_the_host_header_go_by_the_name(pki: Pki) -> None:
    """Providers share machines, and tell their customers apart by it."""
    Names(api_test=["127.0.0.1"])
    asked_for: list[str | None] = []
    context: ssl.SSLContext = pki.context()
    context.sni_callback = lambda _tls, name, _context: asked_for.append(name)
    with Http1(context=context) as server:
        async with exchanging(pki, server.port, host="API.Test") as exchange:
            assert TEXTS[2] == await told(exchange, TEXTS[2])

    assert [NAME] == asked_for
    assert f"{NAME}:{server.port}" == server.headers[0]["host"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_is_not_looked_up(pki: Pki, host: str) -> None:
    """There is nothing to find."""
    names = Names()
    try:
        server = server_at(pki, host).__enter__()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    try:
        async with exchanging(pki, server.port, host=f"[{host}]" if ":" in host else host) as exchange:
            assert {"ok": 10} == await kinds(exchange, 10)
    finally:
        server.__exit__()
    assert [] == names.asked


async def test_a_name_with_an_address_of_ipv6_is_reached_by_it(pki: Pki) -> None:
    """And by the other where IPv6 leads nowhere."""
    Names(api_test=["::1", "127.0.0.2"])
    try:
        server = server_at(pki, "::1").__enter__()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    try:
        async with exchanging(pki, server.port) as exchange:
            assert {"ok": 10} == await kinds(exchange, 10)
            assert "::1" == exchange._ip
    finally:
        server.__exit__()


async def test_a_timeout_has_the_lookup_in_it_and_closing_ends_it(pki: Pki) -> None:
    """A resolver may be silent for half a minute."""
    names = Names(api_test=["127.0.0.1"])
    names.silent = True
    async with exchanging(pki, 9, timeout_s=0.3) as exchange:
        began_s = time.monotonic()
        late = await told(exchange)
        took_s = time.monotonic() - began_s
    async with exchanging(pki, 9) as exchange:
        waiting = asyncio.ensure_future(told(exchange))
        await wait_until(lambda: len(names.asked) == 2)
    ended = await asyncio.wait_for(waiting, 1)

    assert isinstance(late, CallError)
    assert isinstance(ended, CallError)
    assert ("timeout", False, False) == (late.kind, late.reached, late.is_billing_unknown)
    assert took_s < 0.8
    assert ("connection", False) == (ended.kind, ended.reached)


async def test_what_the_lookup_took_is_not_given_to_the_call_once_more(pki: Pki) -> None:
    """From the beginning of the attempt to the last byte of its answer."""
    names = Names(api_test=["127.0.0.1"])
    names.answer_s = 0.6
    with server_at(pki, "127.0.0.1", answer_s=9) as server:
        async with exchanging(pki, server.port, timeout_s=1.0) as exchange:
            began_s = time.monotonic()
            late = await told(exchange)
            took_s = time.monotonic() - began_s

    assert isinstance(late, CallError)
    assert ("timeout", True) == (late.kind, late.reached)
    assert 0.9 < took_s < 1.4


async def test_a_machine_that_fell_silent_is_left_though_a_short_timeout_has_no_time_to_look(pki: Pki) -> None:
    """One call waits for it in vain and is late; those after it go to the other address."""
    Names(api_test=["127.0.0.1", "127.0.0.2"])
    old = server_at(pki, "127.0.0.1").__enter__()
    async with exchanging(pki, old.port, timeout_s=1.0) as exchange:
        assert TEXTS[0] == await told(exchange)
        old.__exit__()
        with mute_port("127.0.0.1", old.port), server_at(pki, "127.0.0.2", old.port):
            lost = await told(exchange)
            answers = [await told(exchange) for _ in range(3)]

    assert isinstance(lost, CallError)
    assert ("timeout", False) == (lost.kind, lost.reached)
    assert [TEXTS[0]] * 2 == answers[1:]


async def wait_until(is_so) -> None:
    async with asyncio.timeout(3):
        while not is_so():
            await asyncio.sleep(0.01)
