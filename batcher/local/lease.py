"""A local model for as long as it is needed: started on demand, shared where it already runs.

    with lease.start("smollm2-135m", tell=print) as lease:
        ...  # lease.base_url, lease.model, lease.slots

Two runs that start at once get one server. A run that ends, in whatever way, lets go of it, and the
server ends by itself when nobody holds it (see `server`). What is not promised: a server that dies
while in use is not started again; its users see refused connections, as with any provider.

Servers are kept apart by the model file and by the loopback they are reachable on, so containers and
hosts that share a cache folder never look for each other's.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from batcher.errors import JobError, StoppedError
from batcher.local import launching, models, server
from batcher.local.launching import Launch
from batcher.local.server import Note, Options


class Lease:
    """The right to use a running server. Close it, or leave its `with` block, to let go.

    Attributes:
        base_url: The OpenAI-compatible API, `http://127.0.0.1:PORT/v1`. It wants no key.
        model: The name to put into requests.
        slots: Requests that are answered side by side; more wait in the server.
        pid: The server's process.
        was_running: Whether somebody else had started it.
    """

    def __init__(self, note: Note, users_fd: int, process: "subprocess.Popen[bytes] | None") -> None:
        self.base_url = note.base_url
        self.model = note.alias
        self.slots = note.slots
        self.pid = note.pid
        self.was_running = process is None
        self._users_fd: int | None = users_fd
        self._process = process
        if process is not None:
            # Nobody waits for the server in the foreground, but its end must not leave a zombie.
            threading.Thread(target=process.wait, daemon=True).start()

    def close(self) -> None:
        """Let go. Closing twice is fine.

        The lease that started the server ends it at once, unless others still use it; then it ends
        within seconds of the last of them.
        """
        if self._users_fd is None:
            return
        if self._process is not None:
            launching.stop_unless_shared(self._process, self._users_fd)
        os.close(self._users_fd)
        self._users_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check(model: str) -> None:
    """Find out, without fetching or starting anything, whether the model can be served here.

    Raises:
        JobError: No such model or file, or no xllamacpp.
    """
    models.find(model)
    if importlib.util.find_spec("xllamacpp") is None:
        raise JobError(f"the local model {model} needs xllamacpp, which is not installed", hint=server.INSTALL_HINT)


def start(
    model: str,
    *,
    slots: int = 8,
    tell: Callable[[str], None] = lambda _: None,
    launch: Launch | None = None,
) -> Lease:
    """A healthy server of that model: the one that runs already, or a new one. Blocks until it answers.

    Args:
        model: A known name (fetched on first use) or the path of a GGUF file.
        slots: For a new server; one that runs already keeps its own number.
        tell: Is given a sentence before something that takes a while.
        launch: For tests.

    Raises:
        JobError: No such model, no xllamacpp, or llama.cpp cannot load the file.
        StoppedError: The server died at its start or did not answer in time.
        StorageError: The cache's disk is full.
    """
    launch = launch or Launch()
    path = _model_file(model, tell, launch)
    home = _home(path)
    options = _options(home, path, model, host="127.0.0.1", port=0, slots=slots, launch=launch)
    deadline_s = time.monotonic() + launch.start_timeout_s
    users_fd = launching.hold(home / "users", deadline_s)
    try:
        note, process = _join_or_spawn(options, launch, deadline_s, tell)
    except BaseException:
        os.close(users_fd)
        raise
    return Lease(note, users_fd, process)


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    slots: int = 8,
    ready: Callable[[str], None],
    tell: Callable[[str], None] = lambda _: None,
    launch: Launch | None = None,
) -> None:
    """Serve the model on a chosen port until Ctrl-C. Runs on this machine share the server.

    After Ctrl-C the server ends at once, or with its last run where one still uses it.

    Args:
        model: A known name or the path of a GGUF file.
        host: The address to listen on. There is no authentication: keep to loopback.
        port: 0 takes a free one.
        slots: Requests that are answered side by side.
        ready: Is given the base URL when the server answers.
        tell: Is given a sentence before something that takes a while.
        launch: For tests.

    Raises:
        JobError: As `start`, or the port is taken.
        StoppedError: The server died.
    """
    launch = launch or Launch()
    path = _model_file(model, tell, launch)
    deadline_s = time.monotonic() + launch.start_timeout_s
    # Where a run's server holds the model's own place, this one gets a place by its address.
    for home in (_home(path), _home(path, address=f"{host}:{port}")):
        options = _options(home, path, model, host=host, port=port, slots=slots, launch=launch)
        with contextlib.ExitStack() as stack:
            users_fd = launching.hold(home / "users", deadline_s)
            stack.callback(os.close, users_fd)
            process = launching.spawn_unless_running(options, launch, deadline_s)
            if process is None:
                continue
            try:
                ready(launching.wait_healthy(options, process, launch, deadline_s).base_url)
                process.wait()
            except KeyboardInterrupt:
                launching.stop_unless_shared(process, users_fd)
                return
            except BaseException:
                process.kill()
                process.wait()
                raise
            raise launching.died(options, process)
    raise JobError(f"{model} is already being served on {host}:{port}", hint="choose another with --port")


def _model_file(model: str, tell: Callable[[str], None], launch: Launch) -> Path:
    """The GGUF; says that xllamacpp is missing before a model is fetched in vain."""
    if launch.command == launching.COMMAND:
        check(model)
    return models.find(model) or models.pull(model, tell)


def _home(path: Path, *, address: str = "") -> Path:
    """The folder of the servers of this file that are reachable from here."""
    state = path.stat()
    loopback = [platform.node()]
    with contextlib.suppress(OSError):
        loopback.append(str(Path("/proc/self/ns/net").stat().st_ino))
    name = "\0".join([str(path), str(state.st_size), str(state.st_mtime_ns), *loopback, address])
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return models.make_directory(models.cache_directory() / "servers" / digest)


def _options(home: Path, path: Path, model: str, *, host: str, port: int, slots: int, launch: Launch) -> Options:
    return Options(
        home=home,
        model=path,
        alias=models.alias(model),
        host=host,
        port=port,
        slots=slots,
        context_tokens=launch.context_tokens,
        linger_s=launch.linger_s,
    )


def _join_or_spawn(
    options: Options, launch: Launch, deadline_s: float, tell: Callable[[str], None]
) -> "tuple[Note, subprocess.Popen[bytes] | None]":
    """The note of a healthy server, and its process where this call started it."""
    while True:
        process = launching.spawn_unless_running(options, launch, deadline_s)
        if process is not None:
            tell(f"starting {options.alias} on this machine ({options.slots} requests side by side)")
            return launching.wait_healthy(options, process, launch, deadline_s), process
        # Somebody else's server runs or is starting; should it fail, the next turn starts one.
        note = server.read_note(options.home)
        if note is not None and note.error is None and launching.is_healthy(note):
            return note, None
        if time.monotonic() > deadline_s:
            who = f"pid {note.pid} on port {note.port}" if note else "which is still starting"
            raise StoppedError(
                f"the running server of {options.alias} ({who}) did not answer in {launch.start_timeout_s:g} s",
                hint=f"stop it and run again; its log is {options.home / 'server.log'}",
            )
        time.sleep(launching.LOOK_AGAIN_S)
