"""The keep-alive pool against servers that close, stall, lie and send what nobody asked for; on both event loops."""

import asyncio
import gzip
import inspect
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop
from networks import mute_port
from raw_server import raw_server, reset, response

from batcher.providers.failures import BrokenBody, StatusFailed
from batcher.providers.http1 import CONNECTS_MAX, Http1Client
from batcher.providers.http1_connection import Connection
from batcher.providers.http1_errors import (
    AnswerTimeout,
    BrokenHead,
    ConnectFailed,
    ConnectionClosed,
    ConnectTimedOut,
)
from batcher.testing.clock import settle

Behave = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


def on_both_loops(test):
    """Run an async test on the event loop of the standard library, and on uvloop."""

    def run(make_loop, **arguments) -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(test(**arguments))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    parameters = inspect.signature(test).parameters.values()
    make_loop = inspect.Parameter("make_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([make_loop, *parameters])
    run.pytestmark = list(getattr(test, "pytestmark", []))
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("make_loop", loops, ids=["asyncio", "uvloop"])(run)


class Server:
    """A raw server, a client of it, and what the server saw: the bodies, and by which connection each came."""

    def __init__(self, behave: Behave, **options: float) -> None:
        self._behave, self._options = behave, options
        self.bodies: list[bytes] = []
        self.heads: list[bytes] = []
        self.connections: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Server":
        async def behave(writer: asyncio.StreamWriter, request: bytes) -> None:
            head, _, body = request.partition(b"\r\n\r\n")
            self.heads.append(head)
            self.bodies.append(body)
            self.connections.append(writer.get_extra_info("peername")[1])
            self.writers.append(writer)
            await self._behave(writer, body)

        self._server = raw_server(behave)
        self.url = await self._server.__aenter__() + "/chat/completions"
        self.client = client(self.url, **self._options)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.client.close()
        await self._server.__aexit__(*exc)

    async def post(self, body: bytes = b"{}") -> bytes:
        return (await self.client.post(body)).body


def client(url: str, *, timeout_s: float = 5.0, connect_timeout_s: float = 5.0, **headers: str) -> Http1Client:
    return Http1Client(
        url, headers=headers, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s,
        body_bytes_max=2**20, error_bytes_max=1000,
    )  # fmt: skip


async def echo(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(response(body))


def writes(wire: bytes, *, then_close: bool = False) -> Behave:
    async def behave(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(wire)
        if then_close:
            await writer.drain()
            writer.close()

    return behave


async def silence(writer: asyncio.StreamWriter, body: bytes) -> None: ...


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something on the other side of a socket; the test's own timeout bounds it."""
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.001)


@on_both_loops
async def test_a_request_is_what_it_should_be_byte_for_byte() -> None:
    body = "ดี tốt 好 🙂".encode()
    async with Server(echo) as server:
        host = server.url.split("/")[2]
        one = client(server.url + "?v=1", Authorization="Bearer x", **{"Content-Type": "application/json"})
        assert body == (await one.post(body)).body
        await one.close()

    expected = (
        "POST /v1/chat/completions?v=1 HTTP/1.1\r\nauthorization: Bearer x\r\ncontent-type: application/json\r\n"
        f"host: {host}\r\naccept-encoding: gzip, deflate, zstd\r\ncontent-length: {len(body)}"
    )
    assert [(expected.encode(), body)] == list(zip(server.heads, server.bodies, strict=True))


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\ny", "a\0", "x-好"])
def test_nothing_can_be_smuggled_into_a_head(value: str) -> None:
    """And what may be a key is not shown."""
    with pytest.raises(ValueError, match="authorization") as caught:
        client("http://127.0.0.1/v1", authorization=f"Bearer sk-secret{value}")
    assert "sk-secret" not in str(caught.value)
    for url in (f"http://127.0.0.1/{value}", f"http://{value}/", "https://127.0.0.1/", "http://a:b@127.0.0.1/"):
        with pytest.raises(ValueError, match="URL"):
            client(url)
    with pytest.raises(ValueError, match="name"):
        client("http://127.0.0.1/v1", **{f"x-{value}": "1"})


@on_both_loops
async def test_connections_are_kept_and_the_last_one_used_is_used_next() -> None:
    """Warm ones first: what a burst took more is left alone, and closed when nobody wants it."""
    async with Server(echo) as server:
        await asyncio.gather(*(server.post() for _ in range(3)))
        first_three = list(server.connections)
        for _ in range(5):
            await server.post()

    assert 3 == len(set(first_three))
    assert 1 == len(set(server.connections[3:]))
    assert set(server.connections[3:]) < set(first_three)


@on_both_loops
async def test_each_of_many_calls_gets_its_own_answer() -> None:
    """With bodies of all sizes; on new connections and on used ones."""
    # Fewer than the server's queue of new connections holds, which is 100.
    bodies = [(b"%d " % number) * (1 + number * 997 % 40_000) for number in range(90)]
    async with Server(echo, timeout_s=30) as server:
        for _ in range(2):
            assert bodies == await asyncio.gather(*(server.post(body) for body in bodies))


@on_both_loops
async def test_a_large_body_arrives_whole_and_compressed_answers_are_read() -> None:
    body = bytes(range(256)) * 4000

    async def packed(writer: asyncio.StreamWriter, asked: bytes) -> None:
        writer.write(response(gzip.compress(asked), headers="Content-Encoding: GZIP\r\n"))

    async with Server(packed) as server:
        assert [body, b"x", body] == [await server.post(asked) for asked in (body, b"x", body)]
    assert 1 == len(set(server.connections))


CLOSING = {
    "connection: close": response(b"a", headers="connection: close\r\n"),
    "HTTP/1.0": response(b"a").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "until closed": b"HTTP/1.1 200 OK\r\n\r\na",
    "bytes after the body": response(b"a") + b"more",
    "a second response": response(b"a") + response(b"smuggled"),
}


@on_both_loops
@pytest.mark.parametrize("how", CLOSING)
async def test_an_answer_that_ends_its_connection_is_kept_and_the_next_takes_another(how: str) -> None:
    async with Server(writes(CLOSING[how], then_close=how == "until closed")) as server:
        assert [b"a", b"a"] == [await server.post(), await server.post()]
    assert 2 == len(set(server.connections))


@on_both_loops
async def test_what_comes_between_two_answers_is_nobodys_answer() -> None:
    """A response that was not asked for must not become the next row's."""
    async with Server(echo) as server:
        await server.post(b"a")
        server.writers[0].write(response(b"smuggled"))
        await until(server.writers[0].transport.is_closing)
        assert b"b" == await server.post(b"b")
    assert 2 == len(set(server.connections))


@on_both_loops
async def test_a_connection_that_the_server_closed_is_not_asked_again() -> None:
    """Servers close what was idle for a few seconds: no call may fail by it."""
    async with Server(echo) as server:
        for number in range(3):
            await server.post(b"%d" % number)
            server.writers[-1].close()
            await settle()
            await until(lambda: not server.client._free)
    assert ([b"0", b"1", b"2"], 3) == (server.bodies, len(set(server.connections)))


@on_both_loops
async def test_the_kernel_knows_of_a_close_before_the_loop_does() -> None:
    """A connection that was free for a while is looked at once more; a busy loop may not have read its end."""
    for end in (socket.socket.close, lambda peer: peer.send(b"HTTP/1.1 408 Timeout\r\n\r\n")):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        owner = client("http://127.0.0.1/")
        owner._loop = asyncio.get_running_loop()
        _, connection = await owner._loop.create_connection(
            lambda: Connection(owner, body_bytes_max=9, error_bytes_max=9),  # noqa: B023  # used at once
            sock=ours,
        )
        assert connection.is_quiet()
        end(peer)
        assert not connection.is_quiet()
        await owner.close()
        peer.close()


@on_both_loops
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_request_is_never_sent_twice(how: str) -> None:
    """On a fresh connection and on one that served before: the request may have been served, and billed."""

    async def behave(writer: asyncio.StreamWriter, body: bytes) -> None:
        if body == b"good":
            writer.write(response(body))
        else:
            (reset if how == "reset" else asyncio.StreamWriter.close)(writer)

    async with Server(behave) as server:
        for body in (b"fresh", b"good", b"used"):
            if body == b"good":
                await server.post(body)
                continue
            with pytest.raises(ConnectionClosed):
                await server.post(body)
    assert [b"fresh", b"good", b"used"] == server.bodies


@on_both_loops
@pytest.mark.parametrize(
    ("wire", "received"),
    [
        (b"HTTP/1.1 200 OK\r\ncont", None),
        (b"220 mail\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (response(b"abc", length=9), b"abc"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"abc",
        ),
        (response(gzip.compress(b"abc"), headers="content-encoding: gzip\r\n", length=99), b"abc"),
        (response(b"abc", headers="content-encoding: br\r\n"), b""),
        (response(b"a" * (2**20 + 1)), b""),
    ],
    ids=["head cut", "mail", "only 100", "cut", "chunks cut", "gzip cut", "unknown coding", "too large"],
)
async def test_a_broken_answer_has_its_kind_and_costs_its_connection(wire: bytes, received: bytes | None) -> None:
    wires = [wire, response(b"good")]

    async def behave(writer: asyncio.StreamWriter, body: bytes) -> None:
        is_cut = len(wires) == 2 and received != b""
        writer.write(wires.pop(0))
        if is_cut:
            await writer.drain()
            writer.close()

    async with Server(behave) as server:
        with pytest.raises(BrokenHead if received is None else BrokenBody) as caught:
            await server.post()
        assert b"good" == await server.post()
    if received is not None:
        assert ("application/json", received) == (caught.value.headers["Content-Type"], caught.value.received)


@on_both_loops
async def test_a_cancelled_call_takes_its_connection_along() -> None:
    """Its answer may still come: it must never be the next row's."""
    late = asyncio.Event()

    async def behave(writer: asyncio.StreamWriter, body: bytes) -> None:
        if body == b"slow":
            await late.wait()
        writer.write(response(body))

    async with Server(behave) as server:
        assert b"warm" == await server.post(b"warm")
        slow = asyncio.ensure_future(server.post(b"slow"))
        await until(lambda: b"slow" in server.bodies)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await until(lambda: not server.client._all)
        late.set()
        assert [b"next", b"last"] == [await server.post(b"next"), await server.post(b"last")]
        await until(lambda: len(server.client._all) == 1)
    warm, slow_one, following, last = server.connections
    assert (warm, following, False) == (slow_one, last, warm == last)


@on_both_loops
async def test_a_call_cancelled_after_its_answer_leaves_the_connection_to_the_next() -> None:
    """Between the answer and the caller's turn the connection may serve another already."""
    async with Server(echo) as server:
        await server.post()
        (connection,) = server.client._all
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        server.client._take(0.0)
        connection.ask(server.client._head, b"first", first, loop.time() + 5)
        connection.send()
        await first
        server.client._take(0.0)
        connection.ask(server.client._head, b"second", second, loop.time() + 5)
        connection.send()
        connection.give_up(first)
        assert b"second" == (await second).body


@on_both_loops
async def test_what_comes_before_the_request_is_sent_is_not_its_answer() -> None:
    """Requests of one turn of the loop go out together at its end: an answer that was late until then is another's."""
    async with Server(echo) as server:
        await server.post()
        (writer,) = server.writers
        writer.write(response(b"somebody else's"))
        await writer.drain()
        (connection,) = server.client._all
        answer = asyncio.get_running_loop().create_future()
        server.client._take(asyncio.get_running_loop().time())
        connection.ask(server.client._head, b"mine", answer, asyncio.get_running_loop().time() + 5)
        with pytest.raises(ConnectFailed):
            await answer
        connection.send()
        assert b"next" == await server.post(b"next")
    assert [b"{}", b"next"] == server.bodies


@on_both_loops
async def test_a_connection_that_closes_before_the_request_is_sent_has_sent_nothing() -> None:
    """So nothing can be billed for it."""
    async with Server(echo) as server:
        await server.post()
        (connection,) = server.client._all
        answer = asyncio.get_running_loop().create_future()
        server.client._take(asyncio.get_running_loop().time())
        connection.ask(server.client._head, b"never", answer, asyncio.get_running_loop().time() + 5)
        connection._transport.abort()
        connection.send()
        with pytest.raises(ConnectFailed):
            await answer
        assert b"next" == await server.post(b"next")
    assert [b"{}", b"next"] == server.bodies


@on_both_loops
async def test_a_call_given_up_before_it_is_sent_is_never_sent() -> None:
    async with Server(echo) as server:
        await server.post()
        (connection,) = server.client._all
        answer = asyncio.get_running_loop().create_future()
        server.client._take(asyncio.get_running_loop().time())
        connection.ask(server.client._head, b"never", answer, asyncio.get_running_loop().time() + 5)
        connection.give_up(answer)
        connection.send()
        assert b"next" == await server.post(b"next")
    assert [b"{}", b"next"] == server.bodies


@on_both_loops
async def test_many_calls_of_one_turn_of_the_loop_are_all_sent() -> None:
    """More than go out together, and bodies that are too large to be joined to their heads."""
    async with Server(echo) as server:
        bodies = [b"%d" % number * (1 if number % 7 else 100_000) for number in range(100)]
        for _ in range(2):
            assert bodies == await asyncio.gather(*map(server.post, bodies))


@on_both_loops
async def test_calls_fail_when_the_client_is_closed_and_nothing_is_left() -> None:
    async with Server(silence) as server:
        calls = [asyncio.ensure_future(server.client.post(b"{}")) for _ in range(20)]
        await until(lambda: len(server.bodies) == 20)
        await asyncio.wait_for(server.client.close(), 1)
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [ConnectionClosed] * 20 == [type(error) for error in errors]
        assert (0, 0) == (len(server.client._all), len(server.client._free))
        with pytest.raises(ConnectFailed):
            await server.post()
        assert 20 == len(server.bodies)


@on_both_loops
@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", response(b"a", length=9)]
)
async def test_no_whole_answer_in_time_is_a_timeout(start: bytes) -> None:
    async with Server(writes(start), timeout_s=0.2) as server:
        started_s = asyncio.get_running_loop().time()
        with pytest.raises(AnswerTimeout):
            await server.post()
        took_s = asyncio.get_running_loop().time() - started_s
        assert not server.client._all or next(iter(server.client._all)).is_free
    assert 0.19 < took_s < 1.0


@on_both_loops
async def test_the_status_of_an_error_is_worth_more_than_its_end() -> None:
    async with Server(writes(response(b"slow", status="429 X", length=99)), timeout_s=0.2) as server:
        with pytest.raises(StatusFailed) as given:
            await server.post()
    assert (429, b"slow") == (given.value.status, given.value.body)


@on_both_loops
async def test_an_answer_that_lay_in_the_kernel_is_no_timeout() -> None:
    """Where the loop was held up past the deadline, what came in time is read before it is too late."""

    async def behave(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(response(body))
        (connection,) = server.client._all
        connection.until_s = asyncio.get_running_loop().time()
        server.client._sweep()

    async with Server(behave) as server:
        assert b"in time" == await server.post(b"in time")


@on_both_loops
async def test_a_free_connection_is_closed_after_a_minute_by_the_one_timer() -> None:
    async with Server(echo) as server:
        await asyncio.gather(*(server.post() for _ in range(5)))
        assert 5 == len(server.client._all)
        now_s = asyncio.get_running_loop().time()
        assert all(59 < connection.until_s - now_s < 61 for connection in server.client._all)
        for connection in list(server.client._all)[:4]:
            connection.until_s = now_s
        server.client._sweep()
        await until(lambda: len(server.client._all) == 1)
        assert b"{}" == await server.post()
    assert 5 == len(set(server.connections))


@on_both_loops
async def test_a_refused_connection_and_an_unknown_name_are_told_and_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    for url, words in ((f"http://127.0.0.1:{port}/", "refused|Connect call failed"), ("http://no.invalid/", "Errno")):
        one = client(url)
        with pytest.raises(ConnectFailed, match=words):
            await one.post(b"{}")
        await one.close()


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a server that takes no more connections and refuses none."""
    with mute_port("127.0.0.1") as port:
        yield port


@on_both_loops
async def test_connecting_has_a_deadline_and_ends_with_the_client(full: int) -> None:
    quick = client(f"http://127.0.0.1:{full}/", connect_timeout_s=0.1)
    with pytest.raises(ConnectTimedOut):
        await quick.post(b"{}")
    await quick.close()

    one = client(f"http://127.0.0.1:{full}/")
    calls = [asyncio.ensure_future(one.post(b"{}")) for _ in range(300)]
    await until(lambda: one._turns.waiting > 0)
    await settle()
    await asyncio.wait_for(one.close(), 1)
    errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2)
    assert {ConnectFailed} == {type(error) for error in errors}


@on_both_loops
async def test_a_burst_does_not_overrun_the_server(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many connections are made at once, and a call that finds one free meanwhile makes none."""
    made = []
    dial = Http1Client._dial
    monkeypatch.setattr(Http1Client, "_dial", lambda self, loop: made.append(1) or dial(self, loop))
    one = client(f"http://127.0.0.1:{full}/")
    calls = [asyncio.ensure_future(one.post(b"{}")) for _ in range(1000)]
    await until(lambda: len(made) >= CONNECTS_MAX)
    await settle()
    assert CONNECTS_MAX == len(made)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert (0, 0) == (one._turns.taken, one._turns.waiting)
    await one.close()


@on_both_loops
async def test_a_name_is_looked_up_once_and_again_when_its_machine_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several addresses one that answers is enough."""
    asked = []
    addresses = ["127.0.0.2", "127.0.0.1"]

    async def look_up(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    async with Server(echo) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        one = client(f"http://fleet.example:{port}/")
        one._loop = SimpleLoop(asyncio.get_running_loop(), look_up)
        assert [b"a"] * 20 == [one_.body for one_ in await asyncio.gather(*(one.post(b"a") for _ in range(20)))]
        assert ["fleet.example"] == asked

        for connection in list(one._all):
            connection.drop()
        await until(lambda: not one._all)
        addresses[:] = ["127.0.0.3"]
        one._addresses._found = [address for address in one._addresses._found if address[4][0] != "127.0.0.1"]
        with pytest.raises(ConnectFailed):
            await one.post(b"a")
        addresses[:] = ["127.0.0.1"]
        assert b"a" == (await one.post(b"a")).body
        assert ["fleet.example"] * 2 == asked
        await one.close()


@on_both_loops
async def test_the_address_that_was_reached_is_tried_first_and_the_others_when_it_is_gone() -> None:
    """`localhost` mostly has two addresses, and a server on one of them."""

    async def look_up(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(writer.get_extra_info("sockname")[0].encode(), headers="connection: close\r\n"))

    first = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    one = client(f"http://fleet.example:{port}/")
    one._loop = SimpleLoop(asyncio.get_running_loop(), look_up)
    assert [b"127.0.0.1"] * 3 == [(await one.post(b"{}")).body for _ in range(3)]
    assert ["127.0.0.1", "127.0.0.2"] == [address[4][0] for address in one._addresses._found]

    first.close()
    await first.wait_closed()
    second = await asyncio.start_server(answer, "127.0.0.2", port)
    assert [b"127.0.0.2"] * 3 == [(await one.post(b"{}")).body for _ in range(3)]
    await one.close()
    second.close()


@on_both_loops
@pytest.mark.parametrize("others", [[], ["127.0.0.2"]])
async def test_requests_leave_at_once_and_a_peer_that_vanishes_is_noticed(others: list[str]) -> None:
    """Also where the name has several addresses, whose connections are made in another way."""

    async def look_up(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in [*others, "127.0.0.1"]]

    async with Server(echo) as server:
        one = client(f"http://fleet.example:{server.url.split(':')[2]}")
        one._loop = SimpleLoop(asyncio.get_running_loop(), look_up)
        await one.post(b"a")
        (connection,) = one._all
        for level, option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)):
            assert connection.socket.getsockopt(level, option)
        await one.close()


class SimpleLoop:
    """The running loop with a resolver of the test's."""

    def __init__(self, loop, look_up) -> None:
        self._loop, self.getaddrinfo = loop, look_up

    def __getattr__(self, name):
        return getattr(self._loop, name)


@on_both_loops
async def test_an_answer_that_overtakes_its_request_costs_the_connection() -> None:
    """A server that refuses a body it has not read leaves it in the way of the next request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(b"too long", status="413 X"))
        await asyncio.Event().wait()

    async with Server(silence) as server:
        # 64 MB are more than both sockets hold.
        waiting = await asyncio.start_server(refuse, "127.0.0.1", 0)
        one = client(f"http://127.0.0.1:{waiting.sockets[0].getsockname()[1]}/")
        with pytest.raises(StatusFailed) as given:
            await one.post(bytes(64 * 2**20))
        assert (413, b"too long", 0) == (given.value.status, given.value.body, len(one._free))
        await one.close()
        waiting.close()
    assert not server.bodies
