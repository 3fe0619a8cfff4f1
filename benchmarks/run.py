"""`make bench`: batcher beside the rawest client, the naive SDK loop and others, in one run on one machine.

Everybody is run in turn, again and again, each as a process of its own on one core, with the server on
another. Machines drift, so the ratios within one round are what counts: the tables show medians, and ratios as
the median of the rounds with their range. Absolute figures of two runs cannot be compared.

    python benchmarks/run.py --quick             # three minutes, one round of few rows: does it work?
    python benchmarks/run.py                     # about a quarter of an hour
    python benchmarks/run.py --workload "50 ms"  # one workload; may be given several times
    python benchmarks/run.py --docs              # and the profile; writes docs/benchmarks.md and docs/img/ too
    python benchmarks/run.py --docs --from benchmarks/results.json   # the same from an earlier run
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from contenders import CONTENDERS, Contender, Measurement, measure
from processes import (
    HERE,
    BenchmarkError,
    Cores,
    Server,
    choose_cores,
    end_children_on_sigterm,
    issue_certificate,
    room_for_connections,
    serving,
)
from profile_row import measure_profile
from profiling import profile_lines
from results import Results, Rounds
from summary import summary_table
from tables import machine_lines, workload_tables
from workloads import BATCHER, MANY_IN_FLIGHT, NO_LATENCY, RAWEST, WORKLOADS, Workload

ROWS, QUICK_ROWS = 20_000, 500

CLOSE_RUNS = 5
"""Rounds of what is near its goal, or a small difference: in two rounds of one evening, the ratio to the SDK loop moved
by a quarter."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share."""

    server: Server
    cores: Cores
    directory: Path
    authority: Path

    def measured(self, contender: Contender, workload: Workload, rows: int, *, round_name: str) -> Measurement:
        """One measurement, said on stderr; see `contenders.measure`."""
        _say(f"{workload.name}, {round_name}: {contender.name}, {rows:,} rows")
        return measure(
            contender,
            workload,
            rows,
            server=self.server,
            cores=self.cores,
            directory=self.directory,
            authority=self.authority,
        )


def main() -> int:
    options = _options()
    end_children_on_sigterm()
    try:
        results = _measure_all(options) if options.source is None else _read(options.source)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    parts = ["\n".join(results.facts), summary_table(results), workload_tables(results)]
    parts += [] if results.profile is None else [profile_lines(results.profile)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.source is None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "results.md").write_text(text, encoding="utf-8")
        (options.output / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
        _say(f"written to {options.output}/results.md and results.json")
    if options.docs:
        from document import write_document  # noqa: PLC0415  # only the plots need matplotlib

        write_document(results, options.document)
        _say(f"written to {options.document}")
    return 0


def _measure_all(options: argparse.Namespace) -> Results:
    cores, room = choose_cores(), room_for_connections()
    words = " ".join(["benchmarks/run.py", *sys.argv[1:]])
    facts = machine_lines(cores, rows=options.rows, runs=options.runs, close_runs=options.close_runs, command=words)
    results = Results(facts)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as name:
        directory = Path(name)
        certificate = issue_certificate(directory)
        with serving(cores.server, certificate) as server:
            bench = Bench(server, cores, directory, certificate.authority)
            wanted = [one for one in WORKLOADS if not options.workload or one.name in options.workload]
            results.alone = _alone(bench, wanted, options)
            for workload in wanted:
                if workload.in_flight > room:
                    results.skipped.append(
                        f"{workload.name} was left out: this system allows {room:,} connections (`ulimit -Hn`)."
                    )
                    continue
                results.rounds[workload.name] = _rounds(bench, workload, options)
            if options.memory_rows and not options.workload:
                results.memory = _memory(bench, options.memory_rows)
            if options.docs or options.profile:
                results.profile = measure_profile(
                    rows=options.rows,
                    runs=options.close_runs,
                    server=server,
                    cores=cores,
                    directory=directory,
                )
    return results


def _asked(names: Sequence[str], options: argparse.Namespace) -> list[str]:
    """Those of the programs that are to be measured; the rawest always, as all others are told by it."""
    return [name for name in names if not options.program or name in (RAWEST, *options.program)]


def _alone(bench: Bench, workloads: Sequence[Workload], options: argparse.Namespace) -> Rounds:
    """One row each: what starting costs, and when the first request leaves."""
    asked = {name for workload in workloads for name in _asked(workload.contenders, options)}
    return {
        name: [
            bench.measured(contender, NO_LATENCY, 1, round_name=f"starting, round {number + 1}")
            for number in range(options.close_runs)
        ]
        for name, contender in CONTENDERS.items()
        if name in asked
    }


def _rounds(bench: Bench, workload: Workload, options: argparse.Namespace) -> Rounds:
    names = _asked(workload.contenders, options)
    rounds: Rounds = {name: [] for name in names}
    for number in range(options.close_runs if workload is NO_LATENCY else options.runs):
        for name in _turned(names, number):
            contender = CONTENDERS[name]
            rows = contender.rows(workload, options.rows)
            rounds[name].append(bench.measured(contender, workload, rows, round_name=f"round {number + 1}"))
    return rounds


def _memory(bench: Bench, sizes: Sequence[int]) -> Rounds:
    """Peak memory at several numbers of rows; once each, since peaks hardly vary."""
    return {
        name: [
            bench.measured(CONTENDERS[name], MANY_IN_FLIGHT, rows, round_name="memory by rows")
            for rows in sorted(set(sizes))
        ]
        for name in (RAWEST, BATCHER)
    }


def _read(path: Path) -> Results:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"{path} holds no results of this program: {error}") from error


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=_count, help=f"rows of a fast contender ({ROWS}); some workloads take more")
    parser.add_argument(
        "--runs",
        type=_count,
        help=f"rounds (3); of starting, {NO_LATENCY.name!r} and the profile at least {CLOSE_RUNS} but with --quick",
    )
    parser.add_argument("--quick", action="store_true", help=f"--rows {QUICK_ROWS} --runs 1, no memory by rows")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workload", action="append", choices=names, help="only this one, and no memory by rows")
    parser.add_argument(
        "--program", action="append", choices=list(CONTENDERS), help="only this one, and the rawest client"
    )
    parser.add_argument(
        "--memory-rows", type=_count, nargs="*", help="sizes for memory by rows, best a few million too (20000 200000)"
    )
    parser.add_argument("--profile", action="store_true", help="also where each microsecond of a row goes")
    parser.add_argument("--docs", action="store_true", help="--profile, and write tables and plots into docs/")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing, take these results.json")
    parser.add_argument("--output", type=Path, default=HERE, help="where results.md and results.json go (benchmarks/)")
    parser.add_argument(
        "--document",
        type=Path,
        default=HERE.parent / "docs" / "benchmarks.md",
        help="what --docs fills in (docs/benchmarks.md)",
    )
    parser.add_argument("--dir", type=Path, help="where runs are written; the disk counts (the temporary directory)")
    options = parser.parse_args()
    options.rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    options.runs = options.runs or (1 if options.quick else 3)
    options.close_runs = options.runs if options.quick else max(options.runs, CLOSE_RUNS)
    if options.memory_rows is None:
        options.memory_rows = [] if options.quick else [20_000, 200_000]
    return options


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return count


def _turned(names: Sequence[str], number: int) -> Sequence[str]:
    """Each round begins with another one, so that nobody always runs after the same."""
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
