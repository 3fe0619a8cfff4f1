"""The fast client for plain addresses: chat completions through our own HTTP/1.1 client.

Everything else (TLS, proxies, an address with a password or beyond ASCII) is `PyreqwestExchange`'s; `suits`
tells which is which.
"""

from batcher.providers.exchange import (
    BODY_BYTES_MAX,
    CONNECT_TIMEOUT_S,
    ERROR_BYTES_MAX,
    USER_AGENT,
    Answered,
    chat_headers,
)
from batcher.providers.failures import BrokenBody, StatusFailed, TransportFailed
from batcher.providers.http1 import Http1Client, is_plain_url
from batcher.providers.http1_errors import (
    AnswerTimeout,
    BrokenContent,
    BrokenHead,
    ConnectFailed,
    ConnectTimedOut,
    Http1Error,
)
from batcher.providers.network import Network


def suits(base_url: str, network: Network) -> bool:
    """Whether the plain client can serve this address: `http://`, no password, all ASCII, no proxy on the way."""
    return network.proxy is None and is_plain_url(base_url)


class PlainExchange:
    """Chat completions through `Http1Client`.

    Args:
        base_url: The address up to and with /v1; one that `suits`.
        api_key: None where the provider wants none.
        timeout_s: From connecting to the last byte of the answer.
    """

    def __init__(self, *, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._http = Http1Client(
            base_url.rstrip("/") + "/chat/completions",
            headers={"user-agent": USER_AGENT, **chat_headers(api_key)},
            timeout_s=timeout_s,
            connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
            body_bytes_max=BODY_BYTES_MAX,
            error_bytes_max=ERROR_BYTES_MAX,
        )

    async def post(self, body: bytes) -> Answered:
        """See `Exchange`."""
        try:
            response = await self._http.post(body)
        except Http1Error as error:
            raise transport_failed(error) from error
        if response.status == 200:
            return Answered(response.body, response.headers)
        raise StatusFailed(response.status, response.headers, response.body)

    async def close(self) -> None:
        """See `Exchange`."""
        await self._http.close()


def transport_failed(error: Http1Error) -> TransportFailed:
    """What an exception of our client stands for."""
    if isinstance(error, BrokenContent):
        return BrokenBody(str(error), headers=error.headers, received=error.received)
    return TransportFailed(
        str(error),
        is_connecting=isinstance(error, ConnectFailed),
        is_timeout=isinstance(error, AnswerTimeout | ConnectTimedOut),
        has_begun=isinstance(error, BrokenHead),
    )
