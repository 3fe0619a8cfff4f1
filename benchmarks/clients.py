"""What batcher is measured against: clients that ask and forget, one process each.

    rawest     uvloop, a keep-alive pool of `asyncio.Protocol`s, msgspec: no future, no task, no timer
    pyreqwest  a fixed number of tasks over pyreqwest and msgspec: the HTTP client that batcher uses, alone
    sdk        gather + Semaphore + AsyncOpenAI: what tutorials show

None of them reads an input, has a limit, tries again or writes anything: their rates are what a program
that does could at most reach. Each decodes every answer and ends with an error unless all
rows were answered. Usage: `python benchmarks/clients.py rawest --port 8000 --rows 20000 --in-flight 256`.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn, cast

import msgspec
import uvloop
from server import HOST, LABELS, MODEL

QUESTION = (
    "Which team should handle this ticket? Answer with billing, technical or other.\n"
    "Ticket {row}: I was charged twice for the same order last week, and the app still shows the old balance."
)
_RESPONSE_FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "label",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": list(LABELS)}},
            "required": ["label"],
            "additionalProperties": False,
        },
    },
}
_BODY_HEAD = msgspec.json.encode({"model": MODEL, "max_tokens": 16, "response_format": _RESPONSE_FORMAT})[:-1]
_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer none\r\n"
    "content-type: application/json\r\naccept: application/json\r\ncontent-length: "
)


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage


_decode = msgspec.json.Decoder(_Completion).decode
_encode = msgspec.json.Encoder().encode


class Asker:
    """Makes the bodies of `rows` questions, and counts their answers."""

    def __init__(self, rows: int, port: int) -> None:
        self.rows = rows
        self.url = f"http://{HOST}:{port}/v1"
        self.port = port
        self.answered = 0

    def bodies(self) -> Iterator[bytes]:
        """One request body a row; the constant part is encoded once."""
        for row in range(self.rows):
            text = _encode(QUESTION.format(row=row))
            yield _BODY_HEAD + b',"messages":[{"role":"user","content":' + text + b"}]}"

    def take(self, body: bytes) -> None:
        """Decode one answer and count it."""
        completion = _decode(body)
        if completion.choices[0].message.content and completion.usage.completion_tokens:
            self.answered += 1


class _RawConnection(asyncio.Protocol):
    """Sends the next question as soon as the answer before it is whole; no future, no task."""

    def __init__(self, asker: Asker, bodies: Iterator[bytes], over: asyncio.Event) -> None:
        self._asker, self._bodies, self._over = asker, bodies, over
        self._head = _HEAD.format(host=HOST, port=asker.port).encode()
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being of that class
        self._send()

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        body_start = unread.find(b"\r\n\r\n") + 4
        length_start = unread.find(b"content-length: ") + 16
        # A head that is cut is as good as none: `find` gave -1 for its end.
        if body_start < 4 or len(unread) < body_start + int(unread[length_start : unread.find(b"\r", length_start)]):
            self._unread = unread
            return
        self._unread = b""
        if not unread.startswith(b"HTTP/1.1 200 "):
            _fail(unread[:64].decode(errors="replace"))
        self._asker.take(unread[body_start:])
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        if self._asker.answered < self._asker.rows:
            _fail("the server closed a connection")

    def _send(self) -> None:
        body = next(self._bodies, None)
        if body is not None:
            self._transport.write(self._head + b"%d\r\n\r\n" % len(body) + body)
        elif self._asker.answered == self._asker.rows:
            self._over.set()


async def ask_rawest(asker: Asker, in_flight: int) -> None:
    """See the module."""
    bodies, over = asker.bodies(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _fail(repr(context.get("exception"))))
    for _ in range(min(in_flight, asker.rows)):
        await loop.create_connection(lambda: _RawConnection(asker, bodies, over), HOST, asker.port)
    await over.wait()


async def ask_pyreqwest(asker: Asker, in_flight: int) -> None:
    """See the module."""
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415  # only the client that is measured is loaded

    headers = {"authorization": "Bearer none", "content-type": "application/json", "accept": "application/json"}
    client = ClientBuilder().default_headers(headers).build()
    url, bodies = f"{asker.url}/chat/completions", asker.bodies()

    async def work() -> None:
        for body in bodies:
            answer = await client.post(url).body_bytes(body).build().send()
            asker.take(bytes(await answer.bytes()))

    async with client, asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


async def ask_sdk(asker: Asker, in_flight: int) -> None:
    """See the module."""
    from openai import AsyncOpenAI  # noqa: PLC0415  # only the client that is measured is loaded

    permits = asyncio.Semaphore(in_flight)
    async with AsyncOpenAI(base_url=asker.url, api_key="none") as client:

        async def ask(row: int) -> None:
            async with permits:
                answer = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": QUESTION.format(row=row)}],
                    max_tokens=16,
                    response_format=_RESPONSE_FORMAT,
                )
            asker.answered += bool(answer.choices[0].message.content)

        await asyncio.gather(*(ask(row) for row in range(asker.rows)))


CLIENTS: dict[str, Callable[[Asker, int], Coroutine[Any, Any, None]]] = {
    "rawest": ask_rawest,
    "pyreqwest": ask_pyreqwest,
    "sdk": ask_sdk,
}


def _fail(what: str) -> NoReturn:
    # From inside a callback of the loop, only this ends the process.
    sys.stderr.write(f"error: {what}\n")
    raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("client", choices=list(CLIENTS))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    options = parser.parse_args()
    asker = Asker(options.rows, options.port)
    uvloop.run(CLIENTS[options.client](asker, options.in_flight))
    if asker.answered != asker.rows:
        _fail(f"{asker.answered} of {asker.rows} rows were answered")


if __name__ == "__main__":
    main()
