"""Results as Markdown."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from datetime import date

from contenders import Measurement
from processes import Cores
from results import Results, Rounds, middle, ratio, row_cpu_us
from workloads import NO_LATENCY, RAWEST, SDK, WORKLOADS, Workload


def machine_lines(cores: Cores, *, rows: int, runs: int, close_runs: int, command: str) -> list[str]:
    """What the figures depend on, without naming the machine; `close_runs` are those of `run.CLOSE_RUNS`."""
    names = ("openai", "pyreqwest", "aiohttp", "uvloop", "msgspec", "pyarrow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    rounds = "1 round" if runs == 1 else f"{runs} rounds"
    if close_runs > runs:
        rounds = f"{rounds}, {close_runs} of starting and of '{NO_LATENCY.name}'"
    return [
        f"{os.cpu_count()} cores, {cores.described}; {platform.system()}, {platform.machine()}.",
        f"{platform.python_implementation()} {platform.python_version()}, {versions}.",
        f"Load average before it began: {os.getloadavg()[0]:.1f}.",
        f"{rows:,} rows (`--rows`), {rounds}; medians, ratios with their range.",
        f"{date.today():%-d %B %Y}, `{command}`.",
    ]


def workload_tables(results: Results) -> str:
    """A section for each workload, and one for the memory by rows."""
    parts = [
        workload_table(workload, results.rounds[workload.name], results.alone)
        for workload in WORKLOADS
        if workload.name in results.rounds
    ]
    if results.memory:
        parts.append(memory_table(results.memory))
    return "\n\n".join([*parts, *results.skipped])


def workload_table(workload: Workload, rounds: Rounds, alone: Rounds) -> str:
    """One workload: a line for each program.

    Args:
        workload: What was asked.
        rounds: By program.
        alone: By program, a job of one row.
    """
    head = ["program", "rows", "rows/s", "of the rawest", *(["times the SDK"] if SDK in rounds else [])]
    head += ["rows/s, whole", "CPU µs/row", "CPU µs/row, whole", "memory MB", "client busy", "server busy"]
    possible = f"; at most {workload.possible:,.0f} rows/s are possible" if workload.possible else ""
    lines = [f"### {workload.name}", "", f"{workload.description}{possible}.", ""]
    lines += [line(head), line(["---"] + ["---:"] * (len(head) - 1))]
    lines += [line(_cells(name, rounds, alone[name])) for name in rounds]
    return "\n".join([*lines, "", *_sentences(workload, rounds)])


def memory_table(memory: Rounds) -> str:
    """Peak memory by rows."""
    rows = [one.rows for one in next(iter(memory.values()))]
    lines = ["### memory by rows", "", "Peak resident memory, MB; 1,000 in flight, results included.", ""]
    lines += [line(["program", *(f"{count:,} rows" for count in rows)]), line(["---"] + ["---:"] * len(rows))]
    lines += [line([name, *(f"{one.memory_mb:,.0f}" for one in memory[name])]) for name in memory]
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _cells(name: str, rounds: Rounds, alone: Sequence[Measurement]) -> list[str]:
    ours = rounds[name]
    row_us = row_cpu_us(ours, alone)
    cells = [
        name,
        f"{ours[0].rows:,}",
        f"{middle(ours, lambda one: one.rows_per_s):,.0f}",
        ratio(ours, rounds[RAWEST], lambda one: one.rows_per_s).written("{:.1%}"),
    ]
    if SDK in rounds:
        cells.append(ratio(ours, rounds[SDK], lambda one: one.rows_per_s).written("{:.1f}"))
    return [
        *cells,
        f"{middle(ours, lambda one: one.rows_per_s_whole):,.0f}",
        "-" if row_us is None else f"{row_us:,.0f}",
        f"{middle(ours, lambda one: one.cpu_s / one.rows * 1e6):,.0f}",
        f"{middle(ours, lambda one: one.memory_mb):,.0f}",
        f"{middle(ours, lambda one: one.client_busy):.0%}",
        f"{middle(ours, lambda one: one.server_busy):.0%}",
    ]


def _sentences(workload: Workload, rounds: Rounds) -> list[str]:
    """Whether the server was the bottleneck, and who had fewer calls out than asked for."""
    rawest = rounds[RAWEST]
    rate = middle(rawest, lambda one: one.rows_per_s)
    limit = middle(rawest, lambda one: one.rows_per_s / one.server_busy)
    said = (
        f"The server was no bottleneck: by the CPU it used it could answer {limit:,.0f} requests/s, "
        f"and the rawest client asked {rate:,.0f}."
        if limit > 1.25 * rate
        else f"The server may have been the rawest client's bottleneck: it could answer {limit:,.0f} requests/s."
    )
    out = {name: middle(ours, lambda one: one.in_flight_max) for name, ours in rounds.items()}
    fewer = [f"{name} {count:,.0f}" for name, count in out.items() if count < workload.in_flight]
    if not workload.latency_ms or not fewer:
        return [said]
    return [said, f"Not all {workload.in_flight:,} calls were ever out at once: {', '.join(fewer)}."]
