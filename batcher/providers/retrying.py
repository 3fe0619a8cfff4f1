"""The only owner of retries.

On success this is one `await`. After a failure tenacity's stop and wait objects decide. Each try walks
the stack below again, so waiting holds no permit and a retry may land on another key. A rate limit
costs no try (the gate pauses the key), nor does what fails while the provider is down.
"""

import random
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from tenacity import RetryCallState, stop_after_attempt, wait_exponential

from batcher.clock import Clock
from batcher.core.contracts import Caller, CallError
from batcher.core.progress import Progress
from batcher.core.records import NOTHING_SPENT, Reply, Request, Spend
from batcher.errors import FailureKind

RETRYABLE: frozenset[FailureKind] = frozenset({"rate_limited", "server", "connection", "timeout", "bad_response"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently.

    `tries_max` counts the first try. The wait before try n + 1 is
    min(wait_max_s, wait_min_s * 2**(n - 1)) times a jitter in (0.5, 1], or longer where the provider asks
    for it, up to `wait_max_s`.
    """

    tries_max: int = 5
    wait_min_s: float = 1.0
    wait_max_s: float = 60.0


class RetryingCaller:
    """Tries again what may succeed, up to `tries_max` tries that cost one."""

    def __init__(
        self, inner: Caller, policy: RetryPolicy, *, clock: Clock, chance: random.Random, progress: Progress
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._chance = chance
        self._progress = progress
        self._stop = stop_after_attempt(policy.tries_max)
        self._wait_max_s = policy.wait_max_s
        self._wait = wait_exponential(multiplier=policy.wait_min_s, max=policy.wait_max_s)

    async def call(self, request: Request) -> Reply:
        """See `Caller`. The reply's spend, and an error's, holds every attempt made here."""
        spend = NOTHING_SPENT
        tries = 0
        while True:
            try:
                reply = await self._inner.call(request)
            except CallError as error:
                spend = spend + error.spend
                self._progress.attempt_failures[error.kind] += 1
                if error.is_reshaped:
                    continue
                tries += error.costs_try
                state = _state(max(1, tries))
                if error.kind not in RETRYABLE or (error.costs_try and self._stop(state)):
                    error.spend = spend
                    raise
                if error.kind != "rate_limited":
                    await self._back_off(self._wait(state), error)
                continue
            return reply if spend is NOTHING_SPENT else with_spend(reply, spend)

    async def _back_off(self, wait_s: float, error: CallError) -> None:
        jittered_s = wait_s * (1.0 - self._chance.random() / 2.0)
        self._progress.wait_begin("backoff", self._clock.monotonic())
        try:
            await self._clock.sleep(max(jittered_s, min(error.retry_after_s or 0.0, self._wait_max_s)))
        finally:
            self._progress.wait_end("backoff")


def with_spend(reply: Reply, earlier: Spend) -> Reply:
    """The reply with the spend of earlier attempts for it added."""
    return msgspec.structs.replace(reply, spend=earlier + reply.spend)


def _state(attempt_number: int) -> RetryCallState:
    # tenacity's objects read only the attempt's number; the rest belongs to its decorator.
    state = RetryCallState(cast(Any, None), None, (), {})
    state.attempt_number = attempt_number
    return state
