"""What an exchange raises where it has no good answer: three light exceptions, whatever client is behind it.

An error status is `StatusFailed`, a transport that failed is `TransportFailed`, and a response that began and
did not end well is its special case `BrokenBody`. They hold what was seen and judge nothing: `classify` turns
each into a `CallError` of a known kind. Nothing here imports a client, so that a failure is judged at once,
without the half second that the `openai` package takes to load: a Retry-After must pause its key before
another request is sent.
"""

from collections.abc import Mapping


class StatusFailed(Exception):  # noqa: N818  # what failed; `CallError` is the error
    """An error status came.

    Args:
        status: The HTTP status, any but 200.
        headers: Found by name in any case, as the client keeps them.
        body: Decompressed; empty where it did not come whole, or not within its bound.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body


class TransportFailed(Exception):  # noqa: N818  # see above
    """No response came, or not enough of one.

    Args:
        words: What the client says of it, from the outermost cause to the innermost; at least one.
        is_connecting: No connection was made, so nothing was sent and nothing is billed.
        is_timeout: The time was over.
        has_begun: Part of a response came: it was cut, or is none.
    """

    def __init__(
        self, *words: str, is_connecting: bool = False, is_timeout: bool = False, has_begun: bool = False
    ) -> None:
        super().__init__("\n".join(words))
        self.words = words
        self.is_connecting = is_connecting
        self.is_timeout = is_timeout
        self.has_begun = has_begun


class BrokenBody(TransportFailed):
    """The head of a response came, its body did not: cut, not decodable, or larger than its bound.

    `received` is what came of the body, decompressed; empty where it is larger than its bound.
    """

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None, received: bytes = b"") -> None:
        super().__init__(message, has_begun=True)
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.received = received


def received_body(error: StatusFailed | TransportFailed) -> bytes:
    """What came of the response that a failure stands for; empty where none began."""
    if isinstance(error, StatusFailed):
        return error.body
    return error.received if isinstance(error, BrokenBody) else b""


def causes_of(error: BaseException) -> list[BaseException]:
    """An exception, what caused it, what caused that, and so on."""
    causes: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None:
        causes.append(seen)
        seen = seen.__cause__ or seen.__context__
    return causes
