"""What a token costs, and what one call cost.

Prices are dollars per million tokens, as providers print them, and Decimal from the first digit to the
last: nothing here is ever a float. A price that is not known is None and so is a cost that is not; 0 is
said only of what is known to be free.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from batcher.core.records import Usage
from batcher.errors import JobError

MILLION_DIGITS = 6
"""Moving the decimal point this far turns a price per million into one per token, exactly."""

PriceField = Literal["input", "cached_input", "output"]


@dataclass(frozen=True, slots=True)
class Price:
    """One price for every size of request: `Price(Decimal("0.10"), Decimal("0.025"), Decimal("0.40"), "job file")`.

    `output` is None where the list names none, as for embedding models. `source` says where the price is
    from, `date` when it was read there or came into force (None where the source does not say).
    """

    input: Decimal
    cached_input: Decimal
    output: Decimal | None
    source: str
    date: dt.date | None = None
    _input_each: Decimal = field(init=False, repr=False, compare=False)
    _cached_each: Decimal = field(init=False, repr=False, compare=False)
    _output_each: Decimal | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_input_each", self.input.scaleb(-MILLION_DIGITS))
        object.__setattr__(self, "_cached_each", self.cached_input.scaleb(-MILLION_DIGITS))
        output_each = None if self.output is None else self.output.scaleb(-MILLION_DIGITS)
        object.__setattr__(self, "_output_each", output_each)

    def cost_usd(self, usage: Usage) -> Decimal | None:
        """The cost of `usage`; None if it has output and the price names none. Trusts the usage: see `cost_usd`."""
        cached = usage.cached
        cost = self._input_each * (usage.input - cached)
        if cached:
            cost += self._cached_each * cached
        if usage.output:
            if self._output_each is None:
                return None
            cost += self._output_each * usage.output
        return cost

    def to_json(self) -> dict[str, Any]:
        """The price for `run.json`: money as decimal strings."""
        return {
            "input": _text(self.input),
            "cached_input": _text(self.cached_input),
            "output": None if self.output is None else _text(self.output),
            "source": self.source,
            "date": None if self.date is None else self.date.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class Tier:
    """The price of a whole request whose input is longer than `above_tokens`."""

    above_tokens: int
    price: Price


@dataclass(frozen=True, slots=True)
class TieredPrice:
    """A price that depends on the length of the input, as for long contexts.

    A request beyond a tier's start pays that tier's price for all its tokens, not only for those above.
    `tiers` are in ascending order.
    """

    base: Price
    tiers: tuple[Tier, ...]

    @property
    def source(self) -> str:
        """Where the price is from."""
        return self.base.source

    @property
    def date(self) -> dt.date | None:
        """When it was read there or came into force."""
        return self.base.date

    def for_input(self, input_tokens: int) -> Price:
        """The price of a request with so many input tokens, cached ones included."""
        for tier in reversed(self.tiers):
            if input_tokens > tier.above_tokens:
                return tier.price
        return self.base

    def cost_usd(self, usage: Usage) -> Decimal | None:
        """The cost of `usage` in its tier."""
        return self.for_input(usage.input).cost_usd(usage)

    def to_json(self) -> dict[str, Any]:
        """The price for `run.json`, with its tiers."""
        tiers = [{"above_tokens": tier.above_tokens} | tier.price.to_json() for tier in self.tiers]
        return self.base.to_json() | {"tiers": tiers}


AnyPrice = Price | TieredPrice

FREE = Price(Decimal(0), Decimal(0), Decimal(0), "served on this machine")
"""A local model: known to cost nothing."""


def cost_usd(usage: Usage | None, price: AnyPrice | None) -> Decimal | None:
    """The exact cost of one call in dollars, or None where it is not known.

    The cached part of the input is priced once, at its own rate; reasoning is part of the output and is
    counted with it. Unknown are: no usage, no price, and a usage that cannot be (a part larger than its
    whole, a negative count): a provider that miscounts is not corrected by a guess.
    """
    if usage is None or price is None:
        return None
    if not (0 <= usage.cached <= usage.input and 0 <= usage.reasoning <= usage.output):
        return None
    return price.cost_usd(usage)


def price_from_job(override: Mapping[str, Any]) -> Price:
    """The price that a job names: `{input: 0.10, cached_input: 0.025, output: 0.40}`.

    `cached_input` is `input` where it is left out. Without `output` every call that has output tokens
    costs an unknown sum. A number is taken as it is written: 0.1 is 0.1, not the nearest binary fraction.

    Raises:
        JobError: A field is unknown, missing, or no number of dollars.
    """
    unknown = sorted(set(override) - {"input", "cached_input", "output"})
    if unknown:
        raise JobError(f"price.{unknown[0]} is not a field; a price has input, cached_input and output")
    if override.get("input") is None:
        raise JobError("price.input is missing; give dollars per million tokens, such as 0.10")
    input_usd = _dollars("input", override["input"])
    cached, output = override.get("cached_input"), override.get("output")
    return Price(
        input=input_usd,
        cached_input=input_usd if cached is None else _dollars("cached_input", cached),
        output=None if output is None else _dollars("output", output),
        source="job file",
    )


def _dollars(name: PriceField, value: object) -> Decimal:
    try:
        if isinstance(value, bool) or not isinstance(value, (Decimal, int, float, str)):
            raise InvalidOperation
        # `str` of a float is the shortest text that reads back as it: what the user wrote.
        dollars = value if isinstance(value, Decimal) else Decimal(str(value).strip())
    except InvalidOperation:
        dollars = Decimal("NaN")
    if not (dollars.is_finite() and 0 <= dollars < 1_000_000):
        raise JobError(f"price.{name} is {value!r}; give dollars per million tokens, 0 or more, such as 0.10")
    return dollars


def _text(amount: Decimal) -> str:
    return format(amount, "f")
