"""What the engine makes of rows that are worked through to the end."""

import asyncio
import random
from decimal import Decimal

import pytest
from engine_bench import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.core.progress import Progress
from batcher.core.records import Spend, Usage
from batcher.errors import BatcherError, InputError, RefusedError, StorageError
from batcher.limits.concurrency import Permits, Places
from batcher.testing.clock import START_S
from batcher.testing.fakes import FakeCaller, FakeSource, MemorySink, failure, reply


async def test_each_row_is_put_exactly_once() -> None:
    bench = Bench(FakeSource(137, batch=10), workers=7)

    await bench.engine.run()

    assert list(range(137)) == sorted(bench.outcomes)
    assert (137, 137, True) == (bench.progress.ok, bench.progress.rows_total, bench.progress.rows_total_is_exact)
    assert 137 == len(bench.caller.requests)
    assert 7 == bench.caller.in_flight_max
    assert 0 == len(bench.flight)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 9), st.integers(1, 40), st.randoms(use_true_random=False))
def test_whatever_the_sizes_and_the_order_of_answers_each_wanted_row_has_one_outcome(
    rows: int, batch: int, workers: int, rows_low: int, chance: random.Random
) -> None:
    """P1 does not depend on who answers first, nor on how the input is cut."""
    wanted = {row for row in range(rows) if chance.random() < 0.7}

    class Shuffled(FakeCaller):
        async def call(self, request):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            return await super().call(request)

    bench = Bench(
        FakeSource(rows, batch=batch),
        Shuffled(rows={row: [failure("bad_request")] for row in wanted if row % 5 == 0 and row}),
        workers=workers, rows_low=rows_low, wanted=wanted.__contains__,
    )  # fmt: skip

    asyncio.run(bench.engine.run())

    assert wanted == set(bench.outcomes)
    assert rows == bench.engine.rows_total == bench.progress.rows_total
    assert {row for row in wanted if row % 5 or not row} == {
        row for row, one in bench.outcomes.items() if one.status == "ok"
    }


async def test_a_run_that_goes_on_starts_where_rows_are_missing() -> None:
    bench = Bench(FakeSource(30), start=20, wanted=lambda row: row != 25)

    await bench.engine.run()

    assert {20, 21, 22, 23, 24, 26, 27, 28, 29} == set(bench.outcomes)
    assert 30 == bench.engine.rows_total


async def test_an_input_without_rows_ends() -> None:
    bench = Bench(FakeSource(0))

    await bench.engine.run()

    assert 0 == bench.engine.rows_total
    assert not bench.outcomes


async def test_an_invalid_answer_is_asked_again_from_the_first_request() -> None:
    """Prompts do not grow: only the latest fault is explained."""
    bench = Bench(FakeSource(1), FakeCaller([reply("bad 1"), reply("bad 2"), reply("good")]))

    await bench.engine.run()

    assert ("ok", "good") == (bench.outcomes[0].status, bench.outcomes[0].answer)
    first = bench.caller.requests[0]
    assert [(first, "bad 1", "bad 1 is bad"), (first, "bad 2", "bad 2 is bad")] == bench.renderer.explained
    assert [b"[0]", b'[0,"bad 1","bad 1 is bad"]', b'[0,"bad 2","bad 2 is bad"]'] == [
        one.messages for one in bench.caller.requests
    ]


async def test_the_spend_of_every_ask_is_in_the_outcome() -> None:
    spends = [
        Spend(2, Usage(10, 4, 3, 1), Decimal("0.5")),
        Spend(1, None, Decimal(0)),
        Spend(1, Usage(20, 0, 5, 0), Decimal("0.25")),
    ]
    replies = [reply(text, spend=spend) for text, spend in zip(["bad", "bad", "a"], spends, strict=True)]
    bench = Bench(FakeSource(1), FakeCaller(replies))

    await bench.engine.run()

    one = bench.outcomes[0]
    assert (4, 30, 4, 8, 1) == (
        one.attempts, one.input_tokens, one.cached_tokens, one.output_tokens, one.reasoning_tokens,
    )  # fmt: skip
    assert Decimal("0.75") == one.cost_usd
    assert int(START_S * 1000) == one.finished_ms


async def test_one_unknown_cost_makes_the_rows_cost_unknown() -> None:
    bench = Bench(FakeSource(1), FakeCaller([reply("bad", spend=Spend(1, Usage(1, 0, 1), None)), reply("a")]))

    await bench.engine.run()

    assert bench.outcomes[0].cost_usd is None


@pytest.mark.parametrize("asks_max", [1, 2, 5])
async def test_it_asks_at_most_so_often_and_keeps_the_last_text(asks_max: int) -> None:
    bench = Bench(FakeSource(1), FakeCaller([reply("bad")]), asks_max=asks_max)

    await bench.engine.run()

    assert asks_max == len(bench.caller.requests)
    assert ("invalid", "bad", "invalid_answer") == (
        bench.outcomes[0].status, bench.outcomes[0].answer, bench.outcomes[0].error_kind,
    )  # fmt: skip


async def test_a_truncated_answer_is_not_asked_again_and_fails_with_its_text() -> None:
    bench = Bench(FakeSource(1), FakeCaller([reply("cut off")]))

    await bench.engine.run()

    assert 1 == len(bench.caller.requests)
    assert ("failed", "truncated", "cut off") == (
        bench.outcomes[0].status, bench.outcomes[0].error_kind, bench.outcomes[0].answer,
    )  # fmt: skip


async def test_a_call_that_failed_for_good_is_a_failed_row_and_the_run_goes_on() -> None:
    bench = Bench(FakeSource(3), FakeCaller(rows={1: [reply("bad"), failure("timeout")]}))

    await bench.engine.run()

    one = bench.outcomes[1]
    assert ("failed", "timeout", "made to fail: timeout") == (one.status, one.error_kind, one.error)
    assert (2, 10) == (one.attempts, one.input_tokens), "the invalid answer before it was paid too"
    assert "ok" == bench.outcomes[0].status == bench.outcomes[2].status


async def test_a_disk_that_refuses_stops_the_run_and_says_so() -> None:
    bench = Bench(FakeSource(500), sink=MemorySink(fail_at=6), grace_s=0.01)

    with pytest.raises(StorageError, match="disk is full"):
        await bench.engine.run()

    assert 5 == len(bench.outcomes) == bench.progress.done
    assert len(bench.caller.requests) < 30


async def test_rows_before_a_broken_record_are_finished_and_the_break_is_raised() -> None:
    bench = Bench(FakeSource(99, breaks_at=23))

    with pytest.raises(InputError, match=r"rows\.jsonl:23"):
        await bench.engine.run()

    assert list(range(23)) == sorted(bench.outcomes)
    assert bench.engine.rows_total is None, "a broken input's length is not known"


async def test_rows_held_back_as_refused_are_put_when_the_input_breaks() -> None:
    """They have their outcome; a mended input must not ask them again."""
    bench = Bench(FakeSource(99, breaks_at=7), FakeCaller([failure("bad_request")]))

    with pytest.raises(InputError):
        await bench.engine.run()

    assert list(range(7)) == sorted(bench.outcomes)


@pytest.mark.parametrize("where", ["caller", "source", "sink"])
async def test_a_bug_surfaces_as_itself_and_ends_the_run(where: str) -> None:
    """A fault of ours must never become a failed row, nor be waited out."""
    bug = ZeroDivisionError("a bug")
    never = asyncio.Event()

    def broken(outcome) -> None:
        raise bug

    bench = Bench(
        FakeSource(50, breaks_at=5 if where == "source" else None, error=bug),
        FakeCaller(rows={0: [never], 3: [bug] if where == "caller" else [reply()]}),
        MemorySink(seen=broken if where == "sink" else None),
    )

    with pytest.raises(ExceptionGroup) as caught:
        await bench.engine.run()

    assert caught.value.subgroup(ZeroDivisionError) is not None
    assert {bug} == set(caught.value.exceptions)


async def test_twenty_rows_refused_alike_stop_the_job_before_any_is_marked() -> None:
    bench = Bench(FakeSource(1000), FakeCaller([failure("bad_request")]), grace_s=0.01)

    with pytest.raises(RefusedError, match="first 20 rows: made to fail"):
        await bench.engine.run()

    assert not bench.outcomes
    assert len(bench.caller.requests) <= 20 + 4


@pytest.mark.parametrize("rows", [1, 19])
async def test_fewer_than_twenty_rows_refused_alike_have_their_outcomes(rows: int) -> None:
    bench = Bench(FakeSource(rows), FakeCaller([failure("bad_request")]))

    await bench.engine.run()

    assert rows == len(bench.outcomes) == bench.progress.failed


async def test_one_row_of_another_kind_lets_all_go() -> None:
    """Nineteen bad rows at the head of a good job are nineteen bad rows."""
    scripts = {row: [failure("bad_request")] for row in range(60) if row != 19}
    bench = Bench(FakeSource(60), FakeCaller(rows=scripts), workers=1)

    await bench.engine.run()

    assert list(range(60)) == sorted(bench.outcomes)


async def test_a_run_that_served_rows_before_is_not_doomed() -> None:
    bench = Bench(FakeSource(40), FakeCaller([failure("bad_request")]), progress=Progress(ok=1))

    await bench.engine.run()

    assert 40 == len(bench.outcomes)


async def test_a_refusal_after_a_paid_answer_is_no_sign_of_a_doomed_job() -> None:
    """Rows that were answered once and refused when asked again were paid: held back, they would be paid twice."""
    scripts = {row: [reply("bad"), failure("bad_request")] for row in range(30)}
    bench = Bench(FakeSource(30), FakeCaller(rows=scripts))

    await bench.engine.run()

    assert 30 == len(bench.outcomes)


async def test_the_source_is_not_read_far_ahead() -> None:
    """P6: what the workers do not take stays in the file."""
    busy = asyncio.Event()
    bench = Bench(FakeSource(10_000, batch=50), sink=MemorySink(slow=busy), workers=8, rows_low=64)
    running = asyncio.create_task(bench.engine.run())
    while len(bench.caller.requests) < 8:
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)

    assert bench.source.rows_read <= 8 + 64 + 50
    assert 8 == len(bench.caller.requests)

    busy.set()
    await running
    assert 10_000 == len(bench.outcomes)


async def test_an_error_of_the_last_word_ends_the_run_once() -> None:
    """Workers that are refused at the same time: the first error is the run's."""
    bench = Bench(FakeSource(50), FakeCaller([RefusedError("first"), RefusedError("second")]), grace_s=0.01)

    with pytest.raises(BatcherError, match="first"):
        await bench.engine.run()

    assert not bench.outcomes


class OnePlaceCaller:
    """One call at once; row 0 fails, and waits out a backoff without a place before it is asked again."""

    def __init__(self) -> None:
        self.permits, self.back = Permits(1), asyncio.Event()
        self.in_hand = self.in_hand_max = 0

    async def call(self, request):
        self.in_hand += 1
        self.in_hand_max = max(self.in_hand_max, self.in_hand)
        for number in range(2 if request.row == 0 else 1):
            if number == 1:
                await self.back.wait()
            await self.permits.acquire()
            await asyncio.sleep(0)
            self.permits.release()
        self.in_hand -= 1
        if request.row == 24:
            self.back.set()
        return reply("yes")


async def test_a_row_that_waits_out_a_backoff_leaves_its_place_to_another() -> None:
    """And no more rows are in hand than there are places and rows that wait."""
    caller = OnePlaceCaller()
    bench = Bench(caller=caller, workers=17, places=Places(None, [caller.permits]))

    await asyncio.wait_for(bench.engine.run(), 20)

    assert list(range(25)) == sorted(bench.outcomes)
    assert caller.in_hand_max <= 3
