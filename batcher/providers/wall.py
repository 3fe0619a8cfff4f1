"""The run's budget as calls meet it."""

from dataclasses import dataclass
from decimal import Decimal

from batcher.core.contracts import CallError
from batcher.core.records import Request
from batcher.ledger.budget import Budget
from batcher.ledger.worst_case import WorstCase


@dataclass(frozen=True, slots=True)
class Wall:
    """The run's budget, and what one call of the job may cost at most."""

    budget: Budget
    worst_case: WorstCase

    def worst_usd(self, request: Request) -> Decimal:
        """Dollars.

        Raises:
            CallError: Nothing bounds what this request costs.
        """
        worst_usd = self.worst_case.usd(request.messages)
        if worst_usd is None:
            raise CallError(
                "never sent: it has a part that is no text and no image, whose cost has no known bound, "
                "and the job has a budget",
                kind="bad_request",
                reached=False,
            )
        return worst_usd
