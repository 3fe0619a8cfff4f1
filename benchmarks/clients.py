"""What batcher is measured against: clients that ask and forget, one process each.

    rawest     uvloop, a keep-alive pool of `asyncio.Protocol`s, msgspec: no future, no task, no timer
    own        a fixed number of tasks over the HTTP/1.1 client inside batcher and msgspec: without the rest of batcher
    pyreqwest  a fixed number of tasks over pyreqwest and msgspec: a fast HTTP client, alone
    aiohttp    a fixed number of tasks over one `aiohttp.ClientSession`, `json`
    sdk        gather + Semaphore + AsyncOpenAI: the naive loop
    tutorial   the same with tenacity's decorator round each call: what tutorials show

None of them reads an input, has a limit or writes anything: their rates are what a program that does could
at most reach. Each decodes every answer and ends with an error unless all rows were answered. An error
status is asked again at once, by the SDK and the tutorial as they wait. Usage:

    python benchmarks/clients.py rawest --url http://127.0.0.1:8000/v1 --rows 20000 --in-flight 256
"""

import argparse
import asyncio
import json
import ssl
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from questions import MAX_TOKENS, RESPONSE_FORMAT, question
from server import HOST, MODEL

_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer none\r\n"
    "content-type: application/json\r\naccept: application/json\r\ncontent-length: "
)
_CONNECTS = 256
"""Connections that are opened at once."""
_HEADERS = {"authorization": "Bearer none", "content-type": "application/json", "accept": "application/json"}


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
    """Makes the bodies of the questions, and counts the answers.

    Args:
        rows: How many questions.
        url: The API's address, ending in `/v1`.
        text_bytes: Of each row's text, about; 0 for a sentence.
        has_labels: Send a `response_format`, as a job with labels does.
    """

    def __init__(self, rows: int, url: str, *, text_bytes: int, has_labels: bool) -> None:
        self.rows, self.url, self.text_bytes = rows, url, text_bytes
        self.endpoint = f"{url}/chat/completions"
        self.options: dict[str, Any] = {"model": MODEL, "max_tokens": MAX_TOKENS}
        if has_labels:
            self.options["response_format"] = RESPONSE_FORMAT
        self._body_head = _encode(self.options)[:-1]
        self._next_row, self._again = 0, deque[bytes]()
        self.answered = 0

    def body(self) -> bytes | None:
        """The next request body, or None when all are out; the constant part is encoded once."""
        if self._again:
            return self._again.popleft()
        if self._next_row == self.rows:
            return None
        text = _encode(question(self._next_row, self.text_bytes))
        self._next_row += 1
        return self._body_head + b',"messages":[{"role":"user","content":' + text + b"}]}"

    def ask_again(self, body: bytes) -> None:
        """Its answer was an error."""
        self._again.append(body)

    def take(self, body: bytes) -> None:
        """Decode one answer and count it."""
        completion = _decode(body)
        if completion.choices[0].message.content and completion.usage.completion_tokens:
            self.answered += 1


class _RawConnection(asyncio.Protocol):
    """Sends the next question as soon as the answer before it is whole; no future, no task."""

    def __init__(self, asker: Asker, head: bytes, over: asyncio.Event) -> None:
        self._asker, self._head, self._over = asker, head, over
        self._pieces: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being of that class
        self._send()

    def data_received(self, data: bytes) -> None:
        # Long answers come in many pieces: joined once, when the last is here.
        self._missing -= len(data)
        if self._pieces:
            self._pieces.append(data)
            if self._missing > 0:
                return
            data = b"".join(self._pieces)
        body_start = data.find(b"\r\n\r\n") + 4
        length_start = data.find(b"content-length: ") + 16
        # A head that is cut is as good as none: `find` gave -1 for its end.
        whole = body_start + int(data[length_start : data.find(b"\r", length_start)]) if body_start >= 4 else 0
        if not whole or len(data) < whole:
            self._pieces, self._missing = [data], whole - len(data)
            return
        self._pieces = []
        if data.startswith(b"HTTP/1.1 200 "):
            self._asker.take(data[body_start:])
        else:
            self._asker.ask_again(self._asked)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        if self._asker.answered < self._asker.rows:
            _fail("the server closed a connection")

    def _send(self) -> None:
        body = self._asker.body()
        if body is not None:
            self._asked = body
            self._transport.write(self._head + b"%d\r\n\r\n" % len(body) + body)
        elif self._asker.answered == self._asker.rows:
            self._over.set()


async def ask_rawest(asker: Asker, in_flight: int) -> None:
    """See the module."""
    address, over = urlsplit(asker.url), asyncio.Event()
    host, port = address.hostname or HOST, address.port or 0
    head = _HEAD.format(host=host, port=port).encode()
    tls = ssl.create_default_context() if address.scheme == "https" else None
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: _fail(repr(context.get("exception"))))
    count = min(in_flight, asker.rows)
    for first in range(0, count, _CONNECTS):
        connects = (
            loop.create_connection(lambda: _RawConnection(asker, head, over), host, port, ssl=tls)
            for _ in range(first, min(count, first + _CONNECTS))
        )
        await asyncio.gather(*connects)
    await over.wait()


async def ask_own(asker: Asker, in_flight: int) -> None:
    """See the module."""
    from batcher.providers.failures import StatusFailed  # noqa: PLC0415  # only the client that is measured is loaded
    from batcher.providers.plain_exchange import plain_exchange  # noqa: PLC0415

    client = plain_exchange(base_url=asker.url, api_key="none", timeout_s=60.0)

    async def work() -> None:
        while (body := asker.body()) is not None:
            try:
                asker.take((await client.post(body)).body)
            except StatusFailed:
                asker.ask_again(body)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    await client.close()


async def ask_pyreqwest(asker: Asker, in_flight: int) -> None:
    """See the module."""
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415  # only the client that is measured is loaded

    client = ClientBuilder().default_headers(_HEADERS).build()

    async def work() -> None:
        while (body := asker.body()) is not None:
            answer = await client.post(asker.endpoint).body_bytes(body).build().send()
            content = bytes(await answer.bytes())
            if answer.status == 200:
                asker.take(content)
            else:
                asker.ask_again(body)

    await _together(work, in_flight, client)


async def ask_aiohttp(asker: Asker, in_flight: int) -> None:
    """See the module."""
    import aiohttp  # noqa: PLC0415  # only the client that is measured is loaded

    session = aiohttp.ClientSession(headers=_HEADERS, connector=aiohttp.TCPConnector(limit=in_flight), trust_env=True)

    async def work() -> None:
        while (body := asker.body()) is not None:
            async with session.post(asker.endpoint, data=body) as answer:
                content = await answer.read()
            if answer.status != 200:
                asker.ask_again(body)
            elif json.loads(content)["choices"][0]["message"]["content"]:
                asker.answered += 1

    await _together(work, in_flight, session)


async def ask_sdk(asker: Asker, in_flight: int) -> None:
    """See the module."""
    from openai import AsyncOpenAI  # noqa: PLC0415  # only the client that is measured is loaded

    async with AsyncOpenAI(base_url=asker.url, api_key="none") as client:

        async def ask(content: str) -> str | None:
            messages = [{"role": "user", "content": content}]
            answer = await client.chat.completions.create(messages=cast(Any, messages), **asker.options)
            return cast("str | None", answer.choices[0].message.content)

        await _gathered(asker, in_flight, ask)


async def ask_tutorial(asker: Asker, in_flight: int) -> None:
    """See the module; OpenAI's cookbook, "How to handle rate limits", with the semaphore that tutorials add."""
    from openai import AsyncOpenAI  # noqa: PLC0415  # only the client that is measured is loaded
    from tenacity import retry, stop_after_attempt, wait_random_exponential  # noqa: PLC0415

    async with AsyncOpenAI(base_url=asker.url, api_key="none") as client:

        @retry(wait=wait_random_exponential(min=1, max=60), stop=stop_after_attempt(6))
        async def ask(content: str) -> str | None:
            messages = [{"role": "user", "content": content}]
            answer = await client.chat.completions.create(messages=cast(Any, messages), **asker.options)
            return cast("str | None", answer.choices[0].message.content)

        await _gathered(asker, in_flight, ask)


async def _gathered(asker: Asker, in_flight: int, ask: Callable[[str], Coroutine[Any, Any, str | None]]) -> None:
    permits = asyncio.Semaphore(in_flight)

    async def one(row: int) -> None:
        async with permits:
            answer = await ask(question(row, asker.text_bytes))
        asker.answered += bool(answer)

    await asyncio.gather(*(one(row) for row in range(asker.rows)))


async def _together(work: Callable[[], Coroutine[Any, Any, None]], count: int, client: Any) -> None:
    async with client, asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(work())


CLIENTS: dict[str, Callable[[Asker, int], Coroutine[Any, Any, None]]] = {
    "rawest": ask_rawest,
    "own": ask_own,
    "pyreqwest": ask_pyreqwest,
    "aiohttp": ask_aiohttp,
    "sdk": ask_sdk,
    "tutorial": ask_tutorial,
}


def _fail(what: str) -> NoReturn:
    # From inside a callback of the loop, only this ends the process.
    sys.stderr.write(f"error: {what}\n")
    raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("client", choices=list(CLIENTS))
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--text-bytes", type=int, default=0)
    parser.add_argument("--without-labels", action="store_true")
    options = parser.parse_args()
    asker = Asker(options.rows, options.url, text_bytes=options.text_bytes, has_labels=not options.without_labels)
    uvloop.run(CLIENTS[options.client](asker, options.in_flight))
    if asker.answered != asker.rows:
        _fail(f"{asker.answered} of {asker.rows} rows were answered")


if __name__ == "__main__":
    main()
