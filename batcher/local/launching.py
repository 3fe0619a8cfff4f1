"""Bringing up the server process: who may start it, how, and what it died of.

Only the holder of `server.lock` is the server. The starter takes the lock and the child inherits it,
so of any number of starters exactly one spawns, and a lock that is free means that no server lives,
whatever notes lie about.
"""

import contextlib
import fcntl
import http.client
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import batcher
from batcher.errors import BatcherError, ExitCode, JobError, StoppedError
from batcher.local import server
from batcher.local.server import Note, Options

COMMAND = (sys.executable, "-m", "batcher.local.server")
LOOK_AGAIN_S = 0.05

_HEALTH_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is brought up; tests bring their own command and shorter times."""

    command: Sequence[str] = COMMAND
    start_timeout_s: float = 180.0
    linger_s: float = 2.0
    context_tokens: int = 2048


def spawn_unless_running(options: Options, launch: Launch, deadline_s: float) -> "subprocess.Popen[bytes] | None":
    """A new server process, or None where `server.lock` is held: one runs or is starting."""
    with _mutex(options.home / "start.lock", deadline_s):
        lock_fd = _open(options.home / "server.lock")
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            return None
        # From here on a note in this folder is the new server's: joiners look only after this mutex.
        try:
            server.remove_note(options.home)
            return _spawn(options, launch, lock_fd)
        finally:
            os.close(lock_fd)


def _spawn(options: Options, launch: Launch, lock_fd: int) -> "subprocess.Popen[bytes]":
    """Start the process. It inherits the lock, so there is no moment at which nobody holds it.

    A session of its own: Ctrl-C in the terminal is for the run, which still wants its last answers.
    """
    try:
        with (options.home / "server.log").open("wb") as log:
            return subprocess.Popen(
                [*launch.command, *options.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=options.home,
                env=_environment(),
                pass_fds=(lock_fd,),
                start_new_session=True,
            )
    except OSError as error:
        raise StoppedError(f"cannot start the server of {options.alias}: {error.strerror or error}") from error


def _environment() -> dict[str, str]:
    """This process's environment, in which a checkout that is not installed is found too.

    An installed package needs no help, and its folder must not come before the standard library.
    """
    package_root = str(Path(batcher.__file__).resolve().parent.parent)
    if package_root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        return dict(os.environ)
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def wait_healthy(options: Options, process: "subprocess.Popen[bytes]", launch: Launch, deadline_s: float) -> Note:
    """The note of the server just started, once it answers; the process is gone when this raises."""
    try:
        while True:
            # The order matters: a process that has ended writes no note any more.
            has_ended = process.poll() is not None
            note = server.read_note(options.home)
            if note is not None and note.error is None and is_healthy(note):
                return note
            if has_ended:
                raise died(options, process)
            if time.monotonic() > deadline_s:
                raise StoppedError(
                    f"the server of {options.alias} did not answer in {launch.start_timeout_s:g} s{_log_end(options)}",
                    hint=f"its log is {options.home / 'server.log'}",
                )
            time.sleep(LOOK_AGAIN_S)
    except BaseException:
        process.kill()
        process.wait()
        raise


def died(options: Options, process: "subprocess.Popen[bytes]") -> BatcherError:
    """Why the server ended: its own sentence, else the signal or exit code and the end of its log."""
    note = server.read_note(options.home)
    if note is not None and note.error is not None:
        kind = JobError if process.returncode == ExitCode.USAGE else StoppedError
        return kind(note.error, hint=note.hint)
    code = process.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return StoppedError(
        f"the server of {options.alias} ended by itself ({how}){_log_end(options)}",
        hint=f"its log is {options.home / 'server.log'}",
    )


def _log_end(options: Options) -> str:
    """The last line of the log, for an error message."""
    try:
        lines = (options.home / "server.log").read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:300]}" if last else ""


def is_healthy(note: Note) -> bool:
    """Whether the server answers; llama.cpp says 503 while it loads. No proxy is asked for loopback."""
    connection = http.client.HTTPConnection(note.reach_host, note.port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def stop_unless_shared(process: "subprocess.Popen[bytes]", users_fd: int) -> None:
    """End the server, unless a run holds it too: then it ends with the last of them."""
    try:
        fcntl.flock(users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def hold(users: Path, deadline_s: float) -> int:
    """A shared lock on `users`. It is free, or held for the instant that an old server needs to end."""
    return _lock(users, fcntl.LOCK_SH, deadline_s)


@contextlib.contextmanager
def _mutex(path: Path, deadline_s: float) -> Iterator[None]:
    """One at a time across processes; the kernel lets go for a holder that was killed."""
    fd = _lock(path, fcntl.LOCK_EX, deadline_s)
    try:
        yield
    finally:
        os.close(fd)


def _lock(path: Path, how: int, deadline_s: float) -> int:
    """A locked descriptor. flock itself knows no timeout, so it is tried again until the deadline."""
    fd = _open(path)
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                os.close(fd)
                raise StoppedError(f"{path} stayed locked by another process; stop it and run again") from None
            time.sleep(LOOK_AGAIN_S)
        else:
            return fd


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JobError(
            f"cannot use the cache folder {path.parent}: {error.strerror or error}",
            hint="set BATCHER_CACHE to a folder that you can write to",
        ) from error
