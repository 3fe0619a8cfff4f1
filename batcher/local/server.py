"""The process that serves one local model, `python -m batcher.local.server`.

It is started by `launching` and belongs to all its users. Each user holds a shared lock on the
file `users`; the kernel drops that lock however the user ends, `kill -9` included. When the last one
is gone for `linger_s`, the process ends: no run leaves a server behind, and nobody has to count.

    home/server.lock   held exclusively by this process from before its birth to its end
    home/users         held shared by every user; the server waits to get it exclusively
    home/server.json   the note: where to reach the server, or why it could not start
    home/server.log    what the engine has to say

The engine is llama.cpp's own server in this process (xllamacpp): continuous batching over the slots.
"""

import argparse
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from batcher.errors import BatcherError, ExitCode, JobError
from batcher.storage.durable import LocalDisk

INSTALL_HINT = "`pip install 'batcher[local]'` brings the package xllamacpp, which runs local models"

_NOTE = "server.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What a server is started with. `context_tokens` is per slot; port 0 takes a free one."""

    home: Path
    model: Path
    alias: str
    host: str
    port: int
    slots: int
    context_tokens: int
    linger_s: float

    def arguments(self) -> list[str]:
        """The command line that `parse` reads back."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in asdict(self).items()]


@dataclass(frozen=True, slots=True)
class Note:
    """What a server tells those who look for it. `error` is set instead of a port when it could not start."""

    pid: int
    alias: str
    host: str
    port: int
    slots: int
    started_at: float
    error: str | None = None
    hint: str | None = None

    @property
    def base_url(self) -> str:
        """Where the OpenAI-compatible API begins."""
        host = f"[{self.reach_host}]" if ":" in self.reach_host else self.reach_host
        return f"http://{host}:{self.port}/v1"

    @property
    def reach_host(self) -> str:
        """The host to connect to: a server on all addresses is reached by loopback."""
        return "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104  # compared, not bound


class Engine(Protocol):
    """A model that is being served for as long as the object lives."""

    @property
    def port(self) -> int:
        """The port it listens on."""
        ...


Load = Callable[[Options], Engine]


def read_note(home: Path) -> Note | None:
    """The server's note, or None where there is none (or one of another version)."""
    try:
        return Note(**json.loads((home / _NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remove_note(home: Path) -> None:
    """Forget the server that was here before."""
    (home / _NOTE).unlink(missing_ok=True)


def parse(arguments: Sequence[str]) -> Options:
    """The options from the command line of the process."""
    parser = argparse.ArgumentParser(prog="python -m batcher.local.server", description="Serve one GGUF model.")
    types: dict[str, Callable[[str], object]] = {
        "home": Path, "model": Path, "alias": str, "host": str, "port": int,
        "slots": int, "context-tokens": int, "linger-s": float,
    }  # fmt: skip
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str], *, load: Load | None = None) -> int:
    """Serve until nobody uses the server any more; returns only where it could not start."""
    options = parse(arguments)
    threading.Thread(target=_leave_when_unused, args=(options,), daemon=True).start()
    try:
        _refuse_taken_port(options)
        engine = (load or load_llama)(options)
    except BatcherError as error:
        _write_note(options, port=0, error=error)
        return int(error.exit_code)
    _write_note(options, port=engine.port)
    threading.Event().wait()
    return int(ExitCode.OK)


def load_llama(options: Options) -> Engine:
    """llama.cpp's server with the model loaded.

    Raises:
        JobError: xllamacpp is missing, or llama.cpp cannot load the file.
    """
    # OpenMP's threads spin while they wait: with one other busy process that costs a factor of ten or
    # more. Both are read once, when the library is loaded.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["GOMP_SPINCOUNT"] = "0"
    try:
        import xllamacpp  # noqa: PLC0415  # optional, and must not be loaded before the lines above
    except ImportError as error:
        raise JobError(f"a local model needs xllamacpp: {error}", hint=INSTALL_HINT) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context_tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
    # Prompts of earlier requests are kept in the slots; llama.cpp's 8 GiB store of older ones is not for us.
    params.cache_ram_mib = 0
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise JobError(
            f"llama.cpp cannot load {options.model.name}",
            hint=f"its reason is in {options.home / 'server.log'}",
        ) from error
    return _Llama(server, port=int(re.findall(r":(\d+)", server.listening_address)[-1]))


@dataclass(frozen=True, slots=True)
class _Llama:
    """Holds the C++ server: it stops when the object goes."""

    server: object
    port: int


def threads() -> int:
    """All cores but one: with every core taken, one busy neighbour slows each step to its own pace."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, cores - 1)


def _leave_when_unused(options: Options) -> None:
    """End the process when `users` has been free for `linger_s`."""
    users = os.open(options.home / "users", os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        # The kernel wakes this thread when the last user lets go.
        fcntl.flock(users, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_UN)
        time.sleep(options.linger_s)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        # Still locked: whoever comes now waits until this process is gone, then starts a new one.
        os._exit(0)


def _refuse_taken_port(options: Options) -> None:
    """llama.cpp says only that it failed; a chosen port is the likely reason, so it is tried first."""
    if options.port == 0:
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise JobError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
            hint="choose another with --port",
        ) from error


def _write_note(options: Options, *, port: int, error: BatcherError | None = None) -> None:
    note = Note(
        pid=os.getpid(),
        alias=options.alias,
        host=options.host,
        port=port,
        slots=options.slots,
        started_at=time.time(),
        error=error.message if error else None,
        hint=error.hint if error else None,
    )
    body = json.dumps(asdict(note), ensure_ascii=False).encode()

    def write(file: BinaryIO) -> None:
        file.write(body)

    LocalDisk().durable_write(options.home / _NOTE, write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
