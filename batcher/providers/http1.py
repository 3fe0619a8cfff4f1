"""HTTP/1.1 client for one address without TLS: a keep-alive pool over `asyncio.Protocol`.

For the fleets that people run themselves, where the client is what costs: measured against
pyreqwest it takes half the CPU of a request and a fraction of the memory of a connection (see
`benchmarks/http_clients.py`). What needs TLS, HTTP/2 or a proxy is not its matter.

It promises: a request is written once, never a second time by itself; an attempt ends by its deadline, connecting
included; no more is read of a response than its bound; a cancelled call takes its connection along, so no answer
reaches another's question. The pool grows to as many connections as there are calls at once, the one
used last is used next, and one timer for all of them closes what was free for 60 s and ends what is late.
"""

import asyncio
import math
import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from batcher.providers.addresses import Addresses, is_whole
from batcher.providers.failures import BrokenBody, StatusFailed
from batcher.providers.http1_connection import Connection
from batcher.providers.http1_content import ACCEPT_ENCODING, decode
from batcher.providers.http1_errors import ConnectFailed, ConnectTimedOut
from batcher.providers.http1_parse import Http1Response, too_large
from batcher.providers.http1_turns import Turns

# So many connections are made at once. A server's queue of new ones holds a hundred to a few thousand; where it
# overflows, Linux lets a client wait for a second, or resets what it had taken for connected.
CONNECTS_MAX = 128
# Where so many requests began in a turn of the event loop, those of the next are sent together, up to so many at a
# time: each costs the kernel less, for the server need not be woken for every one. Fewer go at once.
_BUSY, _BURST = 8, 32
_FREE_S = 60.0
# Many servers close after 5 s: of a connection that was free this long the kernel is asked first.
_FRESH_S = 1.0
# A peer that vanished is known after 30 s, by what it does not acknowledge.
_KEEPALIVE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_COUNT = 15, 5, 3
# Options that a system lacks are left. That requests are sent at once is the event loop's own choice.
_OPTIONS = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        # macOS has this under another name.
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", _KEEPALIVE_S),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _KEEPALIVE_EVERY_S),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _KEEPALIVE_COUNT),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", (_KEEPALIVE_S + _KEEPALIVE_EVERY_S * _KEEPALIVE_COUNT) * 1000),
    )
    if hasattr(socket, name)
)
# Larger bodies are decompressed beside the loop.
_INLINE_BYTES_MAX = 16 * 2**10

_UNREADABLE = "the response cannot be decompressed"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Http1Client:
    """Posts bodies to one address.

    Args:
        url: `http://`, in ASCII, without user or password; no part of it is changed.
        headers: Sent with every request, beside host, content-length and accept-encoding, which are the client's.
        timeout_s: From the start of an attempt to the last byte of its answer; kept to a twentieth, or to 0.5 s.
        connect_timeout_s: For the connection alone.
        body_bytes_max: Of a 200's body, both on the wire and decompressed.
        error_bytes_max: Of any other body; what comes after that is left out.

    Raises:
        ValueError: The URL or a header is none. Values of headers are not shown: they may be secret.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        connect_timeout_s: float,
        body_bytes_max: int,
        error_bytes_max: int,
    ) -> None:
        if not is_plain_url(url):
            raise ValueError("the URL must be http://, ASCII, and without a user")
        parts = urlsplit(url)
        self._addresses = Addresses(parts.hostname or "", parts.port or 80)
        self._head = _request_head(parts.netloc, parts.path or "/", parts.query, headers)
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s
        self._body_bytes_max, self._error_bytes_max = body_bytes_max, error_bytes_max
        self._tick_s = min(0.5, timeout_s / 20)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._all: set[Connection] = set()
        # A dict keeps order: the last one in is the first one out, and any can leave at once.
        self._free: dict[Connection, None] = {}
        self._turns = Turns(CONNECTS_MAX)
        self._unsent: list[Connection] = []
        self._asked, self._is_busy = 0, False
        self._connecting: set[asyncio.Timeout] = set()
        self._is_closed = False
        self._all_lost: asyncio.Future[None] | None = None

    async def post(self, body: bytes) -> Http1Response:
        """See `Exchange`; of what is raised without a response, the class says what the server can have seen."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        started_s = loop.time()
        connection = self._take(started_s)
        if connection is None:
            connection = await self._connect(loop, started_s)
        answer: asyncio.Future[Http1Response] = loop.create_future()
        connection.ask(self._head, body, answer, started_s + self._timeout_s)
        if not self._asked:
            loop.call_soon(self._end_turn)
        self._asked += 1
        if self._is_busy:
            self._unsent.append(connection)
            if len(self._unsent) == _BURST:
                self._send()
        else:
            connection.send()
        try:
            response = await answer
        except asyncio.CancelledError:
            connection.give_up(answer)
            raise
        if response.fault is not None or response.is_encoded:
            response = await self._finished(response)
        if response.status == 200:
            return response
        raise StatusFailed(response.status, response.headers, response.body)

    async def close(self) -> None:
        """Close all connections; calls that wait fail."""
        self._is_closed = True
        self._addresses.close()
        if self._loop is None:
            return
        self._turns.end_late(math.inf)
        for timer in self._connecting:
            if not timer.expired():
                timer.reschedule(self._loop.time())
        if self._all:
            self._all_lost = self._loop.create_future()
            for connection in list(self._all):
                connection.fail("the client was closed")
            await self._all_lost
        if self._sweeper is not None:
            self._sweeper.cancel()

    # What connections tell; see `http1_connection.Owner`.

    def made(self, connection: Connection) -> None:
        """A connection stands."""
        assert self._loop is not None  # it was made by it
        connection.until_s = self._loop.time() + _FREE_S
        self._all.add(connection)
        if self._sweeper is None:
            self._plan_sweep()

    def freed(self, connection: Connection) -> None:
        """A connection can be used again."""
        assert self._loop is not None  # a connection was made by it
        connection.until_s = self._loop.time() + _FREE_S
        if not self._turns.offer(connection):
            self._free[connection] = None

    def unfreed(self, connection: Connection) -> None:
        """A connection is not to be used again."""
        self._free.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        """A connection is closed."""
        self._free.pop(connection, None)
        self._all.discard(connection)
        if self._all_lost is not None and not self._all and not self._all_lost.done():
            self._all_lost.set_result(None)

    def _end_turn(self) -> None:
        self._is_busy = self._asked >= _BUSY
        self._asked = 0
        self._send()

    def _send(self) -> None:
        """Send what was asked since the last time."""
        unsent, self._unsent = self._unsent, []
        for connection in unsent:
            connection.send()

    def _take(self, now_s: float) -> Connection | None:
        free = self._free
        while free:
            connection, _ = free.popitem()
            is_fresh = now_s < connection.until_s - _FREE_S + _FRESH_S
            if connection.is_open and (is_fresh or connection.is_quiet()):
                return connection
            connection.drop()
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, started_s: float) -> Connection:
        """A connection for a call that found none free: a new one, or one that became free while it waited."""
        until_s = started_s + self._timeout_s
        connection = None
        if self._sweeper is None:
            self._plan_sweep()
        try:
            connection = await self._turns.take(until_s)
            if connection is None:
                try:
                    if not self._is_closed:
                        connection = await self._dial_in_time(loop, until_s)
                finally:
                    self._turns.give_back()
        except TimeoutError as error:
            # Closing the client ends these waits too.
            if not self._is_closed:
                self._addresses.forget()
                raise ConnectTimedOut("no connection in time") from error
        except OSError as error:
            self._addresses.forget()
            raise ConnectFailed(str(error)) from error
        if self._is_closed or connection is None:
            raise ConnectFailed("the client is closed")
        if not connection.is_open:
            raise ConnectFailed("the server closed the connection at once")
        return connection

    async def _dial_in_time(self, loop: asyncio.AbstractEventLoop, until_s: float) -> Connection:
        async with asyncio.timeout_at(min(until_s, loop.time() + self._connect_timeout_s)) as timer:
            self._connecting.add(timer)
            try:
                return await self._dial(loop)
            finally:
                self._connecting.discard(timer)

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> Connection:
        addresses = await self._addresses.look_up(loop)
        if is_whole(addresses[0]) and (len(addresses) == 1 or addresses[0] == self._addresses.reached):
            try:
                # Half the CPU of a socket of our own: with 10,000 calls in flight, half a second.
                _, connection = await loop.create_connection(self._new_connection, *addresses[0][4][:2])
            except OSError:
                if len(addresses) == 1:
                    raise
                self._addresses.reached, addresses = None, addresses[1:]
            else:
                _set_options(connection.socket)
                return connection
        sock = await self._addresses.race(loop, addresses)
        try:
            _set_options(sock)
            _, connection = await loop.create_connection(self._new_connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    def _new_connection(self) -> Connection:
        return Connection(self, body_bytes_max=self._body_bytes_max, error_bytes_max=self._error_bytes_max)

    async def _finished(self, response: Http1Response) -> Http1Response:
        """The response decompressed; one that is not whole is an error where its status is none."""
        is_good = response.status == 200
        bytes_max = self._body_bytes_max if is_good else self._error_bytes_max
        body, fault = response.body, response.fault
        encoding = response.headers.get("content-encoding", "")
        if len(body) <= _INLINE_BYTES_MAX:
            decoded = decode(body, encoding, bytes_max)
        else:
            decoded = await asyncio.to_thread(decode, body, encoding, bytes_max)
        body = decoded.content
        if fault is None and not decoded.is_whole:
            fault = _UNREADABLE
        if is_good and len(body) > bytes_max:
            body, fault = b"", too_large(bytes_max)
        if is_good and fault is not None:
            raise BrokenBody(fault, headers=response.headers, received=body)
        response.body = body[:bytes_max]
        response.fault = fault
        return response

    def _plan_sweep(self) -> None:
        assert self._loop is not None  # a connection was made by it
        self._sweeper = self._loop.call_later(self._tick_s, self._sweep)

    def _sweep(self) -> None:
        """Look at every connection; one pass over 10,000 of them takes about a millisecond."""
        assert self._loop is not None  # a timer called
        now_s = self._loop.time()
        self._turns.end_late(now_s)
        late = [connection for connection in self._all if connection.until_s <= now_s]
        if late:
            # Where the loop was held up, an answer may lie unread in the kernel: it is read before it is too late.
            self._sweeper = self._loop.call_later(0.001, self._end_late, late)
        elif self._all or self._turns.taken:
            self._plan_sweep()
        else:
            self._sweeper = None

    def _end_late(self, late: list[Connection]) -> None:
        assert self._loop is not None  # a timer called
        now_s = self._loop.time()
        for connection in late:
            if connection.until_s <= now_s and connection in self._all:
                if connection.is_free:
                    connection.drop()
                else:
                    connection.expire()
        self._plan_sweep()


def is_plain_url(url: str) -> bool:
    """Whether `Http1Client` takes the URL: `http://`, visible ASCII, a host, a port if any, no user."""
    if not all("!" <= char <= "~" for char in url):
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def _request_head(netloc: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
    """All of a request up to the number of its content-length."""
    own = {"host": netloc.removesuffix(":80"), "accept-encoding": ACCEPT_ENCODING}
    sent = {name.lower(): value for name, value in headers.items() if name.lower() != "content-length"} | own
    for name, value in sent.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the value of the header {name} has a character that headers cannot carry")
    target = f"{path}?{query}" if query else path
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value.strip()}" for name, value in sent.items())]
    return "\r\n".join([*lines, "content-length: "]).encode("latin-1")


def _set_options(of: socket.socket) -> None:
    if of.fileno() < 0:
        return
    # An event loop's own kind of socket makes a real one for each option: a tenth of what connecting costs.
    sock = socket.socket(of.family, of.type, of.proto, fileno=of.fileno())
    try:
        for level, option, value in _OPTIONS:
            sock.setsockopt(level, option, value)
    finally:
        sock.detach()
