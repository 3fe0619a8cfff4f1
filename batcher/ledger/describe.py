"""What `batcher prices MODEL` shows: the price a job would be booked at, where it is from, or the nearest names."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from batcher.ledger.price_list import find_price, names_known
from batcher.ledger.prices import AnyPrice, Price, TieredPrice

NEAREST_MAX = 5


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """A model's price (None: nobody knows it) and, where it has none, the names most like it."""

    model: str
    price: AnyPrice | None
    nearest: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The sheet in words, one fact a line, without colour."""
        if self.price is None:
            near = f"; did you mean {', '.join(self.nearest)}?" if self.nearest else ""
            return [
                f"{self.model}: price unknown{near}",
                "name it in the job: price: {input: 0.10, cached_input: 0.025, output: 0.40}",
            ]
        base, tiers = (self.price.base, self.price.tiers) if isinstance(self.price, TieredPrice) else (self.price, ())
        lines = [f"{self.model}: {_rates(base)}"]
        lines += [f"  input above {tier.above_tokens:,} tokens: {_rates(tier.price)}" for tier in tiers]
        as_of = f", as of {base.date.isoformat()}" if base.date else ""
        return [*lines, f"  USD per million tokens; {base.source}{as_of}"]

    def to_json(self) -> dict[str, Any]:
        """The sheet as JSON: money as decimal strings."""
        price = None if self.price is None else self.price.to_json()
        return {"model": self.model, "price": price, "nearest": list(self.nearest)}


def describe(
    model: str, *, at: datetime, base_url: str | None = None, override: Mapping[str, Any] | None = None
) -> PriceSheet:
    """The price sheet of a model. The arguments are those of `find_price`."""
    price = find_price(model, at=at, base_url=base_url, override=override)
    if price is not None:
        return PriceSheet(model, price)
    name = model.lower().rpartition("/")[2]
    nearest = difflib.get_close_matches(name, sorted(set(names_known()) - {name}), n=NEAREST_MAX, cutoff=0.6)
    return PriceSheet(model, None, tuple(nearest))


def _rates(price: Price) -> str:
    output = "no price" if price.output is None else _dollars(price.output)
    return f"input {_dollars(price.input)}, cached input {_dollars(price.cached_input)}, output {output}"


def _dollars(amount: Decimal) -> str:
    """At least two decimals, no digit lost: $8.00, $0.028."""
    text = format(amount.normalize(), "f")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"
