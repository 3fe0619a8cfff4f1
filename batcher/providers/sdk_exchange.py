"""The `openai` package: configured for one provider and key, asked for chat completions, its exceptions read.

Importing this takes half a second and 70 MB, so that only what goes through the package does it: `client: sdk`
and the probes of `batcher doctor`.
"""

import asyncio
import re
from typing import Any

import httpx2
import openai

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
from batcher.providers.network import DIRECT, Network
from batcher.providers.network_tls import sdk_options

_NO_KEY = "none"
# Decompressing this much takes a few milliseconds; then others have their turn.
_FAIR_BYTES = 2**20

# How h11 and the package's own transport speak of an answer whose head is none.
_BROKEN_HEAD = re.compile(r"without sending complete|receive buffer too long", re.IGNORECASE)


class _BoundedClient(openai.DefaultAsyncHttpxClient):
    """The SDK's HTTP client with a bound on bodies. Beside this it is the SDK's own."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """A response that is read, within its bound; one that was asked for as a stream is handed on."""
        response = await super().send(request, stream=True, **options)
        if stream:
            return response
        try:
            content = await _read(response)
        finally:
            await response.aclose()
        # What was read is decompressed, and as long as it is.
        about_the_wire = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in about_the_wire]
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


class ConfiguredClient(openai.AsyncOpenAI):
    """The `openai` client of one provider and key; retries are off, because `RetryingCaller` owns them."""

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float, network: Network = DIRECT) -> None:
        super().__init__(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            http_client=_BoundedClient(
                follow_redirects=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                **sdk_options(network),
            ),
        )


class SdkExchange:
    """Chat completions through the `openai` package's own HTTP stack.

    Its timeout bounds each read; a server that drips bytes would never meet it, so the whole exchange
    has a deadline of its own.

    Args:
        base_url: The address up to and with /v1.
        api_key: None where the provider wants none.
        timeout_s: From connecting to the last byte of the answer.
        network: The way to the address.
    """

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float, network: Network = DIRECT) -> None:
        self._openai = ConfiguredClient(base_url=base_url, api_key=api_key, timeout_s=timeout_s, network=network)
        self._headers = {**chat_headers(api_key), "user-agent": USER_AGENT}
        self._timeout_s = timeout_s

    async def post(self, body: bytes) -> Answered:
        """See `Exchange`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._openai.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": self._headers},
                )
        except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
            # What the SDK does not know for a failure of the transport escapes it unwrapped.
            raise exchange_failed(error) from error
        if response.status_code != 200:
            raise StatusFailed(response.status_code, response.headers, response.content)
        return Received(response.content, response.headers)

    async def close(self) -> None:
        """See `Exchange`."""
        await self._openai.close()


def exchange_failed(error: openai.APIError | httpx2.HTTPError | TimeoutError) -> StatusFailed | TransportFailed:
    """What an exception of the SDK, or one that escaped it, stands for, told by the whole chain of causes."""
    if isinstance(error, openai.APIStatusError):
        return StatusFailed(error.status_code, error.response.headers, error.response.content)
    if isinstance(error, openai.APIResponseValidationError):
        return TransportFailed(error.message, has_begun=True)
    causes = causes_of(error)
    for cause in causes:
        if isinstance(cause, BrokenBody):
            return cause
    said = " ".join(map(str, causes))
    # The SDK's aiohttp transport reports a refused connection as a timeout.
    is_refused = any("ConnectorError" in type(cause).__name__ for cause in causes)
    is_late = isinstance(error, TimeoutError) or _is_any(causes, httpx2.TimeoutException, openai.APITimeoutError)
    is_broken = _is_any(causes, httpx2.DecodingError) or _BROKEN_HEAD.search(said) is not None
    is_unmade = _is_any(causes, httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
    return TransportFailed(
        _innermost_words(error),
        is_connecting=is_unmade or (is_late and is_refused),
        is_timeout=is_late and not is_refused,
        has_begun=is_broken and not is_late,
    )


async def _read(response: httpx2.Response) -> bytes:
    """The body of a response, which is decompressed in pieces of at most 1 MiB."""
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
            raise BrokenBody(_innermost_words(error), headers=response.headers, received=b"".join(chunks)) from error
    if is_good and size > bytes_max:
        raise BrokenBody(TOO_LARGE, headers=response.headers)
    return b"".join(chunks)


def _innermost_words(error: BaseException) -> str:
    innermost = causes_of(error)[-1]
    return str(innermost) or type(innermost).__name__


def _is_any(causes: list[BaseException], *types: type[BaseException]) -> bool:
    return any(isinstance(cause, types) for cause in causes)
