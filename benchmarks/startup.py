"""Where the time goes from the command to the first request: phase by phase, in milliseconds.

    python benchmarks/startup.py [--tries 7]

Each try is a process of its own that runs a job of 50 rows against the benchmark's server. Of each phase the least
of all tries is shown, because what else the machine does only ever adds; the last lines are whole runs, as one
types them, with their memory.
"""

import argparse
import contextlib
import functools
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import HERE, Server, run_measured, serving

ROWS = 50
KINDS = ("jsonl", "parquet")

_JOB = """\
name: {kind}
input: {{path: rows.{kind}, key: id}}
prompt: "Which team should handle this ticket?\\n{{{{ text }}}}"
model: gpt-4.1-nano
answer: {{labels: [billing, technical, other]}}
success: {{same: 100%}}
provider: {{base_url: "http://127.0.0.1:{port}/v1", api_key: "${{BENCH_KEY}}"}}
"""


class Marks:
    """Moments of one process: each has the name of what ended there. Only the first of a name counts."""

    def __init__(self) -> None:
        self._last_s = time.perf_counter()
        self.phases_ms: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """A phase ended just now."""
        now_s = time.perf_counter()
        self.phases_ms.setdefault(phase, (now_s - self._last_s) * 1000.0)
        self._last_s = now_s

    def after(self, owner: Any, name: str, phase: str) -> None:
        """Let a phase end where this function returns."""
        self._wrap(owner, name, lambda: None, lambda: self.end(phase))

    def before(self, owner: Any, name: str, phase: str) -> None:
        """Let a phase end where this function is called."""
        self._wrap(owner, name, lambda: self.end(phase), lambda: None)

    @staticmethod
    def _wrap(owner: Any, name: str, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        async def later(*arguments: Any, **options: Any) -> Any:
            enter()
            try:
                return await inner(*arguments, **options)
            finally:
                leave()

        @functools.wraps(inner)
        def now(*arguments: Any, **options: Any) -> Any:
            enter()
            try:
                return inner(*arguments, **options)
            finally:
                leave()

        setattr(owner, name, later if inspect.iscoroutinefunction(inner) else now)


def child(job: Path) -> None:
    """Run the job in this process, and write its phases as JSON on stdout."""
    marks = Marks()
    import batcher.cli.main  # noqa: PLC0415  # its time is a phase

    marks.end("import click and the commands")
    from batcher.cli.lean import lean_imports  # noqa: PLC0415

    with lean_imports():
        marks.end("import pyarrow, structlog")
        import batcher.config.load  # noqa: F401, PLC0415

        marks.end("import pydantic, ruamel.yaml, the job's model")
        from batcher.assemble import run, session  # noqa: PLC0415
    marks.end("import the rest of batcher, jinja2, asyncio")
    from batcher.providers import http1, plain_exchange  # noqa: F401, PLC0415

    marks.end("import the HTTP client")
    marks.after(run, "load_job", "read and check the job file")
    marks.after(run, "_checked", "open the input, compile the prompt, check keys and first rows")
    marks.before(session, "run_loop", "take the lock, make the run directory, write job.yaml and run.json")
    marks.before(session, "build_stack", "start the loop, price, open the journal")
    marks.after(session, "build_stack", "build the callers")
    marks.before(http1.Http1Client, "post", "start the engine, read, render")
    with Path(os.devnull).open("w") as nobody, contextlib.redirect_stderr(nobody):
        run.run_job(job, run.RunOptions(runs=Path("runs"), is_fresh=True))
    print(json.dumps(marks.phases_ms))


def phases(job: Path, tries: int) -> dict[str, float]:
    """The least of each phase."""
    best: dict[str, float] = {}
    for _ in range(tries):
        command = [sys.executable, __file__, "--child", str(job)]
        ended = subprocess.run(command, cwd=job.parent, env=_environ(), capture_output=True, text=True, check=True)
        for phase, took_ms in json.loads(ended.stdout.splitlines()[-1]).items():
            best[phase] = min(best.get(phase, took_ms), took_ms)
    return best


def whole(server: Server, job: Path, tries: int) -> tuple[list[float], float]:
    """First requests in milliseconds after the command, and the most memory in MB."""
    first_ms, memory_mb = [], 0.0
    for _ in range(tries):
        server.set_up(latency_ms=0, answer_bytes=0)
        used = run_measured(
            [sys.executable, "-m", "batcher", "run", job.name, "--fresh"], core=None, directory=job.parent
        )
        first_ms.append((server.seen()["first_request_s"] - used.began_s) * 1000.0)
        memory_mb = max(memory_mb, used.memory_mb)
    return sorted(first_ms), memory_mb


def write_inputs(directory: Path, port: int) -> list[Path]:
    import pyarrow as pa  # noqa: PLC0415  # the child measures this import
    import pyarrow.parquet as pq  # noqa: PLC0415

    rows = [{"id": f"T{row}", "text": f"#{row} แอปค้าง, tôi không đăng nhập được, 发票金额不对"} for row in range(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), directory / "rows.parquet")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (directory / "rows.jsonl").write_text(lines, encoding="utf-8")
    jobs = [directory / f"{kind}.yaml" for kind in KINDS]
    for kind, job in zip(KINDS, jobs, strict=True):
        job.write_text(_JOB.format(kind=kind, port=port), encoding="utf-8")
    return jobs


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parent), "NO_PROXY": "*", "BENCH_KEY": "none"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=7)
    parser.add_argument("--child", type=Path)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return
    # As installed: compiled once. Where nothing may be compiled, each start would read the sources.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder, serving(None) as server:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder, "compiled"))
        jobs = write_inputs(Path(folder), server.port)
        for kind, job in zip(KINDS, jobs, strict=True):
            whole(server, job, 1)
            found = phases(job, options.tries)
            print(f"\n| {kind}, {ROWS} rows | ms |\n|---|---|")
            for phase, took_ms in found.items():
                print(f"| {phase} | {took_ms:.0f} |")
            first_ms, memory_mb = whole(server, job, options.tries)
            print(f"| **from the command to the first request**, best | **{first_ms[0]:.0f}** |")
            print(f"| the same, median of {options.tries} | {first_ms[len(first_ms) // 2]:.0f} |")
            print(f"| peak memory, MB | {memory_mb:.0f} |")


if __name__ == "__main__":
    main()
