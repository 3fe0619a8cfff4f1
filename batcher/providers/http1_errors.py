"""How our HTTP/1.1 client's exchange fails, told by what the server can have seen of the request.

TransportFailed
├── Http1Error
│   ├── ConnectFailed       there was no connection: nothing was sent, nothing can be billed
│   │   └── ConnectTimedOut     none in time
│   ├── ConnectionClosed    the request was sent, or begun, and no byte of an answer came
│   ├── AnswerTimeout       the request was sent, and there was no whole answer in time
│   └── BrokenHead          an answer began that is no HTTP/1.1
└── BrokenBody          a 200 whose body is cut, too large or not readable; keeps what came of it
"""

from batcher.providers.failures import TransportFailed


class Http1Error(TransportFailed):
    """Base of all failures without a response."""


class ConnectFailed(Http1Error):  # noqa: N818  # named for what happened
    """No connection: refused, unreachable, no such name, or the client is closed. Nothing was sent."""

    def __init__(self, words: str, *, is_timeout: bool = False) -> None:
        super().__init__(words, is_connecting=True, is_timeout=is_timeout)


class ConnectTimedOut(ConnectFailed):
    """No connection in time. Nothing was sent."""

    def __init__(self, words: str) -> None:
        super().__init__(words, is_timeout=True)


class ConnectionClosed(Http1Error):  # noqa: N818  # named for what happened
    """The server closed or reset the connection before an answer began; it may have served the request."""


class AnswerTimeout(Http1Error):  # noqa: N818  # named for what happened
    """No whole answer in time; the server may still be at work."""

    def __init__(self, words: str) -> None:
        super().__init__(words, is_timeout=True)


class BrokenHead(Http1Error):  # noqa: N818  # named for what happened
    """What came is not the head of an HTTP/1.1 response, or is too long for one, or was cut."""

    def __init__(self, words: str) -> None:
        super().__init__(words, has_begun=True)
