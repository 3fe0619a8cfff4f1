"""A provider on loopback whose answers the test writes, and that remembers every request it got."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def text(self) -> str:
        """The last message's text."""
        return str(self.body["messages"][-1]["content"])

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class Said:
    """One response."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[Asked], Said]


def completion(text: str, **more: Any) -> Said:
    """A good answer."""
    return Said(
        body={
            "id": "c1", "object": "chat.completion", "model": "served-model", "system_fingerprint": "fp_1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
            **more,
        }
    )  # fmt: skip


def echo(asked: Asked) -> Said:
    return completion(asked.text)


class Loopback:
    """Serves `answer` until it closes; use as a context manager. `asked` are the requests so far."""

    def __init__(self, answer: Answer = echo) -> None:
        self.asked: list[Asked] = []
        self.answer = answer
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "Loopback":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._serve(self.rfile.read(int(self.headers.get("content-length") or 0)))

            def do_GET(self) -> None:
                self._serve(b"null")

            def _serve(self, content: bytes) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                with outer._lock:
                    asked = Asked(len(outer.asked) + 1, self.path, headers, json.loads(content))
                    outer.asked.append(asked)
                said = outer.answer(asked)
                body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in {"content-type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
