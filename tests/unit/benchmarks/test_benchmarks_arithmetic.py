"""From measurements to ratios, goals and sentences; every expected value is worked out by hand."""

import msgspec
import pytest
from contenders import Measurement
from document import with_part
from processes import BenchmarkError
from profiling import STUBBED, VARIANTS, WHOLE, Sample, Variant, profile_lines, profile_of
from results import Results, growth, ratio, row_cpu_us
from summary import summary_table
from tables import workload_table
from workloads import BATCHER, MANY_IN_FLIGHT, NO_LATENCY, RAWEST, SDK, SHORT_LATENCY

MEASURED = Measurement(
    rows=1000,
    rows_per_s=1000.0,
    rows_per_s_whole=500.0,
    first_request_s=0.5,
    cpu_s=1.0,
    memory_mb=100.0,
    client_busy=0.5,
    in_flight_max=256,
    server_busy=0.1,
)


def measured(**figures):
    return msgspec.structs.replace(MEASURED, **figures)


def rates(*rows_per_s):
    return [measured(rows_per_s=rate, rows_per_s_whole=rate) for rate in rows_per_s]


def test_a_ratio_is_taken_within_each_round() -> None:
    """Machines drift: the median of our rates over the median of theirs compares two different moments."""
    ours, theirs = rates(100, 300, 50), rates(200, 1000, 500)

    spread = ratio(ours, theirs, lambda one: one.rows_per_s)

    assert (0.3, 0.1, 0.5) == (spread.middle, spread.low, spread.high)
    assert "30% (10% to 50%)" == spread.written("{:.0%}")


def test_a_ratio_wants_the_same_rounds() -> None:
    """A round that is missing would shift all later ones against each other."""
    with pytest.raises(ValueError, match="zip"):
        ratio(rates(1, 2), rates(1), lambda one: one.rows_per_s)


def test_a_range_of_one_value_is_not_written() -> None:
    """One round has no range, and must not seem to have had one."""
    assert "50%" == ratio(rates(1), rates(2), lambda one: one.rows_per_s).written("{:.0%}")


def test_the_price_of_starting_is_taken_off_a_row() -> None:
    """3 s for 1,000 rows of which 1 s is starting: 2 ms a row."""
    assert 2000.0 == row_cpu_us([measured(cpu_s=3.0)], [measured(cpu_s=1.0)])


def test_a_row_that_starting_outweighs_is_not_told() -> None:
    """The difference of two large numbers is noise."""
    assert row_cpu_us([measured(cpu_s=1.9)], [measured(cpu_s=1.0)]) is None


def test_growth_is_of_the_most_rows_over_the_fewest() -> None:
    """Not of the highest peak over the lowest."""
    assert 0.5 == growth([measured(memory_mb=100.0), measured(memory_mb=80.0), measured(memory_mb=150.0)])


def test_failures_make_less_possible() -> None:
    """A request that gets an error used its time and its place."""
    assert 4000.0 == SHORT_LATENCY.possible
    assert NO_LATENCY.possible is None


def test_a_goal_is_reached_or_not_by_what_was_measured() -> None:
    """The verdict comes from the figure; nothing else may say yes."""
    fast = measured(rows=100_000, cpu_s=7.0, rows_per_s_whole=20_000.0, rows_per_s=25_000.0)
    results = Results(
        ["two cores"],
        alone={BATCHER: [measured(first_request_s=0.45)]},
        rounds={
            NO_LATENCY.name: {RAWEST: rates(40_000), SDK: rates(600), BATCHER: [fast]},
            SHORT_LATENCY.name: {RAWEST: rates(3900), SDK: rates(300), BATCHER: rates(3960)},
        },
        memory={BATCHER: [measured(memory_mb=100.0), measured(memory_mb=112.0)]},
    )

    lines = summary_table(results).splitlines()[2:]

    assert [
        "| CPU a row, whole process, 100,000 rows, no latency | 70 µs | ≤ 80 µs | ≤ 60 µs | yes |",
        "| rows/s, whole process, 100,000 rows, no latency, of the rawest client's | 50% | ≥ 40% | ≥ 55% | yes |",
        "| the same, times the SDK loop's rate after its start-up | 33.3 times | ≥ 40.0 times |  | **no** |",
        "| 50 ms, 200 in flight: rows/s after start-up, of what is possible | 99% | ≥ 95% | ≥ 98% "
        "| yes, the stretch too |",
        "| the same: growth from the fewest rows to the most | 12% | ≤ 10% |  | **no** |",
        "| first request of a job of one row, after the command | 450 ms | ≤ 600 ms | ≤ 400 ms | yes |",
    ] == lines


def test_a_server_near_its_limit_is_told() -> None:
    """At 90 % of its core the server may be what was measured."""
    busy = {RAWEST: [measured(server_busy=0.9)], BATCHER: [measured()]}
    idle = {RAWEST: [measured(server_busy=0.5)], BATCHER: [measured()]}
    alone = {RAWEST: [MEASURED], BATCHER: [MEASURED]}

    assert "The server may have been" in workload_table(NO_LATENCY, busy, alone)
    assert "it could answer 2,000 requests/s" in workload_table(NO_LATENCY, idle, alone)


def test_calls_that_never_were_in_flight_are_told() -> None:
    """A client that had 700 of 1,000 calls out was measured on an easier workload than the table's head says."""
    rounds = {RAWEST: [measured(in_flight_max=1000)], BATCHER: [measured(in_flight_max=700)]}

    assert "Not all 1,000 calls were ever out at once: batcher 700." in workload_table(
        MANY_IN_FLIGHT, rounds, {RAWEST: [MEASURED], BATCHER: [MEASURED]}
    )


def sample(rows_s, system_s=0.0, **more):
    return Sample(rows=1000, start_s=1.0, rows_s=rows_s, rows_system_s=system_s, main_thread_s=rows_s / 2, **more)


def test_a_part_costs_what_the_run_without_it_saves() -> None:
    """80 µs in all at best, of which HTTP 40, the engine 4, and the others 36, the gate 12 or 6 by the order."""

    def left_us(stubbed):
        costs = dict.fromkeys(STUBBED, 4) | {"http": 40, "gate": 12}
        # What the gate and the check share is saved with whichever of them goes last.
        shared = 0 if {"gate", "check"} <= stubbed else 6
        costs |= {"gate": costs["gate"] - 6}
        return 4 + shared + sum(costs[name] for name in STUBBED if name not in stubbed)

    samples = {variant: [sample(left_us(variant.stubbed) / 1000)] for variant in VARIANTS}
    samples[Variant(frozenset({"http"}), "budget")] = [sample(0.035)]
    samples[WHOLE] = [sample(0.13, 0.05, end_s=0.5), sample(0.08, 0.02, end_s=0.5)]

    profile = profile_of(samples, [1.7, 1.6])

    costs = {part.name: tuple(round(us, 6) for us in (part.us, part.low_us, part.high_us)) for part in profile.parts}
    assert {
        "http": (40, 40, 40), "decode": (4, 4, 4), "gate": (9, 6, 12), "check": (7, 4, 10), "render": (4, 4, 4),
        "read": (4, 4, 4), "journal": (4, 4, 4), "book": (4, 4, 4), "engine and loop": (4, 4, 4),
    } == costs  # fmt: skip
    assert 80.0 == pytest.approx(profile.whole_us) == pytest.approx(sum(part.us for part in profile.parts))
    assert [5.0, 0.0] == [pytest.approx(part.us) for part in profile.switched]
    assert (20.0, 40.0) == (pytest.approx(profile.system_us), pytest.approx(profile.main_thread_us))
    assert 50.0 == pytest.approx(profile.noise_us)
    assert "Together 1.58 s; the same command with nothing measured inside took 1.60 s." in profile_lines(profile)


def test_only_what_is_between_its_markers_is_written() -> None:
    """The sentences around a table are people's."""
    text = "before\n<!-- bench:a -->\nold\n<!-- bench:end -->\nafter <!-- bench:b -->\n<!-- bench:end -->\n"

    assert text.replace("old", "\nnew \\1\n") == with_part(text, "a", "new \\1")


def test_a_document_without_a_place_is_an_error() -> None:
    """Figures that silently go nowhere leave old ones standing."""
    with pytest.raises(BenchmarkError, match="no place for summary"):
        with_part("# Benchmarks\n", "summary", "new")
