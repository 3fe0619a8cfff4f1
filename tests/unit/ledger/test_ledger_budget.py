"""The wall: what is spent and what is reserved never pass the cap together."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest

from batcher.errors import BudgetError, JournalError, StorageError
from batcher.ledger.budget import Budget, Hold
from batcher.ledger.money_queue import OVERTAKEN_MAX
from batcher.ledger.pledged import BudgetState, dollars, loss_sentence, reopened
from batcher.testing.clock import settle


def usd(text: str) -> Decimal:
    return Decimal(text)


def begin(budget: Budget, worst: str) -> "asyncio.Task[Hold]":
    return asyncio.create_task(budget.reserve(usd(worst)))


def held(budget: Budget, worst: str) -> Hold:
    hold = budget.try_reserve(usd(worst))
    assert hold is not None
    return hold


class Disk:
    """Keeps pledges; a write ends when the test lets it."""

    def __init__(self, *, is_slow: bool = False, error: Exception | None = None) -> None:
        self.pledges: list[Decimal] = []
        self.error = error
        self.may_end = asyncio.Event()
        if not is_slow:
            self.may_end.set()

    async def pledge(self, amount_usd: Decimal) -> None:
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.pledges.append(amount_usd)


async def test_a_hold_that_would_pass_the_cap_is_not_given() -> None:
    """To the last digit: what fits exactly goes."""
    budget = Budget(usd("1"), usd("0.4"))
    held(budget, "0.6")
    assert budget.try_reserve(usd("0.000000000001")) is None


async def test_what_was_not_used_comes_back() -> None:
    """The worst case is reserved, the truth is booked."""
    budget = Budget(usd("1"))
    hold = held(budget, "1")
    waiting = begin(budget, "0.9")
    await settle()
    hold.settle(usd("0.1"))
    await settle()
    assert waiting.done()
    assert usd("0.1") == budget.spent_usd


async def test_settling_twice_books_once() -> None:
    """A gate that settles, and then cleans up, gives nothing back that it has not got."""
    budget = Budget(usd("1"))
    hold = held(budget, "1")
    hold.settle(usd("0.25"))
    hold.settle(usd("0.25"))
    hold.keep()
    hold.cancel()
    assert (usd("0.25"), usd("0"), usd("0.25")) == (budget.spent_usd, budget.held_usd, budget.exposure_usd)


async def test_a_call_that_was_not_sent_costs_nothing() -> None:
    """A refused connection bills nothing."""
    budget = Budget(usd("1"))
    held(budget, "1").cancel()
    assert held(budget, "1")


async def test_an_unknown_bill_stays_booked_at_its_worst() -> None:
    """A timeout may have been billed: what nobody knows is not spent a second time."""
    budget = Budget(usd("1"))
    held(budget, "0.6").keep()
    assert (usd("0"), usd("0.6")) == (budget.spent_usd, budget.held_usd)
    assert budget.try_reserve(usd("0.5")) is None


async def test_who_waits_goes_when_room_comes_back_and_the_smallest_first() -> None:
    """A call that does not fit holds up none that does."""
    budget = Budget(usd("1"))
    first, second = held(budget, "0.5"), held(budget, "0.5")
    large, small = begin(budget, "0.9"), begin(budget, "0.2")
    await settle()
    first.settle(usd("0.1"))
    await settle()
    assert (False, True) == (large.done(), small.done())
    second.cancel()
    small.result().cancel()
    await settle()
    assert large.done()


async def test_a_large_call_is_not_starved_for_ever() -> None:
    """Small calls that come without end overtake it so many times; then it is its turn."""
    budget = Budget(usd("1000"))
    holds = [held(budget, "10") for _ in range(100)]
    large = begin(budget, "500")
    await settle()
    overtaken = 0
    while not large.done():
        holds.pop(0).cancel()
        await settle()
        hold = budget.try_reserve(usd("10"))
        if hold is not None:
            overtaken += 1
            holds.append(hold)
        assert overtaken <= OVERTAKEN_MAX
    assert OVERTAKEN_MAX == overtaken


async def test_a_call_that_never_fits_does_not_hold_up_the_others() -> None:
    """Bookings only grow: what does not fit an empty house will not fit a full one, so nobody waits for it."""
    budget = Budget(usd("10"), usd("5"))
    hopeless = begin(budget, "6")
    hold = held(budget, "5")
    for _ in range(2 * OVERTAKEN_MAX):
        following = begin(budget, "5")
        await settle()
        hold.cancel()
        await settle()
        hold = following.result()
    assert not hopeless.done()
    hold.cancel()
    await settle()
    assert isinstance(hopeless.exception(), BudgetError)


async def test_when_nothing_is_out_and_nobody_fits_all_are_told() -> None:
    """Nothing could come back any more: the run ends, and says what is missing."""
    budget = Budget(usd("10"), usd("9.98"))
    hold = held(budget, "0.0113")
    waiting = [begin(budget, "0.0131"), begin(budget, "0.02")]
    await settle()
    assert not any(task.done() for task in waiting)
    hold.keep()
    await settle()
    errors = [task.exception() for task in waiting]
    assert all(isinstance(error, BudgetError) for error in errors)
    error = errors[0]
    assert isinstance(error, BudgetError)
    assert error.message == (
        "the budget of $10 is used up: $9.98 spent, $0.0113 held for calls whose bill is not known; "
        "the next call could cost up to $0.0131"
    )
    assert "raise budget.usd in the job, then `batcher run` goes on" == error.hint
    assert 5 == error.exit_code


async def test_without_unknown_bills_the_message_speaks_of_none() -> None:
    """The usual case stays short."""
    with pytest.raises(BudgetError, match=r"^the budget of \$0\.50 is used up: \$0\.499 spent; the next call"):
        await Budget(usd("0.5"), usd("0.499")).reserve(usd("0.002"))


async def test_a_budget_with_money_left_is_not_called_used_up() -> None:
    """One request larger than all that is left, among small ones: whoever reads "used up" looks for the wrong thing."""
    with pytest.raises(BudgetError) as raised:
        await Budget(usd("0.02"), usd("0.0002"), hint="raise it").reserve(usd("0.054"))
    assert raised.value.message == (
        "the budget of $0.02 cannot hold the next call: $0.0002 spent, $0.0198 left, "
        "and the call could cost up to $0.054"
    )
    assert "raise it; or leave so large a row out (input.where)" == raised.value.hint


async def test_a_used_up_budget_says_how_this_run_goes_on() -> None:
    """The command is known where the run was begun, and not here."""
    with pytest.raises(BudgetError) as raised:
        await Budget(usd("1"), usd("0.99"), hint="raise it, then `batcher run งาน.yaml` goes on").reserve(usd("0.02"))
    assert "raise it, then `batcher run งาน.yaml` goes on" == raised.value.hint


async def test_a_cap_that_holds_no_call_says_why() -> None:
    """A run that stops before its first call must not look as if it had spent its money."""
    budget = Budget(usd("0.01"), advice="an answer may have 32,768 tokens, as the job sets no params.max_tokens")
    with pytest.raises(BudgetError) as raised:
        await budget.reserve(usd("0.0131072"))
    assert raised.value.message == (
        "the budget of $0.01 cannot hold one call, which may cost up to $0.01311 "
        "(an answer may have 32,768 tokens, as the job sets no params.max_tokens)"
    )
    assert raised.value.hint is not None
    assert "params.max_tokens" in raised.value.hint


async def test_a_bill_above_the_worst_case_is_booked_and_remembered() -> None:
    """A provider that ignores max_tokens does it again: the next calls reserve as much more."""
    budget = Budget(usd("1"))
    held(budget, "0.01").settle(usd("0.03"))
    assert usd("0.03") == budget.spent_usd
    hold = held(budget, "0.02")
    assert usd("0.06") == hold.worst_usd
    hold.settle(usd("0.01"))
    assert usd("0.06") == held(budget, "0.02").worst_usd


async def test_what_is_free_always_goes() -> None:
    """A local model costs nothing, also after the money is spent."""
    budget = Budget(usd("1"), usd("2"))
    held(budget, "0").settle(usd("0"))
    assert await budget.reserve(usd("0"))


async def test_a_cancelled_waiter_takes_nothing_along() -> None:
    """Before, in and after the turn of the loop in which its hold comes."""
    budget = Budget(usd("1"))
    for turns in range(3):
        hold = held(budget, "1")
        waiting = begin(budget, "1")
        await settle()
        hold.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        if not waiting.done():
            waiting.cancel()
        await settle()
        if waiting.cancelled():
            held(budget, "1").cancel()
        else:
            waiting.result().cancel()
    assert usd("0") == budget.exposure_usd


async def test_one_that_waits_and_goes_away_makes_room_for_who_waits_behind_it() -> None:
    """A large one whose turn it is blocks the small ones only as long as it is there."""
    budget = Budget(usd("100"))
    holds = [held(budget, "1") for _ in range(100)]
    large = begin(budget, "90")
    await settle()
    for _ in range(OVERTAKEN_MAX):
        holds.pop(0).cancel()
        holds.append(held(budget, "1"))
    holds.pop().cancel()
    small = begin(budget, "1")
    await settle()
    assert not small.done()
    large.cancel()
    await settle()
    assert small.done()


# --- pledges -------------------------------------------------------------------------------------


async def test_nothing_is_out_before_its_pledge_is_on_disk() -> None:
    """A kill in between would forget a call that is billed."""
    disk = Disk(is_slow=True)
    budget = Budget(usd("100"), pledge=disk.pledge)
    assert budget.try_reserve(usd("0.1")) is None
    waiting = [begin(budget, "0.1") for _ in range(50)]
    await settle()
    assert not any(task.done() for task in waiting)
    # Whoever writes run.json meanwhile must not take the pledge back.
    assert budget.state.pledged_usd >= usd("0.1")
    disk.may_end.set()
    await settle()
    assert all(task.done() for task in waiting)
    assert disk.pledges[-1] >= budget.exposure_usd == usd("5")
    assert len(disk.pledges) <= 2


@pytest.mark.parametrize("unknown", [False, True])
async def test_pledges_are_few_and_tight(unknown: bool) -> None:
    """50 in flight, 20,000 rows: a kill costs under 2 % of the cap, and the disk is written a few times."""
    disk = Disk()
    budget = Budget(usd("0.25"), pledge=disk.pledge)
    worst, cost = usd("0.00006"), usd("0.00001")
    calls = 0
    holds: list[Hold] = []
    while calls < (20_000 if not unknown else 3_000):
        while len(holds) < 50:
            holds.append(await budget.reserve(worst))
        hold = holds.pop(0)
        calls += 1
        assert budget.exposure_usd <= disk.pledges[-1]
        if unknown:
            hold.keep()
        else:
            hold.settle(cost)
            budget.journalled(cost)
    if unknown:
        assert len(disk.pledges) < 40
    else:
        assert len(disk.pledges) <= 10
        assert disk.pledges[-1] < usd("0.25") * Decimal("0.02")


async def test_a_pledge_that_cannot_be_written_stops_the_run() -> None:
    """Without it the wall would not stand after a kill."""
    budget = Budget(usd("1"), pledge=Disk(error=StorageError("the disk is full")).pledge)
    tasks = [begin(budget, "0.1") for _ in range(3)]
    await settle()
    assert ["the disk is full"] * 3 == [str(task.exception()) for task in tasks]
    assert usd("0") == budget.exposure_usd


async def test_a_clean_end_keeps_what_is_known() -> None:
    """The pledge goes; unknown bills, and what rows without an outcome have cost, stay to the last digit."""
    budget = Budget(usd("1"), pledge=Disk().pledge)
    for cost in ("0.01", "0.02", "0.000000001"):
        hold = await budget.reserve(usd("0.1"))
        hold.settle(usd(cost))
    (await budget.reserve(usd("0.1"))).keep()
    budget.journalled(usd("0.01"))
    budget.journalled(None)
    await budget.close()
    assert budget.state == BudgetState(usd("1"), at_risk_usd=usd("0.1"), unfinished_usd=usd("0.020000001"))

    again = Budget(usd("1"), usd("0.01"), before=reopened(budget.state))
    assert (usd("0.030000001"), usd("0.1")) == (again.spent_usd, again.held_usd)
    await again.close()
    assert budget.state == again.state


async def test_closing_waits_for_the_pledge_that_is_being_written() -> None:
    """Else it would come after the last word."""
    disk = Disk(is_slow=True)
    budget = Budget(usd("1"), pledge=disk.pledge)
    waiting = begin(budget, "0.1")
    await settle()
    waiting.cancel()
    closing = asyncio.create_task(budget.close())
    await settle()
    assert not closing.done()
    disk.may_end.set()
    await settle()
    assert closing.done()
    assert usd("0") == budget.state.pledged_usd


async def test_a_kill_counts_its_pledge_as_spent_once() -> None:
    """However often the run is killed, and also where the next process dies before its first call."""
    disk = Disk()
    first = Budget(usd("10"), pledge=disk.pledge)
    for _ in range(4):
        await first.reserve(usd("1"))
    killed = first.state
    assert killed.pledged_usd >= 4

    kept = reopened(killed)
    assert (usd("0"), killed.pledged_usd) == (kept.pledged_usd, kept.lost_usd)
    second = Budget(usd("10"), before=kept, pledge=disk.pledge)
    assert killed.pledged_usd == second.held_usd
    assert kept == second.state == reopened(second.state)


def test_a_kill_is_told_and_a_clean_end_is_not() -> None:
    """People who paid for nothing are told how much at most."""
    killed = BudgetState(usd("10"), pledged_usd=usd("0.0021"))
    assert loss_sentence(killed) == (
        "the run was killed: calls that were in flight may have cost up to $0.0021, which counts as spent"
    )
    assert loss_sentence(reopened(killed)) is None


def test_a_state_survives_json() -> None:
    """Small money too, without an exponent."""
    state = BudgetState(usd("10"), usd("1E-9"), usd("0.5"), usd("0"), usd("123456789.000000000000000001"))
    assert "0.000000001" == state.to_json()["pledged_usd"]
    assert state == BudgetState.from_json(state.to_json())
    assert BudgetState() == BudgetState.from_json(None)


@pytest.mark.parametrize(
    "change",
    [{"lost_usd": "-1"}, {"lost_usd": "NaN"}, {"lost_usd": "x"}, {"lost_usd": 1}, {"more": "1"}, {"pledged_usd": None}],
)
def test_a_damaged_state_is_refused(change: dict[str, object]) -> None:
    """A run does not go on with a guess of what it has spent."""
    with pytest.raises(JournalError, match="its section budget is not what was written"):
        BudgetState.from_json(BudgetState(usd("1")).to_json() | change)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("10", "$10"), ("0", "$0"), ("0.5", "$0.50"), ("9.98712", "$9.9871"), ("0.0131", "$0.0131"),
     ("0.0000123456", "$0.00001235"), ("1000000000.0", "$1000000000"), ("1E-7", "$0.0000001"), ("1.5", "$1.50")],
)  # fmt: skip
def test_dollars_are_written_for_people(amount: str, shown: str) -> None:
    """No exponent, no binary neighbour, no $0.00 for what is not nothing."""
    assert shown == dollars(usd(amount))


# --- a crowd -------------------------------------------------------------------------------------


class Server:
    """Bills what it serves, and knows the cap only to tell when it was passed."""

    def __init__(self, cap_usd: Decimal) -> None:
        self.cap_usd = cap_usd
        self.billed_usd = Decimal(0)
        self.calls = 0

    async def serve(self, cost_usd: Decimal, turns: int) -> Decimal:
        self.calls += 1
        self.billed_usd += cost_usd
        assert self.billed_usd <= self.cap_usd, "the wall did not hold"
        for _ in range(turns):
            await asyncio.sleep(0)
        return cost_usd


async def work(count: int, one: Callable[[int], Awaitable[None]], rows: int) -> list[BaseException]:
    """`count` workers take rows in order until one is refused."""
    numbers = iter(range(rows))

    async def worker() -> None:
        for number in numbers:
            await one(number)

    done = await asyncio.gather(*(worker() for _ in range(count)), return_exceptions=True)
    return [error for error in done if error is not None]


async def test_1000_in_flight_never_pass_the_cap_and_use_95_percent_of_it() -> None:
    """The issue's own figure, with worst cases six times the truth."""
    cap = usd("0.012")
    disk, server = Disk(), Server(cap)
    budget = Budget(cap, pledge=disk.pledge)

    async def one(number: int) -> None:
        hold = await budget.reserve(usd("0.00006") + Decimal(number % 7) / 10**6)
        hold.settle(cost := await server.serve(usd("0.00001") + Decimal(number % 5) / 10**7, number % 13))
        budget.journalled(cost)

    errors = await work(1_000, one, 100_000)
    assert 1_000 == len(errors)
    assert all(isinstance(error, BudgetError) for error in errors)
    assert server.billed_usd == budget.spent_usd
    assert server.billed_usd >= cap * Decimal("0.95")
    assert usd("0") == budget.unfinished_usd
