"""One HTTP exchange, by either of two clients behind one small contract.

`fast` (the default) is pyreqwest, built on Rust's reqwest: TLS, HTTP/1.1 keep-alive, proxies from the
environment and total deadlines at about 54 µs a request. `sdk` goes through the `openai` package's own
HTTP stack, at 1 to 3 ms a request, for those who need its middleware. In both cases the `openai` client
is the object that is configured (address, authentication), its retries are off, and what is raised is
one of its exceptions.

Redirects are never followed: the key would go along to wherever they point.
"""

import asyncio
from datetime import timedelta
from typing import Literal, Protocol

import httpx2
import openai
import pyreqwest.exceptions as fast
from pyreqwest.client import Client, ClientBuilder

from batcher import __version__

ClientKind = Literal["fast", "sdk"]

USER_AGENT = f"batcher/{__version__}"

_CONNECT_TIMEOUT_S = 10.0
# A connection that a proxy dropped silently is found by the kernel, not by waiting out the timeout.
_TCP_KEEPALIVE_S = 15.0
_POOL_IDLE_S = 60.0
_NO_KEY = "none"


class Exchange(Protocol):
    """Sends one body and gives back one body."""

    async def post(self, body: bytes) -> bytes:
        """The body of a 200 response.

        Raises:
            openai.APIError: An error status, or no answer; its cause is what the transport saw.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class ConfiguredClient(openai.AsyncOpenAI):
    """The `openai` client of one provider and key; retries are off, because `RetryingCaller` owns them."""

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float) -> None:
        super().__init__(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            max_retries=0,
            timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s)),
            http_client=openai.DefaultAsyncHttpxClient(
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
        self._url = str(client.base_url).rstrip("/") + "/chat/completions"
        self._request = httpx2.Request("POST", self._url)
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

    async def post(self, body: bytes) -> bytes:
        """See `Exchange`."""
        try:
            response = await self._http.post(self._url).body_bytes(body).build().send()
            content = bytes(await response.bytes())
        except fast.RequestTimeoutError as error:
            raise openai.APITimeoutError(self._request) from error
        except fast.PyreqwestError as error:
            raise openai.APIConnectionError(request=self._request) from error
        if response.status == 200:
            return content
        headers = [(name, value) for name, value in response.headers.items() if name != "content-encoding"]
        raise self._openai.error_for(
            httpx2.Response(response.status, headers=headers, content=content, request=self._request)
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

    async def post(self, body: bytes) -> bytes:
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
            # A body that cannot be decoded or that is cut escapes the SDK unwrapped.
            raise openai.APIConnectionError(request=request) from error
        if response.status_code != 200:
            raise self._openai.error_for(response)
        return response.content

    async def close(self) -> None:
        """See `Exchange`."""
        await self._openai.close()


def make_exchange(kind: ClientKind, *, base_url: str, api_key: str | None, timeout_s: float) -> Exchange:
    """An exchange with one provider by one key (None: the provider wants none)."""
    client = ConfiguredClient(base_url=base_url, api_key=api_key, timeout_s=timeout_s)
    return FastExchange(client, timeout_s=timeout_s) if kind == "fast" else SdkExchange(client, timeout_s=timeout_s)
