"""Servers as they stand in real networks, on loopback: TLS, HTTP/2, a proxy. Each counts what it saw.

Each runs on a loop of its own in a thread, so that processes and coroutines alike can call it; use them as
context managers.
"""

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import trustme
from cryptography.hazmat.primitives import serialization

NAME = "api.test"
"""A host that only the proxy can reach, and that the certificates are good for."""


def completion_bytes(text: str) -> bytes:
    """A good answer."""
    return json.dumps(
        {
            "id": "c1", "object": "chat.completion", "model": "served-model",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        },
        ensure_ascii=False,
    ).encode()  # fmt: skip


def echo_bytes(body: bytes) -> bytes:
    """The last message of a request, as an answer."""
    return completion_bytes(json.loads(body)["messages"][-1]["content"])


class Names:
    """A resolver in the place of the running loop's (the standard library's), which counts what it is asked.

    `means` has the addresses of each name; any other name is unknown. While `silent` is set it says nothing at all.
    """

    def __init__(self, **means: list[str]) -> None:
        self.means = {name.replace("_", "."): addresses for name, addresses in means.items()}
        self.asked: list[str] = []
        self.silent = False
        # Slower than all that asks at the same time.
        self.answer_s = 0.02
        asyncio.get_running_loop().getaddrinfo = self._look_up

    async def _look_up(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if self.silent:
            await asyncio.Event().wait()
        await asyncio.sleep(self.answer_s)
        if host not in self.means:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.means[host]
        ]


@contextlib.contextmanager
def mute_port(host: str, port: int = 0) -> Iterator[int]:
    """A port that takes no more connections and refuses none: its queue is full."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, port))
        try:
            yield port
        finally:
            for filler in fillers:
                filler.close()


class Pki:
    """A certificate authority, what it signed, and one more that nobody trusts; all as files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.good = self._write("good", self._authority.issue_cert("localhost", "127.0.0.1", "::1", NAME))
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self.expired = self._write("expired", self._authority.issue_cert("localhost", "127.0.0.1", not_after=yesterday))
        self.misnamed = self._write("misnamed", self._authority.issue_cert("elsewhere.test"))
        self.foreign = self._write("foreign", trustme.CA().issue_cert("localhost", "127.0.0.1"))
        self.client = self._write("client", self._authority.issue_cert("batcher@example.com"))

    def _write(self, name: str, leaf: trustme.LeafCert) -> "Pair":
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        leaf.private_key_pem.write_to_path(str(pair.key))
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return pair

    def encrypted_key(self) -> Path:
        """The client's key, under a passphrase."""
        key = serialization.load_pem_private_key(self.client.key.read_bytes(), None)
        path = self.folder / "encrypted.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        return path

    def context(self, pair: "Pair | None" = None, *, wants_client: bool = False, alpn: str = "") -> ssl.SSLContext:
        """Of a server."""
        pair = pair or self.good
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        if alpn:
            context.set_alpn_protocols(alpn.split())
        return context


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


class Threaded:
    """A server on a loop of its own."""

    def __init__(self, *, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self._host, self._context = host, context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: Counter[str] = Counter()
        self.port = 0

    @property
    def base_url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{'localhost' if self._context else self._host}:{self.port}/v1"

    def __enter__(self):
        self._thread.start()
        self._server = self._call(self._start())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self):
        return await asyncio.start_server(self._accept, self._host, self.port, ssl=self._context, backlog=4096)

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.seen["connections"] += 1
        tls = writer.get_extra_info("ssl_object")
        if tls is not None:
            self.seen["resumed"] += int(tls.session_reused)
            self.seen[f"alpn {tls.selected_alpn_protocol()}"] += 1
            self.seen["client certificates"] += int(bool(tls.getpeercert()))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                await self.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if self._loop.is_running() and not writer.is_closing() else None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, str], bytes]:
    """The request line, the headers by lower-case name, and the body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for line in head[1:] if line for name, _, value in [line.partition(":")]}
    return head[0].encode(), headers, await reader.readexactly(int(headers.get("content-length", 0)))


class Http1(Threaded):
    """HTTP/1.1 with keep-alive; `answer` gives the response's bytes for a request's body.

    A body is sent in `coding` where the client takes that. After `calls_max` answers a connection is closed: without
    a word, as an idle one is by many a load balancer, or as the last answer on it `says_close`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        context: ssl.SSLContext | None = None,
        calls_max: int = 10**9,
        says_close: bool = False,
        answer_s: float = 0.0,
        coding: str = "",
        encode: Callable[[bytes], bytes] = bytes,
    ) -> None:
        super().__init__(host=host, context=context)
        self._calls_max, self._answer_s, self._coding, self._encode = calls_max, answer_s, coding, encode
        self._says_close = says_close
        self.codings: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(1, self._calls_max + 1):
            close = "connection: close\r\n" if self._says_close and number == self._calls_max else ""
            _, headers, body = await read_request(reader)
            self.headers.append(headers)
            self.seen["calls"] += 1
            if self._answer_s:
                await asyncio.sleep(self._answer_s)
            coding, content = "identity", echo_bytes(body)
            if self._coding and self._coding in headers.get("accept-encoding", ""):
                coding, content = self._coding, self._encode(content)
                self.codings[coding] += 1
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\n{close}"
                f"content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()
        writer.close()


@dataclass
class H2Script:
    """What an HTTP/2 server does beside answering."""

    streams_max: int = 100
    answer_s: float = 0.0
    goaway_after: int = 0
    """Calls on a connection after which it says GOAWAY; later streams of it are not answered."""
    goaway_drops: bool = False
    """After GOAWAY it closes the connection, with what it had begun unanswered."""
    reset_with: dict[int, h2.errors.ErrorCodes] = field(default_factory=dict)
    """The numbers of calls (from 1, over all connections) that are reset, and how."""
    mute_after: int = 0
    """Calls on the first connection after which it reads and says nothing any more."""


class Http2(Threaded):
    """HTTP/2 alone, chosen by ALPN, written with the h2 library."""

    def __init__(self, pki: Pki, script: H2Script | None = None) -> None:
        super().__init__(context=pki.context(alpn="h2"))
        self.script = script or H2Script()
        self.most_streams = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _H2Connection(self, reader, writer).run()


class _H2Connection:
    def __init__(self, server: Http2, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._script, self._reader, self._writer = server, server.script, reader, writer
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._bodies: dict[int, bytearray] = {}
        self._calls = self._answered = 0
        self._is_first = server.seen["connections"] == 1
        self._is_going = self._is_mute = False
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self._h2.initiate_connection()
        self._h2.update_settings({3: self._script.streams_max})
        self._flush()
        try:
            while data := await self._reader.read(65536):
                if self._is_mute:
                    continue
                for event in self._h2.receive_data(data):
                    self._took(event)
                self._flush()
        finally:
            for answer in self._answers:
                answer.cancel()

    def _took(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=stream):
                self._bodies[stream] = bytearray()
                self._server.most_streams = max(self._server.most_streams, len(self._bodies))
            case h2.events.DataReceived(stream_id=stream, data=data):
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self._bodies[stream] += data
            case h2.events.StreamEnded(stream_id=stream):
                self._asked(stream)
            case h2.events.StreamReset(stream_id=stream):
                self._bodies.pop(stream, None)

    def _asked(self, stream: int) -> None:
        seen, script = self._server.seen, self._script
        if self._is_going:
            self._bodies.pop(stream)
            return
        self._calls += 1
        seen["calls"] += 1
        if script.mute_after and self._is_first and self._calls > script.mute_after:
            self._is_mute = True
            return
        code = script.reset_with.get(seen["calls"])
        if code is not None:
            self._bodies.pop(stream)
            self._h2.reset_stream(stream, code)
            seen["resets"] += 1
            return
        answer = self._server._loop.create_task(self._answer(stream))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)
        if script.goaway_after and self._calls >= script.goaway_after:
            self._is_going = True
            seen["goaways"] += 1
            # The h2 library takes no frame after GOAWAY that it sends itself, so this one is written by hand.
            self._flush()
            self._writer.write(b"\0\0\x08\x07\0\0\0\0\0" + stream.to_bytes(4) + b"\0\0\0\0")
            if script.goaway_drops:
                self._server._loop.call_later(0.05, self._writer.close)

    async def _answer(self, stream: int) -> None:
        if self._script.answer_s:
            await asyncio.sleep(self._script.answer_s)
        body = self._bodies.pop(stream, None)
        if body is None:
            return
        content = echo_bytes(bytes(body))
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self._h2.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
            self._h2.send_data(stream, content, end_stream=True)
            self._server.seen["answered"] += 1
        self._flush()
        if self._is_going and len(self._answers) == 1:
            self._writer.close()

    def _flush(self) -> None:
        if not self._writer.is_closing():
            self._writer.write(self._h2.data_to_send())


class Proxy(Threaded):
    """A forwarding proxy (CONNECT, and whole addresses for http); every name leads to loopback.

    With `login` it wants Basic credentials. `lines` are the request lines it was sent.
    """

    def __init__(self, *, login: str | None = None, refuses: int | None = None) -> None:
        super().__init__()
        self._login, self._refuses = login, refuses
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url_with(self, login: str) -> str:
        return f"http://{login}@127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line, headers, body = await read_request(reader)
            self.lines.append(line.decode())
            self.headers.append(headers)
            method, target, _ = line.decode().split()
            if self._refuses is not None:
                writer.write(f"HTTP/1.1 {self._refuses} No\r\ncontent-length: 0\r\n\r\n".encode())
                continue
            wanted = None if self._login is None else "Basic " + base64.b64encode(self._login.encode()).decode()
            if wanted is not None and headers.get("proxy-authorization") != wanted:
                said = f"this proxy was sent {headers.get('proxy-authorization')}".encode()
                writer.write(
                    b'HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm="office"\r\n'
                    + f"content-length: {len(said)}\r\n\r\n".encode()
                    + said
                )
                await writer.drain()
                continue
            if method == "CONNECT":
                await self._tunnel(reader, writer, int(target.rpartition(":")[2]))
                return
            await self._forward(writer, method, target, headers, body)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _forward(
        self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> None:
        where, _, path = target.removeprefix("http://").partition("/")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(where.rpartition(":")[2]))
        kept = {name: value for name, value in headers.items() if not name.startswith(("proxy-", "connection"))}
        head = f"{method} /{path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in kept.items()) + "\r\n"
        far_writer.write(head.encode() + body)
        status = (await far_reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in status.lower().split("\r\n") if line.startswith("content-length:"))
        writer.write(status.encode() + await far_reader.readexactly(length))
        await writer.drain()
        far_writer.close()
