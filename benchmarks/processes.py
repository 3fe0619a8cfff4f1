"""Processes of a benchmark: each on its own core, and what each of them used.

The figures are the kernel's, for the whole process from its start to its end: `os.wait4` gives the CPU
time and the peak of the resident memory of just that child. Where the system cannot pin, nothing is pinned
and `cores` says so.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT_S = 300.0


class BenchmarkError(Exception):
    """A process did not do what it was to do; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the client and the server run; None where they are not pinned."""

    client: int | None
    server: int | None


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


def run_measured(command: Sequence[str], *, core: int | None, directory: Path) -> Used:
    """Run a program to its end, stdout and stderr in pipes.

    Raises:
        BenchmarkError: It took longer than `TIMEOUT_S`, or did not end with code 0.
    """
    environ = {**os.environ, "PYTHONPATH": str(HERE.parent), "NO_PROXY": "*", "BENCH_KEY": "none"}
    with pinned(core):
        began_s = time.monotonic()
        process = subprocess.Popen(
            command, cwd=directory, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    killer = threading.Timer(TIMEOUT_S, process.kill)
    killer.start()
    try:
        with process, ThreadPoolExecutor(2) as pool:
            assert process.stdout is not None
            assert process.stderr is not None
            stdout, stderr = pool.submit(process.stdout.read), pool.submit(process.stderr.read)
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.monotonic() - began_s
            process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        killer.cancel()
    if process.returncode != 0:
        words = " ".join(stderr.result().split())[-400:]
        raise BenchmarkError(f"{' '.join(command[1:4])} ended with code {process.returncode}: {words}")
    return Used(
        began_s=began_s,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        # Linux counts kilobytes, macOS bytes.
        memory_mb=usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
        stdout=stdout.result(),
    )


class Server:
    """The benchmark's server as a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def set_up(self, *, latency_ms: float, answer_bytes: int) -> None:
        """Answer like this from now on, and count from 0."""
        self._ask("/setup", {"latency_ms": latency_ms, "answer_bytes": answer_bytes})

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
def serving(core: int | None) -> Iterator[Server]:
    """A server that ends with the block, and with this process however that ends."""
    command = [
        sys.executable,
        str(HERE / "server.py"),
        "--with-parent",
        *([] if core is None else ["--core", str(core)]),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise BenchmarkError("the server did not start")
        yield Server(int(port))
        # Leaving the block closes the server's stdin, which ends it.
