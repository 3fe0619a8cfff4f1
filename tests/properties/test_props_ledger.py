"""The ledger equals the sum of the outcomes, however they are cut, and no cost is ever rounded."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from batcher.core.records import Outcome, Usage
from batcher.ledger.ledger import Ledger, Totals
from batcher.ledger.prices import Price, cost_usd

rates = st.decimals(0, 10_000, places=6)
costs = st.none() | st.decimals(0, 1_000, places=12)
counts = st.integers(0, 2_000_000)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    tokens_in, tokens_out = draw(counts), draw(counts)
    return Usage(tokens_in, draw(st.integers(0, tokens_in)), tokens_out, draw(st.integers(0, tokens_out)))


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    usage = draw(usages())
    return Outcome(
        0,
        draw(st.sampled_from(["ok", "invalid", "failed"])),
        provider=draw(st.sampled_from([None, "a", "b"])),
        asked_model=draw(st.sampled_from([None, "m", "n"])),
        attempts=draw(st.integers(0, 9)),
        input_tokens=usage.input,
        cached_tokens=usage.cached,
        output_tokens=usage.output,
        reasoning_tokens=draw(st.none() | st.just(usage.reasoning)),
        cost_usd=draw(costs),
    )


@given(usages(), rates, rates, rates)
def test_a_cost_is_exact(usage: Usage, input_usd: Decimal, cached_usd: Decimal, output_usd: Decimal) -> None:
    """Against fractions, which never round."""
    cost = cost_usd(usage, Price(input_usd, cached_usd, output_usd, "test"))
    expected = (
        Fraction(input_usd) * (usage.input - usage.cached)
        + Fraction(cached_usd) * usage.cached
        + Fraction(output_usd) * usage.output
    ) / 1_000_000
    assert cost is not None
    assert expected == Fraction(cost)


@given(st.lists(outcomes(), max_size=30), st.integers(0, 30))
def test_a_ledger_cut_in_two_and_joined_is_the_same(rows: list[Outcome], cut: int) -> None:
    """That is what a resume does."""
    whole, before, after = Ledger(), Ledger(), Ledger()
    for index, row in enumerate(rows):
        whole.add([row])
        (before if index < cut else after).add([row])
    for (provider, model), totals in before.accounts():
        after.add_totals(totals, provider=provider, model=model)
    assert whole.total() == after.total()
    assert dict(whole.accounts()) == dict(after.accounts())


@given(st.lists(outcomes(), max_size=30))
def test_the_total_is_the_sum_of_the_outcomes(rows: list[Outcome]) -> None:
    """Counted by hand."""
    ledger = Ledger()
    added = ledger.add(rows)
    assert added == ledger.total()
    known = [row.cost_usd for row in rows if row.cost_usd is not None]
    expected = Totals(
        rows=len(rows),
        calls=sum(row.attempts for row in rows),
        input_tokens=sum(row.input_tokens or 0 for row in rows),
        cached_tokens=sum(row.cached_tokens or 0 for row in rows),
        output_tokens=sum(row.output_tokens or 0 for row in rows),
        reasoning_tokens=sum(row.reasoning_tokens or 0 for row in rows),
        cost_usd=sum(known, Decimal(0)),
        rows_cost_unknown=len(rows) - len(known),
    )
    assert expected == ledger.total()
