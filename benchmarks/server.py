"""A small, fast chat server for benchmarks: the same completions to everybody, and a count of what it saw.

It promises to cost little (12 to 20 µs a request, the kernel's part included), to keep its own count, and
to refuse by status what it cannot read. It is no model of a provider: no limits, no keys, and of faults
only error statuses drawn by chance from a seed. `batcher simulate` is one.

    POST /v1/chat/completions   the completion, or an error status, after `latency_ms`
    POST /setup                 a `Setup` as JSON, each field optional; counts begin at 0 again
    GET  /seen                  a `Seen` as JSON

It runs as a process of its own: `python benchmarks/server.py --core 1` writes its port on stdout and serves until
it is interrupted. With `--certificate` and `--key` it serves the same over TLS on a second port, written beside
the first; both count together.
"""

import argparse
import asyncio
import json
import os
import random
import re
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import cast

import uvloop

HOST = "127.0.0.1"
MODEL = "bench-model"
LABELS = ("billing", "technical", "other")

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CHAT = b"POST /v1/chat/completions "


@dataclass(frozen=True, slots=True)
class Setup:
    """How to answer.

    `errors_500` and `errors_429` are shares of all requests, drawn from `seed`; a 429 says `retry_after_ms`.
    """

    latency_ms: float = 0.0
    answer_bytes: int = 0
    errors_500: float = 0.0
    errors_429: float = 0.0
    retry_after_ms: int = 0
    seed: int = 1


@dataclass(slots=True)
class Seen:
    """What the server saw since the last setup. Seconds are of the monotonic clock, `cpu_s` of this process.

    `answers` are completions, `errors` the error statuses that the setup asked for, `refused` what could not be read.
    """

    requests: int = 0
    answers: int = 0
    errors: int = 0
    in_flight_max: int = 0
    connections: int = 0
    refused: int = 0
    first_request_s: float = 0.0
    last_answer_s: float = 0.0
    cpu_s: float = 0.0


def completion(label: str, answer_bytes: int) -> bytes:
    """The body: as OpenAI sends it, about 700 bytes; with `answer_bytes`, a text of that length in it."""
    answer = json.dumps({"label": label}) if answer_bytes == 0 else (f"This is {label}. " * answer_bytes)[:answer_bytes]
    body = {
        "id": "chatcmpl-Bq7vXk2mT0yHcP4sN9wLdE1fGuRz",
        "object": "chat.completion",
        "created": 1790000000,
        "model": f"{MODEL}-2026-04-14",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 96,
            "completion_tokens": 6 + answer_bytes // 4,
            "total_tokens": 102 + answer_bytes // 4,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_7c4e2a90d1",
    }
    return json.dumps(body).encode()


def response(status: str, body: bytes, *, headers: str = "") -> bytes:
    """A whole HTTP/1.1 response; `headers` are more lines, each with its end."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def error_response(status: str, *, retry_after_ms: int | None = None) -> bytes:
    """An error as OpenAI words it."""
    body = {"error": {"message": f"made to fail: {status}", "type": "server_error", "param": None, "code": None}}
    headers = "" if retry_after_ms is None else f"retry-after-ms: {retry_after_ms}\r\n"
    return response(status, json.dumps(body).encode(), headers=headers)


class Desk:
    """What all connections share: the answer, its latency, and the count."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.set_up(Setup())

    def set_up(self, setup: Setup) -> None:
        """Answer like this from now on, and count from 0."""
        self.latency_s = setup.latency_ms / 1000.0
        # Not always the same answer: that would be a sign of a provider gone wrong.
        self._answers = cycle([response("200 OK", completion(label, setup.answer_bytes)) for label in LABELS])
        self._error_500 = error_response("500 Internal Server Error")
        self._error_429 = error_response("429 Too Many Requests", retry_after_ms=setup.retry_after_ms)
        self._errors_500, self._errors = setup.errors_500, setup.errors_500 + setup.errors_429
        self._chance = random.Random(setup.seed)
        self._seen = Seen()
        self._cpu_before_s = time.process_time()
        self.in_flight = 0

    @property
    def seen(self) -> Seen:
        """The count so far."""
        self._seen.cpu_s = time.process_time() - self._cpu_before_s
        return self._seen

    def connected(self) -> None:
        """One more client."""
        self._seen.connections += 1

    def refuse(self) -> None:
        """A request that cannot be read, or for something else."""
        self._seen.refused += 1

    def take(self) -> None:
        """A chat request has come."""
        seen = self._seen
        if not seen.requests:
            seen.first_request_s = time.monotonic()
        seen.requests += 1
        self.in_flight += 1
        seen.in_flight_max = max(seen.in_flight_max, self.in_flight)

    def give(self) -> bytes:
        """What goes out for it."""
        self.in_flight -= 1
        if self._errors and (drawn := self._chance.random()) < self._errors:
            self._seen.errors += 1
            return self._error_500 if drawn < self._errors_500 else self._error_429
        self._seen.answers += 1
        self._seen.last_answer_s = time.monotonic()
        return next(self._answers)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as clients of a chat API use it: no chunked bodies, no `Expect`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being of that class
        self._desk.connected()

    def data_received(self, data: bytes) -> None:
        """Serve every request that is whole; keep the rest for the next call."""
        unread = self._unread + data if self._unread else data
        while unread:
            head_end = unread.find(b"\r\n\r\n")
            if head_end < 0:
                break
            length = _LENGTH.search(unread, 0, head_end)
            if length is None and not unread.startswith(b"GET "):
                self._refuse("411 Length Required")
                return
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(unread) < end:
                break
            self._serve(unread, head_end + 4, end)
            unread = unread[end:]
        self._unread = unread

    def _serve(self, unread: bytes, body_start: int, body_end: int) -> None:
        desk = self._desk
        if unread.startswith(_CHAT):
            desk.take()
            if desk.latency_s:
                desk.loop.call_later(desk.latency_s, self._answer)
            else:
                self._answer()
        elif unread.startswith(b"POST /setup "):
            desk.set_up(Setup(**json.loads(unread[body_start:body_end])))
            self._transport.write(response("200 OK", b"{}"))
        elif unread.startswith(b"GET /seen "):
            self._transport.write(response("200 OK", json.dumps(asdict(desk.seen)).encode()))
        else:
            self._refuse("404 Not Found")

    def _answer(self) -> None:
        answer = self._desk.give()
        if not self._transport.is_closing():  # the client may have been killed meanwhile
            self._transport.write(answer)

    def _refuse(self, status: str) -> None:
        self._desk.refuse()
        self._transport.write(response(status, b"{}"))
        self._transport.close()


async def serve(*, with_parent: bool, tls: ssl.SSLContext | None) -> None:
    """Listen on free ports, say which, and serve; `with_parent`, until the parent closes our stdin or dies."""
    desk = Desk()
    loop = asyncio.get_running_loop()
    contexts = (None,) if tls is None else (None, tls)
    servers = [await loop.create_server(lambda: Connection(desk), HOST, 0, backlog=4096, ssl=one) for one in contexts]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    parent_is_gone = asyncio.Event()
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), parent_is_gone.set)
    await parent_is_gone.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--core", type=int, help="pin the process to this core")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin, a pipe, is closed")
    parser.add_argument("--certificate", type=Path, help="PEM; with --key, serve TLS on a second port")
    parser.add_argument("--key", type=Path, help="PEM")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    tls = None
    if options.certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate, options.key)
    uvloop.run(serve(with_parent=options.with_parent, tls=tls))


if __name__ == "__main__":
    main()
