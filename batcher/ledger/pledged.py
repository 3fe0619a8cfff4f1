"""What a budget leaves for the next process: its part of `run.json`, and what a kill makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any

from batcher.errors import JournalError

_ZERO = Decimal(0)
# The usual 28 digits would round a sum.
_EXACT = Context(prec=200)
_DIGITS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A run's money beside its journal, in dollars, over all its processes.

    Attributes:
        usd: The cap.
        pledged_usd: The most that a process at work may have spent beyond the journal; 0 after a clean end.
        at_risk_usd: The worst cases of calls whose bill nobody knows (a timeout, a cut answer).
        lost_usd: Pledges of processes that were killed.
        unfinished_usd: What calls are known to have cost that stand in no outcome's cost: their rows were
            not finished when the run stopped, or have another call whose cost is unknown.
    """

    usd: Decimal = _ZERO
    pledged_usd: Decimal = _ZERO
    at_risk_usd: Decimal = _ZERO
    lost_usd: Decimal = _ZERO
    unfinished_usd: Decimal = _ZERO

    def to_json(self) -> dict[str, str]:
        """For `run.json`: decimal strings, no exponent."""
        return {field.name: format(getattr(self, field.name).normalize(_EXACT), "f") for field in fields(self)}

    @classmethod
    def from_json(cls, kept: Any) -> "BudgetState":
        """What `to_json` gave; None, in a run without a budget so far, is nothing before.

        Raises:
            JournalError: It is something else: what a run has spent is not guessed.
        """
        if kept is None:
            return NOTHING_BEFORE
        names = [field.name for field in fields(cls)]
        if isinstance(kept, Mapping) and set(kept) == set(names):
            try:
                amounts = {name: Decimal(kept[name]) for name in names if isinstance(kept[name], str)}
            except InvalidOperation:
                amounts = {}
            if len(amounts) == len(names) and all(amount.is_finite() and amount >= 0 for amount in amounts.values()):
                return cls(**amounts)
        raise JournalError(
            "run.json: its section budget is not what was written, so what was spent is not known",
            hint="restore run.json from a backup, or start again with `batcher run --fresh`",
        )


NOTHING_BEFORE = BudgetState()


def reopened(kept: BudgetState) -> BudgetState:
    """What a process that goes on starts from: a pledge that is still there was left by a kill, and counts as lost."""
    return replace(kept, pledged_usd=_ZERO, lost_usd=kept.lost_usd + kept.pledged_usd)


def loss_sentence(kept: BudgetState) -> str | None:
    """What to tell people who go on with a killed run, or None where it ended cleanly."""
    if not kept.pledged_usd:
        return None
    return (
        f"the run was killed: calls that were in flight may have cost up to {dollars(kept.pledged_usd, up=True)}, "
        "which counts as spent"
    )


def dollars(amount_usd: Decimal, *, up: bool = False) -> str:
    """An amount for people: four digits after the point or, below a dollar, four digits that say something.

    `up` rounds upwards, as for what something may cost at most.
    """
    places = _DIGITS_SHOWN if amount_usd >= 1 or not amount_usd else _DIGITS_SHOWN - 1 - amount_usd.adjusted()
    step = Decimal(1).scaleb(-max(_DIGITS_SHOWN, places) if amount_usd < 1 else -_DIGITS_SHOWN)
    shown = amount_usd.quantize(step, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    text = format(shown.normalize(), "f")
    whole, point, cents = text.partition(".")
    return f"${whole}.{cents:0<2}" if point else f"${whole}"
