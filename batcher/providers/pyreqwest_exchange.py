"""The fast client: chat completions through pyreqwest, and what its exceptions stand for."""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta

import pyreqwest.exceptions as fast
from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import Url
from pyreqwest.response import Response

from batcher.providers.exchange import (
    BODY_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    ERROR_BYTES_MAX,
    TOO_LARGE,
    USER_AGENT,
    Answered,
    chat_headers,
)
from batcher.providers.failures import BrokenBody, StatusFailed, TransportFailed, causes_of
from batcher.providers.lanes import STREAMS_MAX, Lanes
from batcher.providers.network import DIRECT, Network
from batcher.providers.network_tls import with_network

# A connection that a proxy dropped silently is found by the kernel, not by waiting out the timeout.
_TCP_KEEPALIVE_S = 15.0
_POOL_IDLE_S = 60.0
_UNBEGUN_TRIES_MAX = 5

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
        self._lanes = Lanes(self._open_client, calls_max=STREAMS_MAX if self._has_tls else None)

    def _open_client(self) -> Client:
        builder = (
            ClientBuilder()
            .timeout(timedelta(seconds=self._timeout_s))
            .connect_timeout(timedelta(seconds=min(CONNECT_TIMEOUT_S, self._timeout_s)))
            .follow_redirects(False)
            .referer(False)
            .tcp_keepalive(timedelta(seconds=_TCP_KEEPALIVE_S))
            .pool_idle_timeout(timedelta(seconds=_POOL_IDLE_S))
            .user_agent(USER_AGENT)
            .default_headers(self._headers)
        )
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
            return Answered(content, response.headers)
        raise StatusFailed(response.status, response.headers, content)

    async def _exchange(self, body: bytes) -> tuple[Response, bytes]:
        """One call; over HTTP/2, again where the connection was going away and the server has not begun with it."""
        loop = asyncio.get_running_loop()
        deadline_s, tries_left = loop.time() + self._timeout_s, _UNBEGUN_TRIES_MAX
        while True:
            lane = self._lanes.take()
            builder = lane.client.post(self._url).body_bytes(body)
            if tries_left < _UNBEGUN_TRIES_MAX:
                builder = builder.timeout(timedelta(seconds=max(0.001, deadline_s - loop.time())))
            if self._careful_calls > 0:
                self._careful_calls -= 1
                builder = builder.streamed_read_buffer_limit(0)
            try:
                async with builder.build_streamed() as response:
                    content = await _read(response)
            except fast.RequestError as error:
                if not tries_left or not _is_unbegun(error):
                    raise
                tries_left -= 1
            else:
                if self._has_tls and response.version == "HTTP/1.1":
                    self._lanes.widen()
                return response, content
            finally:
                self._lanes.give(lane)

    async def close(self) -> None:
        """See `Exchange`."""
        for client in self._lanes.clients():
            await client.close()


def _is_unbegun(error: fast.RequestError) -> bool:
    """Whether the server said GOAWAY before it began with this call, which may then be sent again (RFC 9113, 8.7)."""
    causes = error.details["causes"] or ()
    return any(cause["message"] == _GOING_AWAY for cause in causes)


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
