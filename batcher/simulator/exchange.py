"""Bytes onto the socket: whole responses, and every way of not sending one.

Responses are written past aiohttp's response objects, straight to the transport: that is faster, and a
cut body or a missing end is nothing that a well-behaved HTTP library will write. aiohttp keeps the
parsing, the connections and the cancellation of a request whose client left.
"""

import contextlib
import socket
import struct
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from batcher.clock import Clock
from batcher.simulator.wire import HttpAnswer

_LINGER_ZERO = struct.pack("ii", 1, 0)
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Site is overloaded"}


class AlreadySent(web.StreamResponse):
    """Tells aiohttp that the response went out, and whether the connection lives on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._lives = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        """Whether the connection lives on."""
        return self._lives

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002  # aiohttp's
        """Nothing is left to prepare."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


# Stateless, so one of each serves every request.
ALIVE = AlreadySent(keep_alive=True)
CLOSED = AlreadySent(keep_alive=False)


class Exchange:
    """Writes to one request's connection."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def send(self, request: web.BaseRequest, answer: HttpAnswer) -> AlreadySent:
        """Send a whole response; returns when the kernel has every byte.

        Raises:
            ConnectionError: The client left first.
        """
        lives = request.keep_alive
        await _write(request, self._head(answer, f"content-length: {len(answer.body)}", lives=lives) + answer.body)
        return ALIVE if lives else CLOSED

    async def send_drip(self, request: web.BaseRequest, answer: HttpAnswer, *, drip_s: float) -> AlreadySent:
        """Send a whole response whose body comes byte by byte."""
        lives = request.keep_alive
        await _write(request, self._head(answer, f"content-length: {len(answer.body)}", lives=lives))
        pause_s = drip_s / max(1, len(answer.body))
        for byte in answer.body:
            await self._clock.sleep(pause_s)
            await _write(request, bytes((byte,)))
        return ALIVE if lives else CLOSED

    async def send_cut(self, request: web.BaseRequest, answer: HttpAnswer) -> AlreadySent:
        """Promise the whole body, send half of it, close."""
        head = self._head(answer, f"content-length: {len(answer.body)}", lives=True)
        await _write(request, head + answer.body[: len(answer.body) // 2])
        return close(request)

    async def send_cut_chunked(self, request: web.BaseRequest, answer: HttpAnswer) -> AlreadySent:
        """Send half the body as one chunk, no last chunk, close."""
        half = answer.body[: len(answer.body) // 2]
        chunk = f"{len(half):x}\r\n".encode() + half + b"\r\n"
        await _write(request, self._head(answer, "transfer-encoding: chunked", lives=True) + chunk)
        return close(request)

    def _head(self, answer: HttpAnswer, framing: str, *, lives: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
            f"content-type: {answer.content_type}",
            framing,
            *(f"{name}: {value}" for name, value in answer.headers),
            f"date: {_http_date(int(self._clock.now()))}",
            "server: batcher-simulator",
        ]
        if not lives:
            lines.append("connection: close")
        return "\r\n".join([*lines, "\r\n"]).encode()


def close(request: web.BaseRequest) -> AlreadySent:
    """Close the connection in order (TCP FIN) after what was sent."""
    if request.transport is not None:
        request.transport.close()
    return CLOSED


def reset(request: web.BaseRequest) -> AlreadySent:
    """Tear the connection down: the client sees a reset (TCP RST)."""
    transport = request.transport
    if transport is not None:
        connection = cast(socket.socket, transport.get_extra_info("socket"))
        # A linger time of 0 makes the kernel send RST in place of FIN.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        transport.abort()
    return CLOSED


async def _write(request: web.BaseRequest, chunk: bytes) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client left")
    transport.set_write_buffer_limits(high=0)
    transport.write(chunk)
    # With a high-water mark of 0 the drain ends when the kernel has taken everything.
    await request.writer.drain()


@lru_cache(maxsize=2)
def _http_date(now_s: int) -> str:
    """The Date header's value; made once a second."""
    return formatdate(now_s, usegmt=True)
