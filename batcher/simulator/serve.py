"""The simulator as a process of its own, for `batcher simulate`."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import uvloop

from batcher.simulator.config import SimulatorConfig
from batcher.simulator.server import Simulator
from batcher.storage.descriptors import raise_open_files_limit

_RECORDS_MAX = 100_000


def serve(
    config: SimulatorConfig,
    host: str,
    port: int,
    witness_path: Path | None,
    ready: Callable[[str], None],
) -> None:
    """Run a simulator until SIGINT or SIGTERM; `ready` gets its base URL once it listens.

    Raises:
        JobError: It cannot listen there.
        StorageError: The witness file cannot be written.
    """
    raise_open_files_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, host, port, witness_path, ready))


async def _serve(
    config: SimulatorConfig, host: str, port: int, witness_path: Path | None, ready: Callable[[str], None]
) -> None:
    # Totals count for ever; records in memory end somewhere, the file has them all.
    simulator = Simulator(config, host=host, port=port, witness_path=witness_path, records_max=_RECORDS_MAX)
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled.set)
    async with simulator:
        ready(simulator.base_url)
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(signalled.wait()), group.create_task(simulator.stopped())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
