"""The wall under any order of reserving, settling, losing, journalling, cancelling and killing."""

import asyncio
from collections.abc import Coroutine
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batcher.errors import BudgetError
from batcher.ledger.budget import Budget, Hold
from batcher.ledger.pledged import BudgetState, reopened
from batcher.testing.clock import settle

amounts = st.decimals("0.000001", 3, places=12)
shares = st.decimals(0, 1, places=6)
CAP = Decimal(10)


class BudgetMachine(RuleBasedStateMachine):
    """Beside the budget stands a server that bills, a journal, and a disk that holds the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.journal = Decimal(0)
        self.billed = Decimal(0)
        self.disk = BudgetState(CAP)
        self.is_slow = False
        self.writes: list[asyncio.Event] = []
        self.open()

    def open(self) -> None:
        self.budget = Budget(CAP, self.journal, before=reopened(self.disk), pledge=self.pledge)
        self.disk = self.budget.state
        self.out: list[Hold] = []
        self.allotted: list[Decimal] = []
        self.waiting: list[asyncio.Task[Hold]] = []
        self.unwritten: list[Decimal] = []

    async def pledge(self, amount: Decimal) -> None:
        if self.is_slow:
            self.writes.append(asyncio.Event())
            await self.writes[-1].wait()
        # What is written is the state as a whole, as in run.json.
        assert self.budget.state.pledged_usd >= amount
        self.disk = self.budget.state

    def run(self, wait: Coroutine[None, None, None] | None = None) -> None:
        self.loop.run_until_complete(wait if wait is not None else settle())
        for task in [task for task in self.waiting if task.done()]:
            self.waiting.remove(task)
            if task.exception() is None:
                self.out.append(task.result())
            else:
                assert isinstance(task.exception(), BudgetError)

    @rule(worst=amounts)
    def reserve(self, worst: Decimal) -> None:
        self.waiting.append(self.loop.create_task(self.budget.reserve(worst)))
        self.run()

    @precondition(lambda self: self.out)
    @rule(share=shares, at=st.integers(0, 99))
    def settle(self, share: Decimal, at: int) -> None:
        hold = self.out.pop(at % len(self.out))
        cost = hold.worst_usd * share
        self.billed += cost
        hold.settle(cost)
        self.unwritten.append(cost)
        self.run()

    @precondition(lambda self: self.out)
    @rule(share=shares, at=st.integers(0, 99))
    def lose(self, share: Decimal, at: int) -> None:
        hold = self.out.pop(at % len(self.out))
        self.billed += hold.worst_usd * share
        hold.keep()
        self.run()

    @precondition(lambda self: self.out)
    @rule(at=st.integers(0, 99))
    def cancel(self, at: int) -> None:
        self.out.pop(at % len(self.out)).cancel()
        self.run()

    @rule(worst=st.decimals("0.000001", "0.05", places=12), calls=st.integers(1, 5))
    def allot(self, worst: Decimal, calls: int) -> None:
        if self.budget.try_allot(worst, calls):
            assert not self.waiting
            self.allotted += [worst] * calls
        self.run()

    @precondition(lambda self: self.allotted)
    @rule(calls=st.lists(shares, min_size=1, max_size=5))
    def settle_together(self, calls: list[Decimal]) -> None:
        settled = [(self.allotted.pop(), share) for share in calls[: len(self.allotted)]]
        costs = [worst * share for worst, share in settled]
        self.billed += sum(costs)
        self.budget.settle_all([(worst, cost) for (worst, _), cost in zip(settled, costs, strict=True)])
        self.unwritten += costs
        self.run()

    @precondition(lambda self: self.allotted)
    @rule()
    def give_back(self) -> None:
        self.budget.give_back(self.allotted.pop(), 1)
        self.run()

    @precondition(lambda self: self.allotted)
    @rule()
    def take_apart(self) -> None:
        worst = self.allotted.pop()
        self.out.append(Hold(self.budget, worst, worst))

    @precondition(lambda self: self.unwritten)
    @rule()
    def write_down(self) -> None:
        cost = self.unwritten.pop(0)
        self.journal += cost
        self.budget.journalled(cost)
        self.run()

    @precondition(lambda self: self.waiting)
    @rule(at=st.integers(0, 99))
    def give_up(self, at: int) -> None:
        task = self.waiting.pop(at % len(self.waiting))
        task.cancel()
        self.run()

    @rule()
    def slow_down(self) -> None:
        self.is_slow = True

    @rule()
    def write_pledges(self) -> None:
        self.is_slow = False
        for write in self.writes:
            write.set()
        self.run()

    def out_usd(self) -> Decimal:
        return sum((hold.worst_usd for hold in self.out), Decimal(0)) + sum(self.allotted)

    def drop_tasks(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(settle())
        self.waiting.clear()
        self.writes.clear()

    @rule(share=shares)
    def kill(self, share: Decimal) -> None:
        # What was in flight is billed, more or less of it, and nobody hears of it.
        self.billed += self.out_usd() * share
        on_disk = self.disk
        self.drop_tasks()
        self.disk = on_disk
        self.is_slow = False
        self.open()

    @rule()
    def end_cleanly(self) -> None:
        self.write_pledges()
        while self.out:
            self.out.pop().keep()
        while self.allotted:
            self.budget.give_back(self.allotted.pop(), 1)
        self.drop_tasks()
        self.run(self.budget.close())
        self.disk = self.budget.state
        self.open()

    @invariant()
    def the_wall_stands(self) -> None:
        assert self.billed + self.out_usd() <= CAP

    @invariant()
    def the_disk_knows_of_all_that_the_journal_does_not(self) -> None:
        kept = self.disk
        beside = kept.pledged_usd + kept.at_risk_usd + kept.lost_usd + kept.unfinished_usd
        assert self.billed + self.out_usd() <= self.journal + beside

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        assert self.out or self.allotted or self.writes or not self.waiting

    def teardown(self) -> None:
        self.drop_tasks()
        self.loop.close()


BudgetMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBudget = BudgetMachine.TestCase


@given(st.lists(st.tuples(amounts, shares), max_size=40))
def test_the_sums_are_exact(calls: list[tuple[Decimal, Decimal]]) -> None:
    """What was settled and journalled leaves nothing behind, to the last digit."""

    async def spend() -> None:
        budget = Budget(Decimal(1_000))
        costs = []
        for worst, share in calls:
            hold = await budget.reserve(worst)
            costs.append(worst * share)
            hold.settle(costs[-1])
        for cost in reversed(costs):
            budget.journalled(cost)
        assert Decimal(0) == budget.exposure_usd == budget.unfinished_usd
        assert sum(costs, Decimal(0)) == budget.spent_usd

    asyncio.run(spend())
