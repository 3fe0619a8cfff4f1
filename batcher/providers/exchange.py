"""One HTTP exchange, by one of three clients behind one small contract.

`fast` (the default) is an HTTP/1.1 client of our own where the address is plain `http://` and no proxy stands before
it, and pyreqwest, built on Rust's reqwest, for TLS, HTTP/2 and proxies. `sdk` goes through the `openai` package's own
HTTP stack, at 1 to 3 ms a request, for those who need its middleware. Each is in a module of its own that is
imported where it is asked for: the `openai` package takes half a second and 70 MB.

Redirects are never followed: the key would go along to wherever they point. A body is read piece by piece
and never beyond its bound, whatever it says of its length and however small it was compressed: past the
bound the connection is dropped, not drained.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from batcher import __version__
from batcher.providers.network import DIRECT, Network

ClientKind = Literal["fast", "sdk"]

USER_AGENT = f"batcher/{__version__}"

CONNECT_TIMEOUT_S = 10.0
"""To connect, where the whole call may take longer."""

BODY_BYTES_MAX = 16 * 2**20
"""Of a good answer, decompressed. The longest chat completions, 128 thousand tokens of Chinese with every
character escaped (`\\u56de`), are near 1 MiB, and an image as Base64 is a few; with 1,000 calls in flight
a provider gone mad must still not fill the memory at once."""

ERROR_BYTES_MAX = 256 * 2**10
"""Of the body of an error status, which is read for its words and its usage."""

TOO_LARGE = f"the response is larger than {BODY_BYTES_MAX // 2**20} MiB"
"""What is said of one that is."""


class Headed(Protocol):
    """What has headers: a response, or a failure that one stands behind."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case. May be made anew of the head's bytes at each look, which few responses get."""
        ...


class Answered(Headed, Protocol):
    """A 200 response, as its client keeps it: a copy would cost more than all that is ever read of it."""

    @property
    def body(self) -> bytes:
        """Whole and decompressed."""
        ...


class Received(msgspec.Struct, frozen=True):
    """An `Answered` made of its parts."""

    body: bytes
    headers: Mapping[str, str]


class Exchange(Protocol):
    """Sends one body and gives back one answer."""

    async def post(self, body: bytes) -> Answered:
        """The 200 response.

        Raises:
            StatusFailed: Another status came.
            BrokenBody: The head of a 200 response came, its body did not.
            TransportFailed: No response came.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def make_exchange(
    kind: ClientKind, *, base_url: str, api_key: str | None, timeout_s: float, network: Network = DIRECT
) -> Exchange:
    """An exchange with one provider by one key (None: the provider wants none), on the way that `network` says."""
    if kind == "sdk":
        from batcher.providers.sdk_exchange import SdkExchange  # noqa: PLC0415  # half a second

        return SdkExchange(base_url=base_url, api_key=api_key, timeout_s=timeout_s, network=network)
    from batcher.providers.plain_exchange import plain_exchange, suits  # noqa: PLC0415  # not where the SDK is asked for

    if suits(base_url, network):
        return plain_exchange(base_url=base_url, api_key=api_key, timeout_s=timeout_s)
    from batcher.providers.pyreqwest_exchange import PyreqwestExchange  # noqa: PLC0415  # nor for plain addresses

    return PyreqwestExchange(base_url=base_url, api_key=api_key, timeout_s=timeout_s, network=network)


def chat_headers(api_key: str | None) -> dict[str, str]:
    """What a request for a chat completion carries; no Authorization where the provider has no key.

    The key goes as the `openai` package sends it (a test compares them).
    """
    headers = {"content-type": "application/json", "accept": "application/json"}
    return headers if api_key is None else {**headers, "Authorization": f"Bearer {api_key}"}
