"""Requests and tokens per minute against servers that enforce them, in simulated time.

Three servers count in three ways: a sliding minute, a fixed minute, and a token bucket that starts full.
At most 1 % may be refused and, with rows waiting, at least 95 % of the allowance must be used.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from batcher.core.records import Usage
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.testing.clock import LoopClock, SimulatedLoop


class SlidingMinute:
    """Refuses what would bring the last 60 s above the allowance."""

    def __init__(self, allowance: float) -> None:
        self.allowance, self.sum, self.seen = allowance, 0, deque[tuple[float, int]]()

    def admit(self, amount: int, now: float) -> bool:
        while self.seen and self.seen[0][0] <= now - 60:
            self.sum -= self.seen.popleft()[1]
        if self.sum + amount > self.allowance:
            return False
        self.sum += amount
        self.seen.append((now, amount))
        return True


class FixedMinute:
    """Refuses what would bring this minute of the wall clock above the allowance."""

    def __init__(self, allowance: float) -> None:
        self.allowance, self.sum, self.minute = allowance, 0, -1

    def admit(self, amount: int, now: float) -> bool:
        if int(now // 60) != self.minute:
            self.minute, self.sum = int(now // 60), 0
        if self.sum + amount > self.allowance:
            return False
        self.sum += amount
        return True


class Bucket:
    """A bucket of a fifth of the minute (or the largest request), full at first."""

    def __init__(self, allowance: float, size: float) -> None:
        self.rate, self.size, self.level, self.last = allowance / 60, size, size, 0.0

    def admit(self, amount: int, now: float) -> bool:
        self.level = min(self.size, self.level + (now - self.last) * self.rate)
        self.last = now
        if amount > self.level:
            return False
        self.level -= amount
        return True


SERVERS: dict[str, Callable[[float], Any]] = {
    "sliding": SlidingMinute,
    "fixed": FixedMinute,
    "bucket": lambda allowance: Bucket(allowance, allowance / 5),
}


@dataclass
class Count:
    """What the server saw."""

    asked: int = 0
    refused: int = 0
    used: list[tuple[float, int]] = field(default_factory=list)

    def share_used(self, allowance: float, start_s: float, end_s: float) -> float:
        used = sum(amount for at, amount in self.used if start_s <= at < end_s)
        return used / (allowance * (end_s - start_s) / 60)


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(main)


def traffic(count: Count, workers: int, end_s: float, one: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def work() -> None:
        while LoopClock().monotonic() < end_s:
            await one()

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(work())

    run(main())
    assert count.refused <= 0.01 * count.asked, (count.refused, count.asked)


@pytest.mark.parametrize(
    ("per_minute", "end_s", "server_name"),
    [(60, 1_200, name) for name in SERVERS] + [(600, 300, name) for name in SERVERS] + [(60_000, 62, "sliding")],
)
def test_requests_per_minute_hold_at_every_server(per_minute: int, end_s: float, server_name: str) -> None:
    """Paced to 98 %, with a network whose delay wanders by 50 ms."""
    server, count, rate, chance = SERVERS[server_name](per_minute), Count(), RequestRate(per_minute), random.Random(1)

    async def one() -> None:
        await rate.acquire()
        await asyncio.sleep(chance.uniform(0.01, 0.06))
        now = LoopClock().monotonic()
        count.asked += 1
        if server.admit(1, now):
            count.used.append((now, 1))
        else:
            count.refused += 1

    traffic(count, 150 if per_minute > 1_000 else 20, end_s, one)
    assert count.share_used(per_minute, 5, end_s) >= 0.95


def tokens_traffic(
    per_minute: int,
    server: Any,
    *,
    end_s: float,
    body_bytes: tuple[int, int],
    output: tuple[int, int],
    output_max: int | None,
    tokens_per_byte: float,
    latency_s: tuple[float, float],
    workers: int = 100,
) -> Count:
    """Rows through estimate, reserve, call, settle, learn; the server counts what was really used."""
    count, chance, estimator, pause = Count(), random.Random(7), TokenEstimator(), Pause(random.Random(8))
    clock = LoopClock()
    buckets: list[TokenBucket] = []

    async def one() -> None:
        if not buckets:
            buckets.append(TokenBucket(per_minute, clock))
        size = chance.randint(*body_bytes)
        usage = Usage(int(size * tokens_per_byte), 0, chance.randint(*output), 0)
        while True:
            while (wait_s := pause.remaining_s(clock.monotonic())) > 0:
                await clock.sleep(wait_s)
            reservation = await buckets[0].reserve(estimator.estimate(size, output_max))
            if pause.remaining_s(clock.monotonic()) == 0:
                break
            reservation.cancel()
        started = clock.monotonic()
        count.asked += 1
        if not server.admit(usage.input + usage.output, started):
            count.refused += 1
            await clock.sleep(0.05)
            reservation.cancel()
            pause.refused(clock.monotonic(), started=started, retry_after_s=None)
            return
        count.used.append((started, usage.input + usage.output))
        await clock.sleep(chance.uniform(*latency_s))
        reservation.settle(usage.input + usage.output)
        pause.succeeded(started=started)
        estimator.learn(size, usage, output_max)

    traffic(count, workers, end_s, one)
    return count


def mix(
    body_bytes: tuple[int, int], output: tuple[int, int], output_max: int | None, tokens_per_byte: float
) -> dict[str, Any]:
    return {"body_bytes": body_bytes, "output": output, "output_max": output_max, "tokens_per_byte": tokens_per_byte}


@pytest.mark.parametrize("server_name", SERVERS)
@pytest.mark.parametrize(
    ("case", "share"),
    [
        pytest.param(mix((300, 500), (5, 15), 16, 0.25), 0.95, id="labels"),
        pytest.param(mix((200, 900), (1, 300), None, 0.8), 0.95, id="an old tokenizer for Thai"),
        pytest.param(mix((500, 700), (10, 90), 4_096, 0.25), 0.95, id="a cap far too high"),
        # The largest is 2.5 % of the minute and nobody knows which it is: room is left for it.
        pytest.param(mix((8, 400), (0, 1_500), None, 0.1), 0.93, id="answers of every length"),
    ],
)
def test_tokens_per_minute_hold_at_every_server(server_name: str, case: dict[str, Any], share: float) -> None:
    """600 requests of 100 tokens a minute and less kind mixes; estimates start wrong by up to 40 times."""
    count = tokens_traffic(60_000, SERVERS[server_name](60_000), end_s=420, latency_s=(0.3, 3.0), **case)
    assert count.share_used(60_000, 60, 420) >= share


@pytest.mark.parametrize("server_name", ["sliding", "fixed"])
def test_requests_that_are_a_large_part_of_the_minute_are_not_refused(server_name: str) -> None:
    """Eight requests of 7,000 tokens fit into a minute of 60,000; the bucket alone would let nine go."""
    count = tokens_traffic(
        60_000, SERVERS[server_name](60_000), end_s=1_800, body_bytes=(27_960, 27_960), output=(10, 10),
        output_max=10, tokens_per_byte=0.25, latency_s=(1, 2), workers=10,
    )  # fmt: skip
    assert 0 == count.refused
    # 56,000 of 60,000 is all that fits into a sliding minute.
    assert count.share_used(56_000, 60, 1_800) >= 0.95


def test_long_answers_of_every_length_cost_a_part_of_the_allowance_and_few_refusals() -> None:
    """Half a minute in flight, 50 to 950 tokens: what is not settled is uncertain by 3 % of a minute."""
    count = tokens_traffic(
        60_000, SlidingMinute(60_000), end_s=900, body_bytes=(300, 500), output=(50, 950),
        output_max=None, tokens_per_byte=0.25, latency_s=(20, 40), workers=400,
    )  # fmt: skip
    assert count.share_used(60_000, 120, 900) >= 0.90


def test_the_first_minute_is_neither_burst_nor_wasted() -> None:
    """With `max_tokens: 4096` and answers of 50 the estimate starts 20 times too high."""
    count = tokens_traffic(
        60_000, SlidingMinute(60_000), end_s=61, body_bytes=(500, 700), output=(10, 90),
        output_max=4_096, tokens_per_byte=0.25, latency_s=(0.3, 3),
    )  # fmt: skip
    assert count.share_used(60_000, 0, 60) >= 0.95
