"""The fast client: chat completions through pyreqwest, and what its exceptions stand for.

Left to itself it looks the host's name up for each new connection, in up to 512 threads. So it is told the one address
to connect to, and what `addresses.py` knows decides which: before the first call, every 30 s beside the calls, and
where a connection cannot be made. TLS goes on by the host's name.
"""

import asyncio
import math
import re
import socket
from collections.abc import Mapping
from datetime import timedelta

import pyreqwest.exceptions as fast
from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import Url
from pyreqwest.response import Response

from batcher.providers.addresses import KEPT_S, Addresses, is_literal, is_whole
from batcher.providers.exchange import (
    BODY_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    ERROR_BYTES_MAX,
    TOO_LARGE,
    USER_AGENT,
    Answered,
    Received,
    chat_headers,
)
from batcher.providers.failures import BrokenBody, StatusFailed, TransportFailed, causes_of
from batcher.providers.lanes import STREAMS_MAX, Lane, Lanes
from batcher.providers.network import DIRECT, Network
from batcher.providers.network_tls import with_network

# A connection that a proxy dropped silently is found by the kernel, not by waiting out the timeout.
_TCP_KEEPALIVE_S = 15.0
_POOL_IDLE_S = 60.0
_UNBEGUN_TRIES_MAX = 5
# Of a short timeout, connecting gets less than all: only so is it told from an answer that does not come.
_CONNECT_SHARE = 0.8

# Reading the head of a response before its body keeps what came of a body that is cut, and costs 15 % more a call
# (4 µs, measured on loopback). So it is done for a client's first calls, and for a while after a body was cut.
# The first cut after a long good time loses its usage, and the failure says that it is not known.
_CAREFUL_CALLS_FIRST = 1000
_CAREFUL_CALLS_MORE = 10_000

# What the h2 library says of GOAWAY without an error, to the streams above the last one that the server took.
_GOING_AWAY = "connection error received: not a result of an error"
# How pyreqwest speaks of a connection that was never made, and of an answer whose head is none.
_CONNECTING = "client error (Connect)"
_BROKEN_HEAD = re.compile(r"without sending complete|receive buffer too long", re.IGNORECASE)


class PyreqwestExchange:
    """Chat completions through pyreqwest.

    Args:
        base_url: The address up to and with /v1.
        api_key: None where the provider wants none.
        timeout_s: From connecting to the last byte of the answer.
        network: The way to the address.
    """

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float, network: Network = DIRECT) -> None:
        self._headers, self._timeout_s, self._network = chat_headers(api_key), timeout_s, network
        self._url = Url(base_url.rstrip("/") + "/chat/completions")
        self._careful_calls = _CAREFUL_CALLS_FIRST
        self._has_tls = base_url.startswith("https:")
        # Who is connected to; the provider's name may be the proxy's alone to know.
        nearest = self._url if network.proxy is None else Url(network.proxy.url)
        self._host, self._port = nearest.host_str or "", nearest.port_or_known_default or 0
        self._connect_s = min(CONNECT_TIMEOUT_S, timeout_s * _CONNECT_SHARE)
        self._addresses = Addresses(self._host, self._port)
        self._ip: str | None = None
        self._known_until_s = math.inf if is_literal(self._host.strip("[]")) else -math.inf
        self._renewal: asyncio.Task[None] | None = None
        self._lanes = Lanes(self._open_client, calls_max=STREAMS_MAX if self._has_tls else None)

    def _open_client(self) -> Client:
        builder = (
            ClientBuilder()
            .timeout(timedelta(seconds=self._timeout_s))
            .connect_timeout(timedelta(seconds=self._connect_s))
            .follow_redirects(False)
            .referer(False)
            .tcp_keepalive(timedelta(seconds=_TCP_KEEPALIVE_S))
            .pool_idle_timeout(timedelta(seconds=_POOL_IDLE_S))
            .user_agent(USER_AGENT)
            .default_headers(self._headers)
        )
        if self._ip is not None:
            builder = builder.resolve(self._host, self._ip, self._port)
        return with_network(builder, self._network, has_tls=self._has_tls).build()

    async def post(self, body: bytes) -> Answered:
        """See `Exchange`."""
        try:
            response, content = await self._exchange(body)
        except BrokenBody:
            self._careful_calls = _CAREFUL_CALLS_MORE
            raise
        except fast.PyreqwestError as error:
            if isinstance(error, fast.ReadError | fast.DecodeError):
                self._careful_calls = _CAREFUL_CALLS_MORE
            raise transport_failed(error) from error
        if response.status == 200:
            return Received(content, response.headers)
        raise StatusFailed(response.status, response.headers, content)

    async def _exchange(self, body: bytes) -> tuple[Response, bytes]:
        """One call; again where the server has not begun with it.

        That is where an HTTP/2 connection was going away, and where no connection could be made and the name means
        another machine by now.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        deadline_s, tries_left, is_late = began_s + self._timeout_s, _UNBEGUN_TRIES_MAX, False
        if began_s >= self._known_until_s:
            await self._find(loop, deadline_s)
            is_late = True
        while True:
            lane = self._lanes.take()
            builder = lane.client.post(self._url).body_bytes(body)
            if is_late:
                builder = builder.timeout(timedelta(seconds=max(0.001, deadline_s - loop.time())))
            if self._careful_calls > 0:
                self._careful_calls -= 1
                builder = builder.streamed_read_buffer_limit(0)
            try:
                async with builder.build_streamed() as response:
                    content = await _read(response)
            except fast.RequestError as error:
                if not tries_left or not (_is_unbegun(error) or await self._has_moved(error, lane, deadline_s)):
                    raise
                tries_left, is_late = tries_left - 1, True
            else:
                if self._has_tls and response.version == "HTTP/1.1":
                    self._lanes.widen()
                return response, content
            finally:
                if self._lanes.give(lane):
                    await lane.client.close()

    async def _find(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """Know the address that the next calls go to; only the first calls wait for it.

        Later ones look again beside the calls: connections that stand need no resolver, and one that is down or slow
        must not fail or hold up those calls.
        """
        if self._known_until_s > -math.inf:
            self._known_until_s = loop.time() + KEPT_S
            if self._renewal is None or self._renewal.done():
                self._renewal = loop.create_task(self._look_again(loop))
            return
        try:
            async with asyncio.timeout_at(min(deadline_s, loop.time() + self._connect_s)):
                await self._choose(loop)
        except TimeoutError as error:
            raise TransportFailed("no connection in time", is_connecting=True, is_timeout=True) from error
        except socket.gaierror as error:
            words = f"failed to lookup address information: {error.strerror}"
            raise TransportFailed("dns error", words, is_connecting=True) from error
        except OSError as error:
            raise TransportFailed(str(error), is_connecting=True) from error

    async def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._choose(loop)
        except (OSError, fast.PyreqwestError):
            # The address that is known may still answer. If not, calls say so.
            return

    async def _has_moved(self, error: fast.RequestError, lane: Lane[Client], deadline_s: float) -> bool:
        """Whether this lane made no connection, so that nothing was sent, and there is another address to go to."""
        # The class does not tell: a connection that broke under a call is a ConnectError too.
        if not _says(error, _CONNECTING):
            return False
        if not lane.is_retired and self._known_until_s < math.inf:
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout_at(min(deadline_s, loop.time() + self._connect_s)):
                    await self._choose(loop, anew=True)
            except (OSError, fast.PyreqwestError) as fault:
                # The call fails by its own words. One that has no time to wait leaves the answer to the next.
                if isinstance(fault, TimeoutError):
                    self._known_until_s = loop.time()
                return False
        return lane.is_retired

    async def _choose(self, loop: asyncio.AbstractEventLoop, *, anew: bool = False) -> None:
        """Take the address to connect to; the clients are others where it is another."""
        address = await self._addresses.choose(loop, anew=anew, race_s=self._connect_s)
        self._known_until_s = loop.time() + KEPT_S
        # One with the number of a network card cannot be told to the client, which then finds it itself.
        ip = str(address[4][0]) if is_whole(address) else None
        if ip != self._ip:
            before, self._ip = self._ip, ip
            try:
                idle = self._lanes.retire()
            except BaseException:
                self._ip = before
                raise
            for client in idle:
                await client.close()

    async def close(self) -> None:
        """See `Exchange`."""
        self._addresses.close()
        if self._renewal is not None:
            await self._renewal
        for client in self._lanes.clients():
            await client.close()


def _is_unbegun(error: fast.RequestError) -> bool:
    """Whether the server said GOAWAY before it began with this call, which may then be sent again (RFC 9113, 8.7)."""
    return _says(error, _GOING_AWAY)


def _says(error: fast.RequestError, words: str) -> bool:
    return any(cause["message"] == words for cause in error.details["causes"] or ())


def transport_failed(error: fast.PyreqwestError) -> TransportFailed:
    """What an exception of pyreqwest stands for."""
    details = " ".join(f"{type(cause).__name__} {cause} {getattr(cause, 'details', '')}" for cause in causes_of(error))
    is_timeout = isinstance(error, fast.RequestTimeoutError)
    return TransportFailed(
        *_words(error),
        is_connecting=_CONNECTING in details,
        is_timeout=is_timeout,
        # The response had begun: the answer was cut, not refused.
        has_begun=not is_timeout
        and (isinstance(error, fast.ReadError | fast.DecodeError) or _BROKEN_HEAD.search(details) is not None),
    )


async def _read(response: Response) -> bytes:
    """The body of a response; pyreqwest decompresses it in a thread of its own."""
    reader, is_good = response.body_reader, response.status == 200
    bytes_max = BODY_BYTES_MAX if is_good else ERROR_BYTES_MAX
    chunks: list[Bytes] = []
    size = 0
    try:
        while size <= bytes_max and (chunk := await reader.read_chunk()) is not None:
            chunks.append(chunk)
            size += len(chunk)
    except fast.RequestTimeoutError:
        if is_good:
            raise
    except fast.PyreqwestError as error:
        # An error status says more than what became of its body.
        if is_good:
            raise BrokenBody("; ".join(_words(error)), headers=response.headers, received=b"".join(chunks)) from error
    if is_good and size > bytes_max:
        raise BrokenBody(TOO_LARGE, headers=response.headers)
    return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)


def _words(error: BaseException) -> list[str]:
    """What pyreqwest says of it, from the outermost cause to the innermost; at least one."""
    details = getattr(error, "details", None)
    if isinstance(details, Mapping) and details.get("causes"):
        words = [cause["message"] for cause in details["causes"] if "for url" not in cause["message"]]
        if words:
            return words
    return [str(error) or type(error).__name__]
