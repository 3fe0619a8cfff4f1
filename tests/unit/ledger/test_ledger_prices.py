"""What a call costs, to the last digit."""

from decimal import Decimal
from typing import Any

import pytest

from batcher.core.records import Usage
from batcher.errors import JobError
from batcher.ledger.prices import FREE, Price, Tier, TieredPrice, cost_usd, price_from_job


def price(input_usd: str, cached_usd: str, output_usd: str | None) -> Price:
    return Price(Decimal(input_usd), Decimal(cached_usd), None if output_usd is None else Decimal(output_usd), "test")


NANO = price("0.10", "0.025", "0.40")
LONG = TieredPrice(price("3", "0.3", "15"), (Tier(200_000, price("6", "0.6", "22.5")),))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        pytest.param(Usage(1_000_000, 0, 1_000_000), "0.50", id="a million of each"),
        pytest.param(Usage(1, 0, 0), "0.0000001", id="one token"),
        pytest.param(Usage(1_000, 400, 0), "0.00007", id="the cached part once, at its own rate"),
        pytest.param(Usage(0, 0, 100, 80), "0.00004", id="reasoning once, as part of the output"),
        pytest.param(Usage(), "0", id="nothing"),
        pytest.param(Usage(7, 7, 3, 3), "0.000001375", id="all cached, all reasoning"),
    ],
)
def test_each_token_is_priced_once(usage: Usage, cost: str) -> None:
    """Exactly: a cent lost in a call is ten thousand dollars in a million."""
    assert Decimal(cost) == cost_usd(usage, NANO)


def test_a_million_costs_add_up_exactly() -> None:
    """0.1 + 0.2 is not 0.3 in floats."""
    one = cost_usd(Usage(3, 0, 1), NANO)
    assert one is not None
    assert Decimal("0.7") == one * 1_000_000
    assert Decimal("0.0007") == sum((one for _ in range(1_000)), Decimal(0))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        pytest.param(Usage(200_000, 0, 10), "0.60015", id="at the start of the tier: the base"),
        pytest.param(Usage(200_001, 0, 10), "1.200231", id="one beyond: the tier, for all tokens"),
        pytest.param(Usage(300_000, 200_000, 0), "0.72", id="cached tokens count for the length"),
    ],
)
def test_a_long_input_pays_its_tier_for_every_token(usage: Usage, cost: str) -> None:
    """A cliff, as the providers have it."""
    assert Decimal(cost) == cost_usd(usage, LONG)


@pytest.mark.parametrize(
    "usage",
    [None, Usage(10, 11, 0), Usage(10, -1, 0), Usage(-1, 0, 0), Usage(1, 0, -1), Usage(1, 0, 5, 6), Usage(1, 0, 5, -1)],
)
@pytest.mark.parametrize("listed", [NANO, LONG, FREE])
def test_a_usage_that_cannot_be_costs_an_unknown_sum(usage: Usage | None, listed: Price | TieredPrice) -> None:
    """Never a guess and never less than nothing."""
    assert cost_usd(usage, listed) is None


def test_no_price_is_unknown_and_local_is_free() -> None:
    """The two are not the same."""
    assert cost_usd(Usage(1, 0, 1), None) is None
    assert Decimal(0) == cost_usd(Usage(1_000, 10, 1_000), FREE)


def test_output_without_a_price_is_unknown_and_without_output_known() -> None:
    """Embedding models have no output price."""
    embedding = price("0.02", "0.02", None)
    assert Decimal("0.02") == cost_usd(Usage(1_000_000), embedding)
    assert cost_usd(Usage(1, 0, 1), embedding) is None


def test_a_job_price_is_read_as_it_is_written() -> None:
    """YAML gives a float; 0.1 means a tenth."""
    assert Decimal("0.1") == price_from_job({"input": 0.1, "output": "0.40"}).input
    named = price_from_job({"input": Decimal("0.10"), "output": 2})
    assert (named.input, Decimal(2), "job file") == (named.cached_input, named.output, named.source)
    assert price_from_job({"input": 0, "output": 0}).cost_usd(Usage(5, 0, 5)) == 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({}, "price.input is missing"),
        ({"output": 1}, "price.input is missing"),
        ({"input": -1}, "price.input is -1; give dollars"),
        ({"input": "free"}, "price.input is 'free'"),
        ({"input": True}, "price.input is True"),
        ({"input": float("nan")}, "price.input is nan"),
        ({"input": "Infinity"}, "price.input is 'Infinity'"),
        ({"input": 1, "output": [1]}, r"price.output is \[1\]"),
        ({"input": 1, "cached": 1}, "price.cached is not a field"),
        ({"input": 10**9}, "price.input is 1000000000"),
    ],
)
def test_a_job_price_that_is_none_gets_a_sentence(override: dict[str, Any], words: str) -> None:
    """Which field, what was found, what to write."""
    with pytest.raises(JobError, match=words):
        price_from_job(override)


def test_json_holds_money_as_text() -> None:
    """A float in run.json would undo the rest."""
    assert {
        "input": "0.10",
        "cached_input": "0.025",
        "output": "0.40",
        "source": "test",
        "date": None,
    } == NANO.to_json()
    assert [200_000] == [tier["above_tokens"] for tier in LONG.to_json()["tiers"]]
