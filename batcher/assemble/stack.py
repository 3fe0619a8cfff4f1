"""The caller stack of a job: `retrying(pool(gated(http)))`, one gate a key."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from batcher.clock import Clock
from batcher.config.model import Job, Limits, Provider
from batcher.core.contracts import Caller
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.ledger.price_list import find_price
from batcher.ledger.prices import FREE, AnyPrice, cost_usd, price_from_job
from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.providers.exchange import Exchange, make_exchange
from batcher.providers.gated import GatedCaller, LimitSet
from batcher.providers.http import HttpCaller
from batcher.providers.pool import Pool
from batcher.providers.retrying import RetryingCaller, RetryPolicy
from batcher.providers.structured import StructuredSupport
from batcher.providers.turnstile import Turnstile
from batcher.providers.wire import ChatWire

CONCURRENCY_AUTO = 50
"""Calls in flight where the job leaves it open."""

SPARE_WORKERS = (16, 1024)
"""Rows in hand beyond the calls in flight: half as many, within these bounds. They wait out backoffs."""

SECRET_LENGTH_MIN = 8
"""A shorter key is a placeholder (`EMPTY`, `none`) and may be a word of an answer."""

_OUTPUT_CAPS = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a provider is: what the job says, or where its local model was started."""

    base_url: str
    model: str
    keys: tuple[str | None, ...]
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What every part of a run shares."""

    clock: Clock
    progress: Progress
    flight: Flight
    mask: Callable[[str], str]
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stack:
    """The callers of a run, and what has to be closed after them."""

    caller: Caller
    exchanges: tuple[Exchange, ...]
    concurrency: int
    price: AnyPrice | None

    @property
    def workers(self) -> int:
        """How many rows are in hand at once."""
        low, high = SPARE_WORKERS
        return self.concurrency + min(high, max(low, self.concurrency // 2))

    async def close(self) -> None:
        """Close every connection."""
        for exchange in self.exchanges:
            await exchange.close()


def endpoint_of(provider: Provider, job: Job) -> Endpoint:
    """Where a provider that the job names by its address is."""
    keys: tuple[str | None, ...] = tuple(key.get_secret_value() for key in provider.api_key) or (None,)
    return Endpoint(base_url=provider.base_url or "", model=job.effective_model, keys=keys)


def price_of(provider: Provider, endpoint: Endpoint, *, at: datetime) -> AnyPrice | None:
    """What the provider's tokens cost: the job's own price, nothing for a local model, or the price list's."""
    if provider.price is not None:
        return price_from_job(provider.price.model_dump(exclude_none=True))
    if provider.local is not None:
        return FREE
    return find_price(endpoint.model, base_url=endpoint.base_url, at=at)


def build_stack(
    job: Job,
    endpoint: Endpoint,
    tools: Tools,
    *,
    response_format: Mapping[str, Any] | None,
    price: AnyPrice | None,
    seed: int,
) -> Stack:
    """Connect a job to its provider.

    Args:
        job: Limits, patience and parameters.
        endpoint: Where the provider is.
        tools: Shared by the run.
        response_format: What to send while the provider takes it.
        price: None where it is unknown.
        seed: For jitter.
    """
    provider = job.sole_provider
    chance = random.Random(seed)
    per_key = _concurrency(job, endpoint)
    in_all = _permits_in_all(job, endpoint, per_key)
    turnstile = _turnstile(job, tools)
    wire = ChatWire(endpoint.model, job.params, response_format)
    structured = StructuredSupport(has_format=wire.has_format)
    shared = LimitSet(
        Permits(in_all) if len(endpoint.keys) > 1 or in_all != per_key else None, *_rates(job.limits, tools)
    )
    estimator = TokenEstimator()
    caps = [job.params[name] for name in _OUTPUT_CAPS if isinstance(job.params.get(name), int)]

    exchanges, members = [], []
    for number, key in enumerate(endpoint.keys, start=1):
        exchange = make_exchange(job.client, base_url=endpoint.base_url, api_key=key, timeout_s=job.timeout_s)
        exchanges.append(exchange)
        inner = HttpCaller(
            exchange,
            wire,
            structured,
            cost_usd=partial(cost_usd, price=price),
            provider=provider.name,
            clock=tools.clock,
            mask=tools.mask,
            secrets=[key] if key is not None and len(key) >= SECRET_LENGTH_MIN else (),
        )
        gate = GatedCaller(
            inner,
            name=_key_name(provider.name, number, len(endpoint.keys)),
            limits=(shared, LimitSet(Permits(per_key), *_rates(provider.limits, tools))),
            pause=Pause(chance),
            turnstile=turnstile,
            estimator=estimator,
            output_max=caps[0] if caps else None,
            clock=tools.clock,
            progress=tools.progress,
            flight=tools.flight,
        )
        members.append(gate)
    policy = RetryPolicy(tries_max=job.retry.attempts, wait_min_s=job.retry.min_wait_s, wait_max_s=job.retry.max_wait_s)
    caller = RetryingCaller(
        Pool(members, tell=tools.tell), policy, clock=tools.clock, chance=chance, progress=tools.progress
    )
    return Stack(caller, tuple(exchanges), min(in_all, per_key * len(endpoint.keys)), price)


def _turnstile(job: Job, tools: Tools) -> Turnstile:
    rule = job.circuit_breaker
    return Turnstile(
        Breaker(failure_threshold=rule.failure_threshold, recovery_s=rule.recovery_time_s),
        name=f"provider {job.sole_provider.name}",
        max_outage_s=rule.max_outage_s,
        clock=tools.clock,
        progress=tools.progress,
        tell=tools.tell,
    )


def _concurrency(job: Job, endpoint: Endpoint) -> int:
    """Calls in flight for each key: what its provider says, else what the job has in all, else the default."""
    for concurrency in (job.sole_provider.limits.concurrency, job.limits.concurrency):
        if isinstance(concurrency, int):
            return concurrency
    return endpoint.concurrency or CONCURRENCY_AUTO


def _permits_in_all(job: Job, endpoint: Endpoint, per_key: int) -> int:
    """The job's own concurrency; without one, as much as its keys have together."""
    if isinstance(job.limits.concurrency, int):
        return job.limits.concurrency
    return per_key * len(endpoint.keys)


def _rates(limits: Limits, tools: Tools) -> tuple[RequestRate | None, TokenBucket | None]:
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return (
        None if requests is None else RequestRate(requests),
        None if tokens is None else TokenBucket(tokens, tools.clock),
    )


def _key_name(provider: str, number: int, count: int) -> str:
    return f"provider {provider}" if count == 1 else f"provider {provider} (key {number} of {count})"
