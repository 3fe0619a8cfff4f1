"""What grows with the input: peak memory, the time to the first request of a resumed run, the time of the results.

Each line is one process of batcher, everything on, against `server.py`; figures are the kernel's and the server's own.

    fresh     a whole run of so many rows
    resumed   a run that had all but `--left` rows answered before: see `tests/support/made_runs.py`

    python benchmarks/scale.py                                  # 20,000 and 200,000 rows, JSONL and Parquet
    python benchmarks/scale.py --rows 20000 2000000             # some minutes
    python benchmarks/scale.py --only resumed --rows 1000000 10000000

"first request" is from the command to the first request that the server got; "results" from the last answer that the
server gave to the end of the process. Parquet has one row group for each million rows.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import processes
from processes import HERE, BenchmarkError, Cores, Server, choose_cores, run_measured, serving

MAKER = HERE.parent / "tests" / "support" / "made_runs.py"

processes.TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Case:
    """One process to measure."""

    what: str
    form: str
    rows: int
    asked: int
    in_flight: int
    order: str = "arrival"


@dataclass(frozen=True, slots=True)
class Measured:
    """What it took."""

    memory_mb: float
    first_request_s: float
    results_s: float
    cpu_s: float


def main() -> int:
    options = _options()
    cores = choose_cores()
    print("| run | input | rows | asked | peak memory MB | first request s | results s | CPU s |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    try:
        for case in _cases(options):
            with (
                tempfile.TemporaryDirectory(prefix="scale-", dir=options.dir) as name,
                serving(cores.server) as server,
            ):
                print(_line(case, _measure(case, Path(name), server, cores)), flush=True)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--left", type=int, default=2_000, help="rows that a resumed run still asks (2000)")
    parser.add_argument("--form", nargs="+", choices=["jsonl", "parquet"], default=["jsonl", "parquet"])
    parser.add_argument("--only", choices=["fresh", "resumed"])
    parser.add_argument(
        "--order", choices=["arrival", "random"], default="arrival", help="of the resumed runs' journal"
    )
    parser.add_argument("--dir", type=Path, help="where runs are written; the disk counts (the temporary directory)")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> list[Case]:
    fresh = [Case("fresh", form, rows, rows, options.in_flight) for form in options.form for rows in options.rows]
    resumed = [
        Case("resumed", form, rows, min(rows, options.left), options.in_flight, options.order)
        for form in options.form
        for rows in options.rows
    ]
    return [case for case in fresh + resumed if options.only in (None, case.what)]


def _measure(case: Case, directory: Path, server: Server, cores: Cores) -> Measured:
    """Run it once, and believe it only what the server saw too.

    Raises:
        BenchmarkError: Not every row was asked once.
    """
    # The run is made in another process: what that one holds is not to be measured, and it needs the input too.
    size = ["--rows", str(case.rows), "--left", str(case.asked), "--in-flight", str(case.in_flight)]
    kind = ["--form", case.form, "--order", case.order, "--port", str(server.port)]
    run_measured([sys.executable, str(MAKER), ".", *size, *kind], core=None, directory=directory)
    words = ["run", "job.yaml", "--fresh"] if case.what == "fresh" else ["resume", "job.yaml"]
    server.set_up(latency_ms=0, answer_bytes=0)
    used = run_measured([sys.executable, "-m", "batcher", *words], core=cores.client, directory=directory)
    seen = server.seen()
    if (seen["requests"], seen["answers"], seen["refused"]) != (case.asked, case.asked, 0):
        raise BenchmarkError(f"{case}: {case.asked} rows to ask, but the server saw {seen}")
    return Measured(
        memory_mb=used.memory_mb,
        first_request_s=seen["first_request_s"] - used.began_s,
        results_s=used.began_s + used.wall_s - seen["last_answer_s"],
        cpu_s=used.cpu_s,
    )


def _line(case: Case, measured: Measured) -> str:
    figures = (measured.memory_mb, measured.first_request_s, measured.results_s, measured.cpu_s)
    return (
        f"| {case.what} | {case.form} | {case.rows:,} | {case.asked:,} | "
        f"{figures[0]:.0f} | {figures[1]:.2f} | {figures[2]:.2f} | {figures[3]:.1f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
