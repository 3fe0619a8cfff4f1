"""batcher with a part taken out: one process of the profile.

    python stubs.py REPORT.json --rows 20000 --stub http --stub gate -- run job.yaml --fresh

Runs batcher's command line in this process, with a stub in the place of each part that is named, and writes a
`Sample` when all rows have been asked. A stub that was not used for every row is an error: then the
code has changed, and the profile would be of something else. With a stub there is nothing to write results
from, so such a process ends right there. Patching is what is wanted here: the program is measured as it is.
"""

import argparse
import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from profiling import STUBBED, Sample
from questions import question
from server import LABELS, completion

ANSWERS_PER_TURN = 100
"""So many answers come in one turn of the event loop where no HTTP is made: about as many as with it. Of 10,000 rows
with 256 in flight, 105 outcomes shared one write."""

_MESSAGES = msgspec.json.encode([{"role": "user", "content": question(0)}])


class Counted:
    """How often each stub was used."""

    def __init__(self) -> None:
        self.uses = dict.fromkeys(STUBBED, 0)


def stub_http(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """Answer from memory, a few in each turn of the loop."""
    from batcher.providers.exchange import Received  # noqa: PLC0415
    from batcher.providers.http import HttpCaller  # noqa: PLC0415

    body = completion(LABELS[0], 0)

    class FromMemory:
        def __init__(self) -> None:
            self._waiting: list[asyncio.Future[None]] = []

        async def post(self, _: bytes) -> Received:
            counted.uses["http"] += 1
            loop = asyncio.get_running_loop()
            if not self._waiting:
                loop.call_soon(self._answer)
            future = loop.create_future()
            self._waiting.append(future)
            await future
            return Received(body, {})

        def _answer(self) -> None:
            now, self._waiting = self._waiting[:ANSWERS_PER_TURN], self._waiting[ANSWERS_PER_TURN:]
            for future in now:
                if not future.done():
                    future.set_result(None)
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._answer)

        async def close(self) -> None:
            pass

    begin = HttpCaller.__init__

    def begin_without(self: Any, _: Any, *positional: Any, **named: Any) -> None:
        begin(self, FromMemory(), *positional, **named)

    _replace(HttpCaller, "__init__", begin_without)


def stub_decode(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """The same completion for every body."""
    from batcher.providers import http, wire  # noqa: PLC0415

    decoded = wire.decode_completion(completion(LABELS[0], 0))

    def decode(_: bytes) -> Any:
        counted.uses["decode"] += 1
        return decoded

    _replace(http, "decode_completion", decode)


def stub_gate(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """Let every call through, and have as many workers as the gate would have let through."""
    from batcher.assemble.stack import Stack  # noqa: PLC0415
    from batcher.providers.gated import GatedCaller  # noqa: PLC0415

    async def call(self: Any, request: Any) -> Any:
        counted.uses["gate"] += 1
        return await self._inner.call(request)

    _replace(GatedCaller, "call", call)
    # More calls in flight would share each wake-up of the HTTP client, and that would seem to be the gate's.
    _replace(Stack, "workers", property(lambda self: self.concurrency))


def stub_check(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """Every answer is valid."""
    from batcher.answers.labels import LabelChecker  # noqa: PLC0415
    from batcher.core.records import Valid  # noqa: PLC0415

    valid = Valid(LABELS[0], LABELS[0])

    def check(self: Any, request: Any, reply: Any) -> Valid:  # noqa: ARG001
        counted.uses["check"] += 1
        return valid

    _replace(LabelChecker, "check", check)


def stub_render(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """The same messages for every row."""
    from batcher.core.records import Request  # noqa: PLC0415
    from batcher.prompts.chat import ChatRenderer  # noqa: PLC0415

    def render(self: Any, row: Any) -> Request:  # noqa: ARG001
        counted.uses["render"] += 1
        return Request(row.index, _MESSAGES, row.key)

    _replace(ChatRenderer, "render", render)


def stub_read(counted: Counted, rows: int) -> None:
    """Rows from memory; a thousand in a batch, as the source makes them."""
    from batcher.core.records import Row  # noqa: PLC0415
    from batcher.sources.source import FileSource  # noqa: PLC0415

    columns = {"text": question(0)}

    def read(self: Any, start: int = 0) -> Iterator[Sequence[Row]]:  # noqa: ARG001
        for first in range(start, rows, 1000):
            batch = [Row(row, columns, "T") for row in range(first, min(rows, first + 1000))]
            counted.uses["read"] += len(batch)
            yield batch

    _replace(FileSource, "rows", read)


def stub_journal(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """Keep nothing, and have nobody wait for it."""
    from batcher.journal.journal import Journal  # noqa: PLC0415

    pending: list[Any] = []

    async def put(self: Any, outcome: Any) -> None:
        counted.uses["journal"] += 1
        if not pending:
            asyncio.get_running_loop().call_soon(tell, self)
        pending.append(outcome)

    def tell(journal: Any) -> None:
        # The books are another part: they are told of a turn's outcomes together, as by the journal.
        journal.on_kept(pending.copy())
        pending.clear()

    _replace(Journal, "put", put)


def stub_book(counted: Counted, rows: int) -> None:  # noqa: ARG001
    """Book nothing on the ledger, the budget and the counters."""
    from batcher.assemble import session  # noqa: PLC0415

    def book(outcomes: Any, **_: Any) -> None:
        counted.uses["book"] += len(outcomes)

    _replace(session, "book", book)


_STUBS: dict[str, Callable[[Counted, int], None]] = {
    "http": stub_http,
    "decode": stub_decode,
    "gate": stub_gate,
    "check": stub_check,
    "render": stub_render,
    "read": stub_read,
    "journal": stub_journal,
    "book": stub_book,
}


def _replace(owner: Any, name: str, stub: Any) -> None:
    if not hasattr(owner, name):
        raise SystemExit(f"error: {owner.__name__} has no {name} any more; benchmarks/stubs.py must follow")
    setattr(owner, name, stub)


def _used() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def measured_engine(report: Path, rows: int, stubbed: Sequence[str], counted: Counted) -> None:
    """Have the engine's work measured, from its first row to its last outcome."""
    from batcher.engine.engine import Engine  # noqa: PLC0415

    run = Engine.run

    async def run_measured(self: Engine) -> None:
        before, main_before_s = _used(), time.thread_time()
        await run(self)
        after, main_after_s = _used(), time.thread_time()
        _leave(
            Sample(
                rows=rows,
                start_s=before.ru_utime + before.ru_stime,
                rows_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                rows_system_s=after.ru_stime - before.ru_stime,
                main_thread_s=main_after_s - main_before_s,
            ),
            report,
            stubbed,
            [name for name in stubbed if counted.uses[name] < rows],
        )

    _replace(Engine, "run", run_measured)


def _leave(sample: Sample, report: Path, stubbed: Sequence[str], idle: Sequence[str]) -> None:
    """Write the sample; with a stub, end the process: there is nothing to write results from."""
    report.write_bytes(msgspec.json.encode(sample))
    if idle:
        sys.stderr.write(f"error: the stub of {', '.join(idle)} was not used for every row\n")
        sys.stderr.flush()
        os._exit(1)
    if stubbed:
        os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--stub", action="append", default=[], choices=list(_STUBS))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    counted = Counted()
    for name in options.stub:
        _STUBS[name](counted, options.rows)
    measured_engine(options.report, options.rows, options.stub, counted)
    from batcher.cli.main import main as batcher  # noqa: PLC0415

    sys.argv = ["batcher", *options.command]
    batcher()


if __name__ == "__main__":
    main()
