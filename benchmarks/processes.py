"""Processes of a benchmark: each on its own core, and what each of them used.

The figures are the kernel's, for the whole process from its start to its end: `os.wait4` in `launch.py` gives the
CPU time and the peak of the resident memory of just that child. Where the system cannot pin (macOS), or there is
only one core, nothing is pinned, and `Cores.described` says so.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 600.0
_FILES_BESIDE = 256
"""Of a process, beside its connections."""


class BenchmarkError(Exception):
    """A process did not do what it was to do; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the client and the server run; None where they are not pinned."""

    client: int | None
    server: int | None

    @property
    def described(self) -> str:
        """For people."""
        if self.client is not None:
            return "one core for the client, another for the server"
        return "nothing pinned: there is one core only, or the system cannot pin"


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files of a server's certificate and of the authority that issued it, PEM."""

    authority: Path
    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Used:
    """What one process took. `began_s` is of the monotonic clock, which all processes share."""

    began_s: float
    wall_s: float
    cpu_s: float
    memory_mb: float
    stdout: str


def choose_cores() -> Cores:
    """The first core that is ours for the client, the last for the server."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores(None, None)
    ours = sorted(os.sched_getaffinity(0))
    return Cores(ours[0], ours[-1]) if len(ours) > 1 else Cores(None, None)


def end_children_on_sigterm() -> None:
    """A SIGTERM ends this process as Ctrl-C does: what it started ends before it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def room_for_connections() -> int:
    """How many connections a process started from here may have, once its limit of open files is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    elif hard == resource.RLIM_INFINITY:
        # macOS says "unlimited" and takes no more than this.
        soft = max(soft, 10_240)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - _FILES_BESIDE


def issue_certificate(directory: Path) -> Certificate:
    """A certificate for the loopback address, by an authority made here that nobody else knows."""
    import trustme  # noqa: PLC0415  # scripts beside this one do without it

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    files = Certificate(directory / "authority.pem", directory / "chain.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(files.authority)
    issued.private_key_pem.write_to_path(files.key)
    files.chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    return files


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """What is started meanwhile runs on this core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_measured(
    command: Sequence[str],
    *,
    core: int | None,
    directory: Path,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Used:
    """Run a program to its end, stdout and stderr in pipes.

    Args:
        command: The program and its arguments.
        core: Where it runs; None for anywhere.
        directory: Its current directory.
        environ: Set beside what is set already.
        timeout_s: When it is ended, with all that it started.

    Raises:
        BenchmarkError: It took longer, or did not end with code 0.
    """
    environ = {**os.environ, "PYTHONPATH": str(HERE.parent), "NO_PROXY": "*", "BENCH_KEY": "none", **(environ or {})}
    report = directory / "used.txt"
    report.unlink(missing_ok=True)
    launch = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(report.absolute()), *command]
    with pinned(core):
        # A session of its own, so that nothing outlives a timeout or Ctrl-C.
        process = subprocess.Popen(
            launch, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{_named(command)} took longer than {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        words = " ".join(stderr.split())[-400:]
        raise BenchmarkError(f"{_named(command)} ended with code {process.returncode}: {words}")
    began_s, wall_s, cpu_s, memory = map(float, report.read_text(encoding="ascii").split()[:4])
    # Linux counts kilobytes, macOS bytes.
    memory_mb = memory / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return Used(began_s=began_s, wall_s=wall_s, cpu_s=cpu_s, memory_mb=memory_mb, stdout=stdout)


def _named(command: Sequence[str]) -> str:
    return " ".join(command[1:4])


class Server:
    """The benchmark's server as a process of its own; `tls_port` is None where it has no certificate."""

    def __init__(self, port: int, tls_port: int | None = None) -> None:
        self.port, self.tls_port = port, tls_port

    def set_up(self, **setup: float) -> None:
        """Answer like this from now on, and count from 0; the fields of `server.Setup`."""
        self._ask("/setup", setup)

    def seen(self) -> dict[str, Any]:
        """What it saw since; see `server.Seen`."""
        return self._ask("/seen")

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        sent = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}{path}", sent, timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
        return said


@contextlib.contextmanager
def serving(core: int | None, certificate: Certificate | None = None) -> Iterator[Server]:
    """A server that ends with the block, and with this process however that ends."""
    command = [sys.executable, str(HERE / "server.py"), "--with-parent"]
    command += [] if core is None else ["--core", str(core)]
    if certificate is not None:
        command += ["--certificate", str(certificate.chain), "--key", str(certificate.key)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        if not ports:
            raise BenchmarkError("the server did not start")
        yield Server(*map(int, ports))
        # Leaving the block closes the server's stdin, which ends it.
