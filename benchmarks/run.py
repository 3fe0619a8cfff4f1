"""`make bench`: batcher beside the rawest client and the naive SDK loop, in one run on one machine.

Everybody is run in turn, again and again, each as a process of its own on one core, with the server on
another. Machines drift, so the ratios within one round are what counts: the tables show medians, and ratios as
the median of the rounds with their range. Absolute figures of two runs cannot be compared.

    python benchmarks/run.py --quick                  # a minute: does it work?
    python benchmarks/run.py                          # a few minutes
    python benchmarks/run.py --rows 100000 --runs 5   # start-up hardly counts any more
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from contenders import CONTENDERS, WORKLOADS, Contender, Measurement, Workload, measure
from processes import HERE, BenchmarkError, choose_cores, serving
from tables import machine_lines, workload_table

Rounds = dict[str, list[Measurement]]
"""By contender, in the order of the rounds."""


def main() -> int:
    options = _options()
    cores = choose_cores()
    parts = ["\n".join(machine_lines(cores, rows=options.rows, runs=options.runs))]
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as name, serving(cores.server) as server:

            def measured(contender: Contender, workload: Workload, rows: int) -> Measurement:
                _say(f"{workload.name}: {contender.name}, {rows} rows")
                return measure(contender, workload, rows, server=server, cores=cores, directory=Path(name))

            # The price of starting is taken off by what one row costs.
            alone = {
                contender.name: median(measured(contender, WORKLOADS[0], 1).cpu_s for _ in range(options.runs))
                for contender in CONTENDERS
            }
            for workload in WORKLOADS:
                if options.workload in (None, workload.name):
                    rounds: Rounds = {contender.name: [] for contender in CONTENDERS}
                    for number in range(options.runs):
                        for contender in _turned(CONTENDERS, number):
                            rows = contender.rows(workload, options.rows)
                            rounds[contender.name].append(measured(contender, workload, rows))
                    parts.append(workload_table(workload, rounds, alone))
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    text = "\n\n".join(parts) + "\n"
    print(text)
    options.markdown.write_text(text, encoding="utf-8")
    _say(f"written to {options.markdown}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", type=_count, default=20_000, help="rows of a fast contender (20000)")
    parser.add_argument("--runs", type=_count, default=3, help="rounds (3)")
    parser.add_argument("--quick", action="store_true", help="2000 rows, one round")
    parser.add_argument("--workload", choices=[workload.name for workload in WORKLOADS], help="only this one")
    parser.add_argument("--markdown", type=Path, default=HERE / "results.md", help="where the tables are written")
    parser.add_argument("--dir", type=Path, help="where runs are written; the disk counts (the temporary directory)")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.runs = 2_000, 1
    return options


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return count


def _turned(contenders: Sequence[Contender], number: int) -> Sequence[Contender]:
    """Each round begins with another one, so that nobody always runs after the same."""
    turn = number % len(contenders)
    return [*contenders[turn:], *contenders[:turn]]


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
