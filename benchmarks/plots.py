"""Plots of the results as SVG: text as text, no font from the net, readable on a light and a dark page.

Each plot brings its own background, which follows the reader's colour scheme: a plot without one is unreadable
where the page and the reader disagree.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from profiling import Profile
from results import Rounds, ratio
from workloads import AIOHTTP, BATCHER, BATCHER_SDK, OWN, PYREQWEST, RAWEST, SDK, TUTORIAL, WORKLOADS

# Stand-ins, replaced by variables that follow the colour scheme.
_INK, _FAINT, _PAPER = "#010203", "#010204", "#010205"
_STYLE = """<style>
:root { --ink: #1f2328; --faint: #c4cad1; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #474f58; --paper: #0d1117; } }
text { font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
</style>
"""
# Paul Tol's "bright" and "muted" schemes: told apart by the colour-blind, and seen on white and on black.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#dd7733", "#44aa99", "#8888a0")
_OTHERS = "#8888a0"
_STRONG = {BATCHER: "#ee6677", BATCHER_SDK: "#aa3377"}

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batcher",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": _PAPER,
    "savefig.facecolor": _PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}

_GOAL_US, _GOAL_MB = 80, 200


def plot_rates(rounds: Mapping[str, Rounds]) -> str:
    """Each program's rate as a share of the rawest client's in the same round, a panel for each workload."""
    names = [workload.name for workload in WORKLOADS if workload.name in rounds]
    order = (RAWEST, OWN, PYREQWEST, AIOHTTP, SDK, TUTORIAL, BATCHER, BATCHER_SDK)
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.6 * columns, 2.1 * lines + 0.5), layout="constrained")
        panels: Any = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for panel, name in zip(panels.flat, names, strict=False):
            ours = [one for one in order if one in rounds[name]]
            _rates_panel(panel, name, rounds[name], ours)
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        figure.suptitle(
            "Rows a second, of the rawest client's in the same round (median and range; logarithmic)", fontsize=10
        )
        return _svg(figure)


def _rates_panel(panel: Any, name: str, rounds: Rounds, names: Sequence[str]) -> None:
    panel.set_title(name, fontsize=10, loc="left", fontweight="bold")
    panel.set_xscale("log")
    panel.set_xlim(0.002, 4)
    panel.set_ylim(len(names) - 0.4, -0.6)
    for place, contender in enumerate(names):
        spread = ratio(rounds[contender], rounds[RAWEST], lambda one: one.rows_per_s)
        colour = _STRONG.get(contender, _OTHERS)
        panel.plot([spread.low, spread.high], [place, place], color=colour, linewidth=2, alpha=0.6)
        panel.plot([spread.middle], [place], "o", color=colour, markersize=7)
        share = spread.middle * 100
        panel.annotate(f"{share:.0f} %" if share >= 10 else f"{share:.1f} %", (max(spread.high, spread.middle), place),
                       xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    panel.set_yticks(range(len(names)), names)
    panel.set_xticks([0.01, 0.1, 1.0], ["1 %", "10 %", "100 %"])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(length=0, labelbottom=True)
    panel.grid(axis="x", color=_FAINT, linewidth=0.8)
    panel.spines[["left", "bottom"]].set_visible(False)


def plot_cpu(profile: Profile) -> str:
    """What a row costs, one bar stacked by part, with the goal."""
    # A part that came out below 0 is noise: it has no width in a stack, and the legend says what it was.
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.2, 2.6), layout="constrained")
        panel: Any = figure.subplots()
        left = 0.0
        for part, colour in zip(profile.parts, _COLOURS, strict=True):
            shown_us = max(part.us, 0.0)
            panel.barh(0, shown_us, left=left, color=colour, edgecolor=_PAPER, label=f"{part.name} {part.us:.1f}")
            left += shown_us
        panel.plot([_GOAL_US, _GOAL_US], [-0.5, 0.5], color=_INK, linewidth=1.5, linestyle="--")
        panel.annotate(f"goal {_GOAL_US}", (_GOAL_US, -0.5), xytext=(4, 0), textcoords="offset points", fontsize=9)
        panel.set_yticks([])
        panel.set_xlabel("CPU µs a row while rows are asked, all threads")
        panel.spines["left"].set_visible(False)
        figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9)
        return _svg(figure)


def plot_memory(memory: Rounds) -> str:
    """Peak memory by rows, from 0, with the goal."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        panel: Any = figure.subplots()
        for name, measured in memory.items():
            colour = _STRONG.get(name, _OTHERS)
            rows, peaks = [one.rows for one in measured], [one.memory_mb for one in measured]
            panel.plot(rows, peaks, "o-", color=colour, linewidth=2)
            panel.annotate(name, (rows[-1], peaks[-1]), xytext=(-4, 7), textcoords="offset points", ha="right")
        panel.axhline(_GOAL_MB, color=_INK, linewidth=1, linestyle="--")
        panel.annotate(
            f"goal {_GOAL_MB} MB", (rows[0], _GOAL_MB), xytext=(0, 4), textcoords="offset points", fontsize=9
        )
        panel.set_xscale("log")
        panel.set_xticks(rows, [f"{count:,}" for count in rows])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.margins(x=0.12)
        panel.set_ylim(0, 1.25 * max(_GOAL_MB, *(one.memory_mb for all_of in memory.values() for one in all_of)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f} MB"))
        panel.set_xlabel("rows, logarithmic; 1,000 in flight, results included")
        panel.grid(axis="y", color=_FAINT, linewidth=0.8)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The same bytes for the same figures, in the reader's colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    for stand_in, variable in ((_INK, "--ink"), (_FAINT, "--faint"), (_PAPER, "--paper")):
        text = text.replace(stand_in, f"var({variable})")
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    start = text.index("<defs>")
    return text[:start] + _STYLE + text[start:]
