"""Measurements as Markdown: medians, and ratios within each round."""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from contenders import Measurement, Workload
from processes import Cores

RAWEST, SDK = "rawest client", "SDK loop"

_HEAD = (
    "program", "rows", "rows/s", "of the rawest", "times the SDK", "rows/s, whole", "CPU µs/row", "CPU µs/row, whole",
    "first request s", "memory MB", "server busy",
)  # fmt: skip


def machine_lines(cores: Cores, *, rows: int, runs: int) -> list[str]:
    """What the figures depend on, without naming the machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("openai", "pyreqwest", "uvloop"))
    place = "one core for the client, another for the server" if cores.client is not None else "nothing pinned"
    return [
        f"{os.cpu_count()} cores, {place}; {platform.system()}, {platform.machine()}.",
        f"{platform.python_implementation()} {platform.python_version()}, {versions}.",
        f"{rows} rows, {runs} rounds; medians, ratios with their range over the rounds.",
    ]


def workload_table(
    workload: Workload, rounds: Mapping[str, Sequence[Measurement]], alone_cpu_s: Mapping[str, float]
) -> str:
    """One workload: a line for each program.

    Args:
        workload: What was asked.
        rounds: By program; the n-th measurement of each belongs to the same round.
        alone_cpu_s: What each program needs for a single row: the price of starting.
    """
    possible = f"; at most {workload.possible:,.0f} rows/s are possible" if workload.possible else ""
    lines = [f"### {workload.name}", "", f"{workload.description}{possible}.", ""]
    lines += [_line(_HEAD), _line(["---"] + ["---:"] * (len(_HEAD) - 1))]
    for name, measurements in rounds.items():
        lines.append(_line(_cells(name, measurements, rounds, alone_cpu_s[name])))
    lines += ["", _server_sentence(rounds[RAWEST])]
    return "\n".join(lines)


def _cells(
    name: str, measurements: Sequence[Measurement], rounds: Mapping[str, Sequence[Measurement]], alone_cpu_s: float
) -> list[str]:
    def middle(figure: Callable[[Measurement], float]) -> float:
        return median(map(figure, measurements))

    return [
        name,
        f"{measurements[0].rows:,}",
        f"{middle(lambda one: one.rows_per_s):,.0f}",
        _ratio(measurements, rounds[RAWEST], "{:.0%}"),
        _ratio(measurements, rounds[SDK], "{:.1f}"),
        f"{middle(lambda one: one.rows_per_s_whole):,.0f}",
        _row_cpu_us(median(one.cpu_s for one in measurements), alone_cpu_s, measurements[0].rows),
        f"{middle(lambda one: one.cpu_s / one.rows * 1e6):,.0f}",
        f"{middle(lambda one: one.first_request_s):.2f}",
        f"{middle(lambda one: one.memory_mb):,.0f}",
        f"{middle(lambda one: one.server_busy):.0%}",
    ]


def _ratio(ours: Sequence[Measurement], theirs: Sequence[Measurement], form: str) -> str:
    """Of the rates, round by round: `33% (31% to 36%)`."""
    ratios = [one.rows_per_s / other.rows_per_s for one, other in zip(ours, theirs, strict=True)]
    if ours is theirs:
        return form.format(1.0)
    if len(ratios) == 1:
        return form.format(ratios[0])
    return f"{form.format(median(ratios))} ({form.format(min(ratios))} to {form.format(max(ratios))})"


def _row_cpu_us(cpu_s: float, alone_cpu_s: float, rows: int) -> str:
    """CPU of a row beyond the price of starting; a dash where that price is most of it, and the rest is noise."""
    return "-" if cpu_s < 2 * alone_cpu_s else f"{(cpu_s - alone_cpu_s) / rows * 1e6:,.0f}"


def _server_sentence(rawest: Sequence[Measurement]) -> str:
    rate = median(one.rows_per_s for one in rawest)
    limit = median(one.rows_per_s / one.server_busy for one in rawest)
    return (
        f"The server was no bottleneck: by the CPU it used it could answer {limit:,.0f} requests/s, "
        f"and the rawest client asked {rate:,.0f}."
        if limit > 1.25 * rate
        else f"The server may have been the bottleneck: it could answer {limit:,.0f} requests/s."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
