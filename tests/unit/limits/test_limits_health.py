"""How a provider has been doing, by what it did lately."""

import math

import pytest

from batcher.limits.health import SUCCESS_WEIGHT, Health, decay_exponent


def after(*, share: float, per_s: float, verdicts: int = 2_000) -> Health:
    health, failures = Health(), 0
    health.learn(0.0, failures=0, successes=0)
    for number in range(1, verdicts + 1):
        is_failure = int(number * share) > failures
        failures += is_failure
        health.learn(number / per_s, failures=int(is_failure), successes=int(not is_failure))
    return health


@pytest.mark.parametrize("share", [0.01, 0.09, 0.3, 0.5])
def test_the_exponent_is_the_root_of_its_equation(share: float) -> None:
    """With it the evidence is a martingale, which is what makes the bound hold."""
    root = decay_exponent(share)
    assert root > 0
    assert 1.0 == pytest.approx(share * math.exp(root) + (1 - share) * math.exp(-SUCCESS_WEIGHT * root))


def test_a_quiet_provider_needs_the_threshold_and_no_more() -> None:
    """At any rate."""
    for per_s in (1, 5, 500, 5_000):
        assert 0 == after(share=0.0, per_s=per_s).chance_adds(is_silent=False)


def test_the_more_fails_and_the_more_often_it_is_asked_the_more_chance_adds() -> None:
    """By the logarithm of the rate: a thousand times the calls do not need a thousand times the evidence."""
    added = {
        (share, per_s): after(share=share, per_s=per_s).chance_adds(is_silent=False)
        for share in (0.09, 0.3, 0.5)
        for per_s in (1, 5_000)
    }
    assert sorted(added.values()) == [
        added[key] for key in [(0.09, 1), (0.09, 5_000), (0.3, 1), (0.3, 5_000), (0.5, 1), (0.5, 5_000)]
    ]
    assert 1 <= added[0.09, 1] <= 3
    assert 15 <= added[0.3, 5_000] <= 25


def test_where_little_is_known_only_silence_opens_at_the_threshold() -> None:
    """Five failures in a row at the start of a run are an outage; five and a success between them may be noise."""
    assert 0 == Health().chance_adds(is_silent=True)
    assert 8 == Health().chance_adds(is_silent=False)


def test_a_lump_counts_as_if_it_had_come_evenly() -> None:
    """An hour of successes is learned at the first failure after it."""
    lump, even = Health(), Health()
    for health in (lump, even):
        health.learn(0.0, failures=10, successes=10)
    lump.learn(100.0, failures=0, successes=100)
    for second in range(1, 101):
        even.learn(float(second), failures=0, successes=1)
    assert lump.share == pytest.approx(even.share, rel=0.02)


def test_it_is_sick_where_many_rows_fail_and_are_answered_the_next_time() -> None:
    """Not with a few verdicts, not at 9 %, and not where those that failed fail again, or none was asked again yet."""
    sick, healthy = after(share=0.3, per_s=5), after(share=0.09, per_s=5)
    young = after(share=0.3, per_s=5, verdicts=20)
    for health in (sick, healthy, young):
        assert not health.is_sick
        health.learn(400.0, failures=0, successes=0, again_failures=3, again_successes=7)
    assert [True, False, False] == [health.is_sick for health in (sick, healthy, young)]
    poisoned = after(share=0.3, per_s=5)
    poisoned.learn(400.0, failures=0, successes=0, again_failures=30, again_successes=3)
    assert not poisoned.is_sick


def test_what_it_was_is_forgotten() -> None:
    """After 1,000 good verdicts, and after failures that turned out not to be the provider's."""
    health = after(share=0.5, per_s=100)
    health.learn(30.0, failures=0, successes=1_000)
    assert health.share < 0.01
    spoken_for = after(share=0.5, per_s=100)
    spoken_for.forget()
    assert not spoken_for.is_sick
    assert spoken_for.share < 0.01
