"""The fast client for plain addresses: chat completions through our own HTTP/1.1 client.

Everything else (TLS, proxies, an address with a password or beyond ASCII) is `PyreqwestExchange`'s; `suits`
tells which is which.
"""

from batcher.providers.exchange import BODY_BYTES_MAX, CONNECT_TIMEOUT_S, ERROR_BYTES_MAX, USER_AGENT, chat_headers
from batcher.providers.http1 import Http1Client, is_plain_url
from batcher.providers.network import Network


def suits(base_url: str, network: Network) -> bool:
    """Whether the plain client can serve this address: `http://`, no password, all ASCII, no proxy on the way."""
    return network.proxy is None and is_plain_url(base_url)


def plain_exchange(*, base_url: str, api_key: str | None, timeout_s: float) -> Http1Client:
    """An exchange of chat completions.

    Args:
        base_url: The address up to and with /v1; one that `suits`.
        api_key: None where the provider wants none.
        timeout_s: From connecting to the last byte of the answer.
    """
    return Http1Client(
        base_url.rstrip("/") + "/chat/completions",
        headers={"user-agent": USER_AGENT, **chat_headers(api_key)},
        timeout_s=timeout_s,
        connect_timeout_s=min(CONNECT_TIMEOUT_S, timeout_s),
        body_bytes_max=BODY_BYTES_MAX,
        error_bytes_max=ERROR_BYTES_MAX,
    )
