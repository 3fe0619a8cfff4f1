"""Who is measured, and one measurement of one of them, believed only as far as the server saw it too."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from job import Features, job_file
from processes import HERE, BenchmarkError, Cores, Server, Used, run_measured
from workloads import (
    AIOHTTP,
    BATCHER,
    BATCHER_SDK,
    OWN,
    PYREQWEST,
    RAWEST,
    SDK,
    TUTORIAL,
    Workload,
)


@dataclass(frozen=True, slots=True)
class Task:
    """What one process is to do: the workload's rows, asked at `url`, files in `directory`."""

    workload: Workload
    rows: int
    url: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that can ask all rows. `rows_share` keeps the slow ones short."""

    name: str
    command: Callable[[Task], list[str]]
    rows_share: float = 1.0
    is_batcher: bool = False

    def rows(self, workload: Workload, rows: int) -> int:
        """How many rows this one asks where `--rows` is `rows`.

        A slow client makes some requests before the first of them leaves, and they are not in the time that is
        taken; with four times as many rows as calls in flight, that flatters it by a quarter at most (with 10,000
        in flight, where only thin clients are measured, twice as many are enough).
        """
        times = 4 if workload.in_flight <= 1000 else 2
        return max(int(rows * workload.rows_factor * self.rows_share), times * workload.in_flight)


class Measurement(msgspec.Struct, frozen=True):
    """One process, from its start to its end."""

    rows: int
    rows_per_s: float
    """From the first request the server got to the last answer it gave."""
    rows_per_s_whole: float
    """Of the whole process: start-up, and for batcher the results, included."""
    first_request_s: float
    cpu_s: float
    memory_mb: float
    client_busy: float
    """CPU time over the time of the whole process: near 1, its core is what was measured."""
    in_flight_max: int
    """Most calls at once that the server saw."""
    server_busy: float
    """Share of its core that the server used meanwhile: near 1, the server is what was measured."""


def _client(name: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        workload = task.workload
        options = ["--url", task.url, "--rows", str(task.rows), "--in-flight", str(workload.in_flight)]
        options += ["--text-bytes", str(workload.text_bytes)] if workload.text_bytes else []
        options += ["--without-labels"] if workload.answer_bytes else []
        return [sys.executable, str(HERE / "clients.py"), name, *options]

    return command


def _batcher(client: str) -> Callable[[Task], list[str]]:
    def command(task: Task) -> list[str]:
        job = job_file(task.directory, task.workload, task.rows, url=task.url, features=Features(client=client))
        return [sys.executable, "-m", "batcher", "run", job.name, "--fresh"]

    return command


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(RAWEST, _client("rawest")),
        Contender(OWN, _client("own")),
        Contender(PYREQWEST, _client("pyreqwest")),
        Contender(AIOHTTP, _client("aiohttp"), rows_share=0.2),
        Contender(SDK, _client("sdk"), rows_share=0.02),
        Contender(TUTORIAL, _client("tutorial"), rows_share=0.02),
        Contender(BATCHER, _batcher("fast"), is_batcher=True),
        Contender(BATCHER_SDK, _batcher("sdk"), rows_share=0.02, is_batcher=True),
    )
}
"""By name, in the order of the tables."""


def measure(
    contender: Contender,
    workload: Workload,
    rows: int,
    *,
    server: Server,
    cores: Cores,
    directory: Path,
    authority: Path | None = None,
) -> Measurement:
    """Run one contender once, and believe it only what the server saw too.

    Args:
        contender: Who.
        workload: What is asked; it is set up at the server here.
        rows: How many.
        server: Everybody's.
        cores: Where the contender runs.
        directory: For inputs and runs; runs are removed afterwards.
        authority: Who issued the server's certificate; told to everybody by `SSL_CERT_FILE`.

    Raises:
        BenchmarkError: Not every row was answered once, or more calls were in flight than allowed.
    """
    server.set_up(**workload.setup)
    scheme, port = ("https", server.tls_port) if workload.is_tls else ("http", server.port)
    task = Task(workload, rows, f"{scheme}://127.0.0.1:{port}/v1", directory)
    environ = {"SSL_CERT_FILE": str(authority)} if workload.is_tls else {}
    used = run_measured(contender.command(task), core=cores.client, directory=directory, environ=environ)
    seen = server.seen()
    if (seen["answers"], seen["requests"], seen["refused"]) != (rows, rows + seen["errors"], 0):
        raise BenchmarkError(f"{contender.name}: {rows} rows, but the server saw {seen}")
    # Fewer only slow it down: a busy client does not come to have all of them out at once, and the tables say so.
    if seen["in_flight_max"] > workload.in_flight:
        raise BenchmarkError(f"{contender.name}: {seen['in_flight_max']} in flight, more than {workload.in_flight}")
    if contender.is_batcher:
        _check_run(used, rows, directory)
    span_s = max(seen["last_answer_s"] - seen["first_request_s"], 1e-6)
    return Measurement(
        rows=rows,
        rows_per_s=rows / span_s,
        rows_per_s_whole=rows / used.wall_s,
        first_request_s=seen["first_request_s"] - used.began_s,
        cpu_s=used.cpu_s,
        memory_mb=used.memory_mb,
        client_busy=used.cpu_s / used.wall_s,
        in_flight_max=seen["in_flight_max"],
        server_busy=seen["cpu_s"] / span_s,
    )


def _check_run(used: Used, rows: int, directory: Path) -> None:
    """Whether the run says of itself that each row has its answer. It is removed: runs of 100 kB answers fill disks."""
    path = directory / used.stdout.splitlines()[-1]
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    if run["state"] != "finished" or run["counts"].get("ok") != rows:
        raise BenchmarkError(f"batcher: the run is {run['state']} with {run['counts']}, not {rows} rows ok")
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
