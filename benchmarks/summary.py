"""The goals beside what was measured, in one table."""

from collections.abc import Callable
from dataclasses import dataclass

from results import Results, Rounds, growth, middle, ratio
from tables import line
from workloads import BATCHER, MANY_IN_FLIGHT, NO_LATENCY, RAWEST, SDK, SHORT_LATENCY, WORKLOADS


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure to reach. `value` gives None where the run did not measure it; `is_most`: smaller is better."""

    name: str
    value: Callable[[Results], float | None]
    form: Callable[[float], str]
    goal: float
    stretch: float | None = None
    is_most: bool = False

    def verdict(self, value: float) -> str:
        """Whether it is reached."""
        if self.stretch is not None and self._reaches(value, self.stretch):
            return "yes, the stretch too"
        return "yes" if self._reaches(value, self.goal) else "**no**"

    def _reaches(self, value: float, mark: float) -> bool:
        return value <= mark if self.is_most else value >= mark


def summary_table(results: Results) -> str:
    """A line for each goal that this run measured."""
    lines = [line(["figure", "measured", "goal", "stretch", "reached"]), line(["---", "---:", "---:", "---:", "---"])]
    for goal in GOALS:
        value = goal.value(results)
        if value is not None:
            sign = "≤ " if goal.is_most else "≥ "
            stretch = "" if goal.stretch is None else sign + goal.form(goal.stretch)
            name = goal.name.format(rows=_rows(results))
            lines.append(line([name, goal.form(value), sign + goal.form(goal.goal), stretch, goal.verdict(value)]))
    return "\n".join(lines)


def _rows(results: Results) -> str:
    rounds = _measured(results, NO_LATENCY.name, BATCHER)
    return "-" if rounds is None else f"{rounds[BATCHER][0].rows:,}"


def _measured(results: Results, workload: str, *names: str) -> Rounds | None:
    """The rounds of a workload, or None where one of these programs was not measured on it."""
    rounds = results.rounds.get(workload, {})
    return rounds if all(name in rounds for name in names) else None


def _cpu_us(results: Results) -> float | None:
    rounds = _measured(results, NO_LATENCY.name, BATCHER)
    return None if rounds is None else middle(rounds[BATCHER], lambda one: one.cpu_s / one.rows * 1e6)


def _of_rawest(results: Results) -> float | None:
    rounds = _measured(results, NO_LATENCY.name, BATCHER, RAWEST)
    return None if rounds is None else ratio(rounds[BATCHER], rounds[RAWEST], lambda one: one.rows_per_s_whole).middle


def _times_sdk(results: Results) -> float | None:
    # The SDK loop has fewer rows, so its start-up would count for more: it is left out, in its favour.
    rounds = _measured(results, NO_LATENCY.name, BATCHER, SDK)
    if rounds is None:
        return None
    return ratio(rounds[BATCHER], rounds[SDK], lambda one: one.rows_per_s_whole, lambda one: one.rows_per_s).middle


def _of_possible(name: str) -> Callable[[Results], float | None]:
    possible = next(workload.possible for workload in WORKLOADS if workload.name == name)
    assert possible is not None

    def value(results: Results) -> float | None:
        rounds = _measured(results, name, BATCHER)
        return None if rounds is None else middle(rounds[BATCHER], lambda one: one.rows_per_s) / possible

    return value


def _memory_mb(name: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        rounds = _measured(results, name, BATCHER)
        return None if rounds is None else middle(rounds[BATCHER], lambda one: one.memory_mb)

    return value


def _growth(results: Results) -> float | None:
    return growth(results.memory[BATCHER]) if BATCHER in results.memory else None


def _first_request_ms(results: Results) -> float | None:
    alone = results.alone.get(BATCHER)
    return None if alone is None else middle(alone, lambda one: one.first_request_s) * 1000.0


def _us(value: float) -> str:
    return f"{value:,.0f} µs"


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _times(value: float) -> str:
    return f"{value:.1f} times"


def _mb(value: float) -> str:
    return f"{value:,.0f} MB"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms"


GOALS = (
    Goal("CPU a row, whole process, {rows} rows, no latency", _cpu_us, _us, 80, 60, is_most=True),
    Goal("rows/s, whole process, {rows} rows, no latency, of the rawest client's", _of_rawest, _percent, 0.40, 0.55),
    Goal("the same, times the SDK loop's rate after its start-up", _times_sdk, _times, 40),
    Goal("50 ms, 200 in flight: rows/s after start-up, of what is possible", _of_possible(SHORT_LATENCY.name), _percent,
         0.95, 0.98),
    Goal("1 s, 10,000 in flight: rows/s after start-up, of what is possible", _of_possible("10,000 in flight"),
         _percent, 0.90),
    Goal("1 s, 10,000 in flight: peak memory", _memory_mb("10,000 in flight"), _mb, 400, is_most=True),
    Goal("50 ms, 1,000 in flight: peak memory", _memory_mb(MANY_IN_FLIGHT.name), _mb, 200, is_most=True),
    Goal("the same: growth from the fewest rows to the most", _growth, _percent, 0.10, is_most=True),
    Goal("first request of a job of one row, after the command", _first_request_ms, _ms, 600, 400, is_most=True),
)  # fmt: skip
