"""One HTTP exchange, by either of two clients behind one small contract.

`fast` (the default) is pyreqwest, built on Rust's reqwest: TLS, HTTP/1.1 keep-alive, proxies from the
environment and total deadlines at about 54 µs a request. `sdk` goes through the `openai` package's own
HTTP stack, at 1 to 3 ms a request, for those who need its middleware. In both cases the `openai` client
is the object that is configured (address, authentication), its retries are off, and what is raised is
one of its exceptions.

Redirects are never followed: the key would go along to wherever they point. A body is read piece by piece
and never beyond its bound, whatever it says of its length and however small it was compressed: past the
bound the connection is dropped, not drained.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol

import httpx2
import openai
import pyreqwest.exceptions as fast
from pyreqwest.bytes import Bytes
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.http import Url
from pyreqwest.response import Response

from batcher import __version__

ClientKind = Literal["fast", "sdk"]

USER_AGENT = f"batcher/{__version__}"

_CONNECT_TIMEOUT_S = 10.0
# A connection that a proxy dropped silently is found by the kernel, not by waiting out the timeout.
_TCP_KEEPALIVE_S = 15.0
_POOL_IDLE_S = 60.0
_NO_KEY = "none"

BODY_BYTES_MAX = 16 * 2**20
"""Of a good answer, decompressed. The longest chat completions, 128 thousand tokens of Chinese with every
character escaped (`\\u56de`), are near 1 MiB, and an image as Base64 is a few; with 1,000 calls in flight
a provider gone mad must still not fill the memory at once."""

ERROR_BYTES_MAX = 256 * 2**10
"""Of the body of an error status, which is read for its words and its usage."""

_CUT = "the response was cut"
_TOO_LARGE = f"the response is larger than {BODY_BYTES_MAX // 2**20} MiB"
_ABOUT_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})
# Reading the head of a response before its body keeps what came of a body that is cut, and costs 15 % more a call
# (4 µs, measured on loopback). So it is done for a client's first calls, and for a while after a body was cut.
# The first cut after a long good time loses its usage, and the failure says that it is not known.
_CAREFUL_CALLS_FIRST = 1000
_CAREFUL_CALLS_MORE = 10_000
# Decompressing this much takes a few milliseconds; then others have their turn.
_FAIR_BYTES = 2**20


class Answered:
    """A 200 response: its body, decompressed, and its headers by name, in any case."""

    __slots__ = ("body", "headers")

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.body = body
        # As the client keeps them: a copy would cost more than all that is ever read of them.
        self.headers = headers


class BrokenBody(httpx2.DecodingError):
    """The head of a response came, its body did not: cut, not decodable, or larger than its bound.

    `received` is what came of the body, decompressed; empty where it is larger than its bound.
    """

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None, received: bytes = b"") -> None:
        super().__init__(message)
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.received = received


class Exchange(Protocol):
    """Sends one body and gives back one answer."""

    async def post(self, body: bytes) -> Answered:
        """The 200 response.

        Raises:
            openai.APIError: An error status, or no answer; its cause is what the transport saw: a
                `BrokenBody` where the response had begun.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class _BoundedClient(openai.DefaultAsyncHttpxClient):
    """The SDK's HTTP client with a bound on bodies. Beside this it is the SDK's own."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """A response that is read, within its bound; one that was asked for as a stream is handed on."""
        response = await super().send(request, stream=True, **options)
        if stream:
            return response
        try:
            content = await _read_slow(response)
        finally:
            await response.aclose()
        return httpx2.Response(
            response.status_code, headers=_decoded(response.headers), content=content, request=request
        )


class ConfiguredClient(openai.AsyncOpenAI):
    """The `openai` client of one provider and key; retries are off, because `RetryingCaller` owns them."""

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float) -> None:
        super().__init__(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
            http_client=_BoundedClient(
                follow_redirects=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            ),
        )
        self._has_key = api_key is not None

    @property
    def request_headers(self) -> dict[str, str]:
        """What a request of the fast client carries; no Authorization where the provider has no key."""
        headers = {"content-type": "application/json", "accept": "application/json"}
        return {**headers, **self.auth_headers} if self._has_key else headers

    def error_for(self, response: httpx2.Response) -> openai.APIStatusError:
        """The exception that the SDK raises for this response."""
        return self._make_status_error_from_response(response)


class FastExchange:
    """Chat completions through pyreqwest.

    Args:
        client: The configured `openai` client; its address and headers are read once.
        timeout_s: From connecting to the last byte of the answer.
    """

    def __init__(self, client: ConfiguredClient, *, timeout_s: float) -> None:
        self._openai = client
        url = str(client.base_url).rstrip("/") + "/chat/completions"
        self._url = Url(url)
        self._request = httpx2.Request("POST", url)
        self._careful_calls = _CAREFUL_CALLS_FIRST
        self._http: Client = (
            ClientBuilder()
            .timeout(timedelta(seconds=timeout_s))
            .connect_timeout(timedelta(seconds=min(_CONNECT_TIMEOUT_S, timeout_s)))
            .follow_redirects(False)
            .referer(False)
            .tcp_keepalive(timedelta(seconds=_TCP_KEEPALIVE_S))
            .pool_idle_timeout(timedelta(seconds=_POOL_IDLE_S))
            .user_agent(USER_AGENT)
            .default_headers(client.request_headers)
            .build()
        )

    async def post(self, body: bytes) -> Answered:
        """See `Exchange`."""
        builder = self._http.post(self._url).body_bytes(body)
        if self._careful_calls > 0:
            self._careful_calls -= 1
            builder = builder.streamed_read_buffer_limit(0)
        try:
            async with builder.build_streamed() as response:
                content = await _read_fast(response)
        except fast.RequestTimeoutError as error:
            raise openai.APITimeoutError(self._request) from error
        except (fast.ReadError, fast.DecodeError, BrokenBody) as error:
            self._careful_calls = _CAREFUL_CALLS_MORE
            raise openai.APIConnectionError(request=self._request) from error
        except fast.PyreqwestError as error:
            raise openai.APIConnectionError(request=self._request) from error
        if response.status == 200:
            return Answered(content, response.headers)
        raise self._openai.error_for(
            httpx2.Response(response.status, headers=_decoded(response.headers), content=content, request=self._request)
        )

    async def close(self) -> None:
        """See `Exchange`."""
        await self._http.close()
        await self._openai.close()


class SdkExchange:
    """Chat completions through the `openai` package's own HTTP stack.

    Its timeout bounds each read; a server that drips bytes would never meet it, so the whole exchange
    has a deadline of its own.
    """

    def __init__(self, client: ConfiguredClient, *, timeout_s: float) -> None:
        self._openai = client
        self._timeout_s = timeout_s

    async def post(self, body: bytes) -> Answered:
        """See `Exchange`."""
        request = httpx2.Request("POST", self._openai.base_url)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._openai.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": {**self._openai.request_headers, "user-agent": USER_AGENT}},
                )
        except TimeoutError as error:
            raise openai.APITimeoutError(request) from error
        except httpx2.HTTPError as error:
            # What the SDK does not know for a failure of the transport escapes it unwrapped.
            raise openai.APIConnectionError(request=request) from error
        if response.status_code != 200:
            raise self._openai.error_for(response)
        return Answered(response.content, response.headers)

    async def close(self) -> None:
        """See `Exchange`."""
        await self._openai.close()


def make_exchange(kind: ClientKind, *, base_url: str, api_key: str | None, timeout_s: float) -> Exchange:
    """An exchange with one provider by one key (None: the provider wants none)."""
    client = ConfiguredClient(base_url=base_url, api_key=api_key, timeout_s=timeout_s)
    return FastExchange(client, timeout_s=timeout_s) if kind == "fast" else SdkExchange(client, timeout_s=timeout_s)


def received_body(error: Exception) -> bytes:
    """What came of the response that an exception of an `Exchange` stands for; empty where none began."""
    if isinstance(error, openai.APIStatusError):
        return error.response.content
    return error.__cause__.received if isinstance(error.__cause__, BrokenBody) else b""


def received_headers(error: Exception) -> Mapping[str, str] | None:
    """The headers of that response, or None where none began."""
    if isinstance(error, openai.APIStatusError):
        return error.response.headers
    return error.__cause__.headers if isinstance(error.__cause__, BrokenBody) else None


async def _read_fast(response: Response) -> bytes:
    """The body of a response of the fast client, which decompresses in a thread of its own."""
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
            raise BrokenBody(_CUT, headers=response.headers, received=b"".join(chunks)) from error
    if is_good and size > bytes_max:
        raise BrokenBody(_TOO_LARGE, headers=response.headers)
    return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)


async def _read_slow(response: httpx2.Response) -> bytes:
    """The body of a response of the SDK's client, which decompresses in pieces of at most 1 MiB."""
    is_good = response.status_code == 200
    bytes_max = BODY_BYTES_MAX if is_good else ERROR_BYTES_MAX
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in response.aiter_bytes():
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                break
            if size > _FAIR_BYTES:
                await asyncio.sleep(0)
    except httpx2.TimeoutException:
        if is_good:
            raise
    except httpx2.HTTPError as error:
        if is_good:
            raise BrokenBody(_CUT, headers=response.headers, received=b"".join(chunks)) from error
    if is_good and size > bytes_max:
        raise BrokenBody(_TOO_LARGE, headers=response.headers)
    return b"".join(chunks)


def _decoded(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers of a body that was read and decompressed."""
    return [(name, value) for name, value in headers.items() if name.lower() not in _ABOUT_THE_WIRE]
