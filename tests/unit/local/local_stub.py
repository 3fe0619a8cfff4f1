"""A server command for the lifecycle tests: `batcher.local.server` as it is, with a tiny HTTP server for an engine.

The environment variable LOCAL_STUB says how it behaves: `ok`, `loading` (503 for the first answers), `refuses`
(the engine cannot load the model), `crashes` (a signal, as an illegal instruction gives), `hangs` while it loads.
Every process that gets as far as loading adds a line to the file LOCAL_STUB_STARTS.
"""

import http.server
import os
import signal
import sys
import threading
from pathlib import Path

from batcher.errors import JobError
from batcher.local.server import Options, main


class StubEngine:
    """Answers /health; holds nothing else."""

    def __init__(self, host: str, port: int, answers_503: int) -> None:
        left = [answers_503]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                left[0] -= 1
                self.send_response(503 if left[0] >= 0 else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((host, port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])


def load(options: Options) -> StubEngine:
    mode = os.environ.get("LOCAL_STUB", "ok")
    with Path(os.environ["LOCAL_STUB_STARTS"]).open("a", encoding="utf-8") as starts:
        starts.write(f"{os.getpid()}\n")
    if mode == "refuses":
        raise JobError(f"cannot load {options.model.name}", hint="take another")
    if mode == "crashes":
        print("a last word", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "hangs":
        threading.Event().wait()
    return StubEngine(options.host, options.port, 3 if mode == "loading" else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load=load))
