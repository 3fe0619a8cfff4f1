"""The caller stack of a job: `retrying(pool(gated(http)))`, one gate a key."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from batcher.clock import Clock
from batcher.config.model import Job, Limits, Provider
from batcher.core.contracts import Caller
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Usage
from batcher.errors import JobError
from batcher.ledger.budget import Budget
from batcher.ledger.price_list import find_price
from batcher.ledger.prices import FREE, AnyPrice, cost_usd, price_from_job
from batcher.ledger.worst_case import WorstCase
from batcher.limits.adaptive import LIMIT_MAX, AdaptiveConcurrency
from batcher.limits.breaker import Breaker
from batcher.limits.concurrency import Permits, Places
from batcher.limits.estimate import TokenEstimator
from batcher.limits.pause import Pause
from batcher.limits.rate import RequestRate
from batcher.limits.tokens import TokenBucket
from batcher.providers.contact import Contact
from batcher.providers.exchange import Exchange, make_exchange
from batcher.providers.gated import GatedCaller
from batcher.providers.hedged import Hedge
from batcher.providers.http import HttpCaller
from batcher.providers.lessons import KeyLessons
from batcher.providers.network import DIRECT, Network
from batcher.providers.pool import Pool
from batcher.providers.retrying import RetryingCaller, RetryPolicy
from batcher.providers.room import LimitSet, Room
from batcher.providers.structured import StructuredSupport
from batcher.providers.turnstile import Turnstile
from batcher.providers.wall import Wall
from batcher.providers.wire import ChatWire
from batcher.storage.descriptors import connections_max, open_files_max

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
    network: Network = DIRECT


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
    places: Permits | Places | None = None

    @property
    def workers(self) -> int:
        """How many rows are in hand at most."""
        low, high = SPARE_WORKERS
        return self.concurrency + min(high, max(low, self.concurrency // 2))

    async def close(self) -> None:
        """Close every connection."""
        for exchange in self.exchanges:
            await exchange.close()


def endpoint_of(provider: Provider, job: Job, network: Network = DIRECT) -> Endpoint:
    """Where a provider that the job names by its address is, and the way there."""
    keys: tuple[str | None, ...] = tuple(key.get_secret_value() for key in provider.api_key) or (None,)
    return Endpoint(base_url=provider.base_url or "", model=job.effective_model, keys=keys, network=network)


def price_of(provider: Provider, endpoint: Endpoint, *, at: datetime) -> AnyPrice | None:
    """What the provider's tokens cost: the job's own price, nothing for a local model, or the price list's."""
    if provider.price is not None:
        return price_from_job(provider.price.model_dump(exclude_none=True))
    if provider.local is not None:
        return FREE
    return find_price(endpoint.model, base_url=endpoint.base_url, at=at)


def concurrency_of(job: Job, endpoint: Endpoint) -> int:
    """The most calls that may ever be in flight, over all keys."""
    per_key = _fixed_concurrency(job)
    if per_key is None:
        return _auto_max(endpoint)
    in_all = job.limits.concurrency
    return min(in_all if isinstance(in_all, int) else per_key * len(endpoint.keys), per_key * len(endpoint.keys))


def refuse_too_many_connections(job: Job) -> None:
    """Refuse a concurrency that has more connections than this machine lets the process open.

    Raises:
        JobError: Says how many it lets it open.
    """
    most, files = connections_max(), open_files_max()
    keys = tuple(None for _ in job.sole_provider.api_key) or (None,)
    wanted = concurrency_of(job, Endpoint("", "", keys))
    if most is not None and files is not None and wanted > most:
        raise JobError(
            f"{wanted:,} calls in flight need as many connections, and this machine lets a process open {files:,} "
            f"files: enough for {most:,}; lower limits.concurrency to {most} or less, or raise the limit "
            "(`ulimit -n`, and its hard limit `ulimit -Hn`)"
        )


def build_stack(
    job: Job,
    endpoint: Endpoint,
    tools: Tools,
    *,
    response_format: Mapping[str, Any] | None,
    price: AnyPrice | None,
    budget: Budget | None,
    is_first: bool,
    seed: int,
) -> Stack:
    """Connect a job to its provider.

    Args:
        job: Limits, patience and parameters.
        endpoint: Where the provider is.
        tools: Shared by the run.
        response_format: What to send while the provider takes it.
        price: None where it is unknown.
        budget: What the run may still spend, or None for no limit.
        is_first: Whether no row of the run was answered before.
        seed: For jitter.
    """
    chance = random.Random(seed)
    wire = ChatWire(endpoint.model, job.params, response_format)
    common = _Common(
        wire=wire,
        structured=StructuredSupport(has_format=wire.has_format),
        contact=Contact(endpoint.base_url, is_first=is_first),
        turnstile=_turnstile(job, tools),
        limits=LimitSet(_shared_permits(job, endpoint), *_rates(job.limits, tools)),
        estimator=TokenEstimator(),
        wall=_wall(job, endpoint, wire, price, budget),
        hedge=_hedge(job, price),
        cost_usd=partial(cost_usd, price=price),
        chance=chance,
        mask=endpoint.network.masked(tools.mask),
    )
    exchanges, members, permits = [], [], []
    for number, key in enumerate(endpoint.keys, start=1):
        exchange = make_exchange(
            job.client, base_url=endpoint.base_url, api_key=key, timeout_s=job.timeout_s, network=endpoint.network
        )
        exchanges.append(exchange)
        name = _key_name(job.sole_provider.name, number, len(endpoint.keys))
        concurrency = _concurrency(job, endpoint)
        permits.append(Permits(concurrency if isinstance(concurrency, int) else concurrency.limit))
        members.append(
            _gate(
                job, tools, common, exchange=exchange, key=key, name=name, permits=permits[-1],
                concurrency=None if isinstance(concurrency, int) else concurrency,
            )
        )  # fmt: skip
    policy = RetryPolicy(tries_max=job.retry.attempts, wait_min_s=job.retry.min_wait_s, wait_max_s=job.retry.max_wait_s)
    caller = RetryingCaller(
        Pool(members, clock=tools.clock, progress=tools.progress, tell=tools.tell),
        policy,
        clock=tools.clock,
        chance=chance,
        progress=tools.progress,
    )
    places = permits[0] if len(permits) == 1 else Places(common.limits.permits, permits)
    return Stack(caller, tuple(exchanges), concurrency_of(job, endpoint), price, places)


@dataclass(frozen=True, slots=True)
class _Common:
    """What the keys of a provider share."""

    wire: ChatWire
    structured: StructuredSupport
    contact: Contact
    turnstile: Turnstile
    limits: LimitSet
    estimator: TokenEstimator
    wall: Wall | None
    hedge: Hedge | None
    cost_usd: Callable[[Usage | None], Decimal | None]
    chance: random.Random
    mask: Callable[[str], str]


def _gate(
    job: Job,
    tools: Tools,
    common: _Common,
    *,
    exchange: Exchange,
    key: str | None,
    name: str,
    permits: Permits,
    concurrency: AdaptiveConcurrency | None,
) -> GatedCaller:
    """One key, behind its limits."""
    provider = job.sole_provider
    caps = [job.params[cap] for cap in _OUTPUT_CAPS if isinstance(job.params.get(cap), int)]
    room = Room(
        (common.limits, LimitSet(permits, *_rates(provider.limits, tools))),
        estimator=common.estimator,
        output_max=caps[0] if caps else None,
        wall=common.wall,
        clock=tools.clock,
        progress=tools.progress,
    )
    pause = Pause(common.chance)
    named = (job.limits, provider.limits)
    lessons = KeyLessons(
        room,
        pause,
        concurrency=concurrency,
        permits=permits,
        learns_requests=all(limits.requests_per_minute is None for limits in named),
        learns_tokens=all(limits.tokens_per_minute is None for limits in named),
        clock=tools.clock,
    )
    inner = HttpCaller(
        exchange,
        common.wire,
        common.structured,
        cost_usd=common.cost_usd,
        provider=provider.name,
        clock=tools.clock,
        mask=common.mask,
        secrets=[key] if key is not None and len(key) >= SECRET_LENGTH_MIN else (),
        contact=common.contact,
        on_response=lessons.heard,
    )
    return GatedCaller(
        inner,
        name=name,
        room=room,
        pause=pause,
        turnstile=common.turnstile,
        clock=tools.clock,
        progress=tools.progress,
        flight=tools.flight,
        lessons=lessons,
        hedge=common.hedge,
        tell=tools.tell,
    )


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


def _hedge(job: Job, price: AnyPrice | None) -> Hedge | None:
    rule = job.retry.hedge
    if rule is None:
        return None
    return Hedge(after=int(rule.after[1:]) / 100.0, max_extra=float(rule.max_extra), is_free=price is FREE)


def _wall(job: Job, endpoint: Endpoint, wire: ChatWire, price: AnyPrice | None, budget: Budget | None) -> Wall | None:
    if budget is None or price is None:
        return None
    worst_case = WorstCase.of_job(
        price,
        model=endpoint.model,
        params=job.params,
        overhead_bytes=len(wire.body(b"", with_format=True)),
        # A template makes text, whatever stands in a row.
        may_have_parts=job.prompt.messages is not None,
    )
    return Wall(budget, worst_case)


def _fixed_concurrency(job: Job) -> int | None:
    """Calls in flight for each key: what its provider says, and no more than the job has in all; None is `auto`."""
    said = (job.sole_provider.limits.concurrency, job.limits.concurrency)
    return min((one for one in said if isinstance(one, int)), default=None)


def _shared_permits(job: Job, endpoint: Endpoint) -> Permits | None:
    """For the calls of all keys together; one key alone has permits enough of its own."""
    in_all = job.limits.concurrency
    return Permits(in_all) if isinstance(in_all, int) and len(endpoint.keys) > 1 else None


def _concurrency(job: Job, endpoint: Endpoint) -> int | AdaptiveConcurrency:
    """Of one key: the job's number, or what finds it."""
    fixed = _fixed_concurrency(job)
    return AdaptiveConcurrency(limit_max=_auto_max(endpoint)) if fixed is None else fixed


def _auto_max(endpoint: Endpoint) -> int:
    """How far `auto` may go for a key: as far as the machine has connections for."""
    most = connections_max()
    room = LIMIT_MAX if most is None else max(1, most // len(endpoint.keys))
    return min(endpoint.concurrency or LIMIT_MAX, LIMIT_MAX, room)


def _rates(limits: Limits, tools: Tools) -> tuple[RequestRate | None, TokenBucket | None]:
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return (
        None if requests is None else RequestRate(requests),
        None if tokens is None else TokenBucket(tokens, tools.clock),
    )


def _key_name(provider: str, number: int, count: int) -> str:
    return f"provider {provider}" if count == 1 else f"provider {provider} (key {number} of {count})"
