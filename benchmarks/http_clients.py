"""The HTTP clients below batcher's exchanges, alone: our own HTTP/1.1 client and pyreqwest, by turns in one run.

    python benchmarks/http_clients.py            # a minute or two
    python benchmarks/http_clients.py --runs 5

A client is a process of its own on one core; the server (`server.py`) is on another. Each first makes all its
connections, with one request each, and is then measured: CPU of the process (all its threads) for each
request, requests a second, latency, and how much memory it has taken since its modules were loaded.
"""

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import uvloop
from clients import Asker
from processes import choose_cores, run_measured, serving

from batcher.providers.exchange import Exchange
from batcher.providers.plain_exchange import plain_exchange
from batcher.providers.pyreqwest_exchange import PyreqwestExchange

CLIENTS = {"own": plain_exchange, "pyreqwest": PyreqwestExchange}


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a client."""

    in_flight: int
    latency_ms: float
    rows: int


LOADS = (Load(256, 0, 60_000), Load(1_000, 50, 60_000), Load(10_000, 1_000, 50_000))


@dataclass(frozen=True, slots=True)
class Figures:
    """What one client took. Memory is the peak above what the loaded modules take."""

    requests_s: float
    cpu_us: float
    connect_cpu_us: float
    p50_ms: float
    p99_ms: float
    memory_mb: float


async def ask(exchange: Exchange, bodies: Iterator[bytes], latencies_s: list[float]) -> None:
    """One of the workers: the next body as soon as the answer before it is there."""
    for body in bodies:
        began_s = time.perf_counter()
        answered = await exchange.post(body)
        latencies_s.append(time.perf_counter() - began_s)
        assert len(answered.body) > 100


async def measure(client: str, port: int, load: Load) -> Figures:
    """Be the client."""
    asker = Asker(load.rows + load.in_flight, port)
    before_mb = resident_mb()
    exchange = CLIENTS[client](base_url=asker.url, api_key="none", timeout_s=60)
    all_bodies = asker.bodies()
    cpu_s = time.process_time()
    await asyncio.gather(*(ask(exchange, iter([next(all_bodies)]), []) for _ in range(load.in_flight)))
    connect_cpu_s = time.process_time() - cpu_s
    latencies_s: list[float] = []
    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask(exchange, all_bodies, latencies_s) for _ in range(load.in_flight)))
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    await exchange.close()
    assert load.rows == len(latencies_s)
    latencies_s.sort()
    return Figures(
        requests_s=load.rows / wall_s,
        cpu_us=cpu_s / load.rows * 1e6,
        connect_cpu_us=connect_cpu_s / load.in_flight * 1e6,
        p50_ms=latencies_s[load.rows // 2] * 1e3,
        p99_ms=latencies_s[load.rows * 99 // 100] * 1e3,
        memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        - before_mb,
    )


def resident_mb() -> float:
    """The peak so far, which the modules made."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--client", choices=list(CLIENTS), help="be that client, as a process of a benchmark")
    parser.add_argument("--port", type=int)
    parser.add_argument("--load", type=int, default=0, help="the number of the load, for --client")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if options.client:
        print(json.dumps(asdict(uvloop.run(measure(options.client, options.port, LOADS[options.load])))))
        return
    cores = choose_cores()
    print(
        "| in flight | latency ms | client | requests/s | CPU µs/request | p50 ms | p99 ms | MB | CPU µs/connection |"
    )
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory, serving(cores.server) as server:
        for number, load in enumerate(LOADS):
            found: dict[str, list[Figures]] = {name: [] for name in CLIENTS}
            for _ in range(options.runs):
                for name, figures in found.items():
                    server.set_up(latency_ms=load.latency_ms, answer_bytes=0)
                    command = [sys.executable, __file__, "--client", name, "--port", str(server.port)]
                    used = run_measured([*command, "--load", str(number)], core=cores.client, directory=Path(directory))
                    figures.append(Figures(**json.loads(used.stdout)))
            for name, figures in found.items():
                print(f"| {load.in_flight} | {load.latency_ms:g} | {name} | {cells(figures)} |", flush=True)


def cells(figures: list[Figures]) -> str:
    """Medians over the rounds."""
    columns = ("requests_s", "cpu_us", "p50_ms", "p99_ms", "memory_mb", "connect_cpu_us")
    return " | ".join(f"{median(getattr(one, column) for one in figures):,.0f}" for column in columns)


if __name__ == "__main__":
    main()
