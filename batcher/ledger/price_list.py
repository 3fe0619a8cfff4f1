"""Which price a model has at an endpoint: the job's, our own dated table, or genai-prices.

Looked up once a job, at the job's start, so that a resumed run prices its rows like the first. In order:

1. the job's own `price`;
2. what is pinned here, for the maker's own endpoint and for endpoints nobody knows (a gateway, this
   machine): those are booked at the maker's list price, and the source says so;
3. genai-prices (offline), for the endpoint if it knows that, else for a model of exactly that name.

An endpoint that genai-prices knows and a model it does not is unknown: a guess from another house would
look like a price. genai-prices matches names loosely (`deepseek-r1-distill-qwen-7b` as the R1 of 671 B),
so without a known endpoint only exact names count.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batcher.ledger.prices import AnyPrice, Price, Tier, TieredPrice, price_from_job

if TYPE_CHECKING:
    from genai_prices import types as genai
    from genai_prices.data_snapshot import DataSnapshot

LIST_PRICE = "list price of the maker"


@dataclass(frozen=True, slots=True)
class Pinned:
    """One dated entry of our own table. A new price is a new entry with a later date, never an edit."""

    names: frozenset[str]
    hosts: frozenset[str]
    price: AnyPrice


def _pin(names: str, hosts: str, price: AnyPrice) -> Pinned:
    return Pinned(frozenset(names.split()), frozenset(hosts.split()), price)


def _price(input_usd: str, cached_usd: str, output_usd: str, source: str) -> Price:
    return Price(Decimal(input_usd), Decimal(cached_usd), Decimal(output_usd), source, _READ)


_READ = date(2026, 11, 21)
_AGREED = "genai-prices 0.2.3 and litellm 1.106.2, which agree"
_CLAUDE = "genai-prices 0.2.3; litellm 1.106.2 agrees on the base"

# For DeepSeek they differ: genai-prices still has the night tariff of early 2025 for `deepseek-chat`, which
# makes a price depend on the hour, and another one for V3.2.
_DEEPSEEK = "litellm 1.106.2, deepseek-chat; other data sets differ"

_GATEWAY = "gateway price list, one price for input and output"

PINNED: tuple[Pinned, ...] = (
    _pin("gpt-4.1-nano", "api.openai.com", _price("0.10", "0.025", "0.40", _AGREED)),
    _pin("gpt-4.1", "api.openai.com", _price("2.00", "0.50", "8.00", _AGREED)),
    _pin(
        "claude-sonnet-4-5 claude-sonnet-4.5",
        "api.anthropic.com",
        TieredPrice(
            _price("3.00", "0.30", "15.00", _CLAUDE),
            (Tier(200_000, _price("6.00", "0.60", "22.50", _CLAUDE)),),
        ),
    ),
    _pin(
        "gemini-2.5-flash",
        "generativelanguage.googleapis.com",
        _price("0.30", "0.03", "2.50", _AGREED),
    ),
    _pin(
        "deepseek-v3.2 deepseek-v3.2-exp deepseek-chat deepseek-reasoner",
        "api.deepseek.com",
        _price("0.28", "0.028", "0.42", _DEEPSEEK),
    ),
    _pin(
        "r1-distill-7b deepseek-r1-distill-7b deepseek-r1-distill-qwen-7b",
        "",
        _price("0.15", "0.15", "0.15", _GATEWAY),
    ),
    _pin(
        "r1-distill-1.5b deepseek-r1-distill-1.5b deepseek-r1-distill-qwen-1.5b",
        "",
        _price("0.08", "0.08", "0.08", _GATEWAY),
    ),
)

# What a chat completion may be charged for, and a token price does not show.
_UNSEEN_CHARGES = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok", "input_text_messages_kcount")

_DATE_SUFFIX = re.compile(r"(-latest|[-@]20\d\d-?(0[1-9]|1[0-2])-?([0-2]\d|3[01]))$")


def find_price(
    model: str, *, at: datetime, base_url: str | None = None, override: Mapping[str, Any] | None = None
) -> AnyPrice | None:
    """The price of a model, or None where nobody knows it.

    The first lookup of a model that is not pinned imports genai-prices, which takes 0.3 s: call it in a thread.

    Args:
        model: The name as the job has it.
        at: The job's start, also when it is resumed: some prices depend on the day and the hour.
        base_url: The endpoint.
        override: The provider's `price` in the job.

    Raises:
        JobError: The override is no price.
    """
    if override is not None:
        return price_from_job(override)
    at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    host = _host(base_url)
    name = _plain_name(model)
    pinned = _pinned(name, at)
    if pinned is not None and (host is None or host in pinned.hosts or _is_private(host)):
        return _as_listed(pinned, host)
    if base_url is not None and host is not None and not _is_private(host):
        snapshot = _snapshot()
        try:
            provider = snapshot.find_provider(None, None, base_url)
        except LookupError:
            pass
        else:
            found = provider.find_model(model, all_providers=snapshot.providers)
            return None if found is None else _converted(found, at, f"{provider.id}/{found.id}", "")
    if pinned is not None:
        return _as_listed(pinned, host)
    return _by_name(model, at)


def names_known() -> Iterator[str]:
    """Every model name with a price, without the vendor's prefix; names repeat."""
    for entry in PINNED:
        yield from sorted(entry.names)
    for provider in _snapshot().providers:
        for model in provider.models:
            yield model.id.rpartition("/")[2].lower()


def _pinned(name: str, at: datetime) -> Pinned | None:
    """The latest entry that was there `at` that time; before the first one, the first."""
    entries = [entry for entry in PINNED if name in entry.names]
    entries.sort(key=lambda entry: entry.price.date or date.min)
    past = [entry for entry in entries if (entry.price.date or date.min) <= at.date()]
    return past[-1] if past else next(iter(entries), None)


def _as_listed(entry: Pinned, host: str | None) -> AnyPrice:
    if not entry.hosts or host in entry.hosts:
        return entry.price
    return _with_source(entry.price, f"{entry.price.source}: {LIST_PRICE}")


def _with_source(price: AnyPrice, source: str) -> AnyPrice:
    if isinstance(price, Price):
        return Price(price.input, price.cached_input, price.output, source, price.date)
    tiers = tuple(
        Tier(
            tier.above_tokens,
            Price(tier.price.input, tier.price.cached_input, tier.price.output, source, tier.price.date),
        )
        for tier in price.tiers
    )
    base = Price(price.base.input, price.base.cached_input, price.base.output, source, price.base.date)
    return TieredPrice(base, tiers)


def _by_name(model: str, at: datetime) -> AnyPrice | None:
    for reference in dict.fromkeys((model, model.rpartition("/")[2])):
        try:
            provider, found = _snapshot().find_provider_model(reference, None, None, None)
        except LookupError:
            continue
        if _names_exactly(found, reference):
            return _converted(found, at, f"{provider.id}/{found.id}", f": {LIST_PRICE}")
    return None


def _names_exactly(model: "genai.ModelInfo", reference: str) -> bool:
    """Whether the reference is one of the model's names, or one with a date after it."""
    plain = _plain_name(reference)
    names = {_plain_name(name) for name in (model.id, *_clause_names(model.match))}
    return plain in names


def _clause_names(clause: Any) -> Iterator[str]:
    for part in getattr(clause, "or_", ()):
        yield from _clause_names(part)
    name = getattr(clause, "equals", None)
    if name is not None:
        yield name


def _converted(model: "genai.ModelInfo", at: datetime, path: str, note: str) -> AnyPrice | None:
    """genai-prices' record as ours; None if it charges for what token counts do not show."""
    from genai_prices import __version__, types  # noqa: PLC0415  # 0.3 s, and most jobs have a pinned price

    listed = model.get_prices(at)
    rates = {key: rate for key, rate in vars(listed).items() if rate is not None}
    if "input_mtok" not in rates or any(key in rates for key in _UNSEEN_CHARGES):
        return None
    source = f"genai-prices {__version__}, {path}{note}"
    since = _since(model, listed)

    def at_length(input_tokens: int) -> Price:
        def rate_of(key: str) -> Decimal | None:
            rate = rates.get(key)
            if not isinstance(rate, types.TieredPrices):
                return rate
            return next((tier.price for tier in reversed(rate.tiers) if input_tokens > tier.start), rate.base)

        input_usd = rate_of("input_mtok")
        assert input_usd is not None
        cached_usd = rate_of("cache_read_mtok")
        return Price(input_usd, input_usd if cached_usd is None else cached_usd, rate_of("output_mtok"), source, since)

    keys = ("input_mtok", "cache_read_mtok", "output_mtok")
    tiered = [rate for key in keys if isinstance(rate := rates.get(key), types.TieredPrices)]
    starts = sorted({tier.start for rate in tiered for tier in rate.tiers})
    if not starts:
        return at_length(0)
    return TieredPrice(at_length(0), tuple(Tier(start, at_length(start + 1)) for start in starts))


def _since(model: "genai.ModelInfo", listed: "genai.ModelPrice") -> date | None:
    if isinstance(model.prices, list):
        for conditional in model.prices:
            if conditional.prices is listed:
                return getattr(conditional.constraint, "start_date", None)
    return None


def _snapshot() -> "DataSnapshot":
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  # see `_converted`

    return get_snapshot()


def _plain_name(model: str) -> str:
    return _DATE_SUFFIX.sub("", model.strip().lower().rpartition("/")[2])


def _host(base_url: str | None) -> str | None:
    return urlsplit(base_url).hostname if base_url else None


def _is_private(host: str) -> bool:
    """Whether the host is this machine or its own network, which no price list knows."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
