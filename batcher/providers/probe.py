"""Probes a provider with each of its keys: a dozen cheap calls that show what it can do.

The model list and a short answer come first and tell whether the key, the model and the address work; where
they do not, that is all that is asked. Then each ability (`probe_ability`), two calls at once in all. What
is not known when the time is up stays unknown, and nothing is ever taken for granted: see the findings.
"""

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from batcher.clock import Clock
from batcher.core.contracts import CallError
from batcher.observe.text import clean
from batcher.providers.advice import Asked
from batcher.providers.classify import clean_words
from batcher.providers.network import DIRECT, Network
from batcher.providers.probe_ability import (
    LIMIT_TOKENS,
    LONG_QUESTION,
    judge_limit,
    judge_usage,
    probe_json_schema,
    probe_logprobs,
    probe_prompt_logprobs,
    probe_seed,
    question,
)
from batcher.providers.probe_address import diagnose_address, diagnose_model
from batcher.providers.probe_call import AT_ONCE, CALL_TIMEOUT_S, Heard, ProbeClient, Tally
from batcher.runs.findings import UNKNOWN, Finding, KeyFailure, KeyFindings, plain_address

PROBE_TIMEOUT_S = 50.0
"""For all keys of a provider together."""

RATE_HEADERS_MAX = 20
_HEADER_CHARS_MAX = 100
_GIVES_UP = frozenset({"auth", "quota", "rate_limited", "server", "connection", "timeout"})

_PAGE = "an HTML page"

Abilities = dict[str, Finding]


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed: an address, a model, and the job's own parameters, which one call carries as they are."""

    base_url: str
    model: str
    params: Mapping[str, Any]
    timeout_s: float = CALL_TIMEOUT_S
    network: Network = DIRECT


@dataclass(frozen=True, slots=True)
class Probed:
    """One entry for each key, in their order, and what finding out took."""

    entries: tuple[KeyFindings, ...]
    tally: Tally


async def probe_provider(
    target: Target,
    keys: Sequence[str | None],
    *,
    digest: Callable[[str | None], str],
    clock: Clock,
    mask: Callable[[str], str],
    patience_s: float = PROBE_TIMEOUT_S,
) -> Probed:
    """Probe a provider with each of its keys.

    Args:
        target: What is probed.
        keys: The keys; (None,) where the provider wants none.
        digest: How the findings name a key.
        clock: Tells the time.
        mask: Removes secrets from the provider's words.
        patience_s: How long all of it may take; what is open then stays unknown.
    """
    tally, room = Tally(), asyncio.Semaphore(AT_ONCE)
    timeout_s = min(target.timeout_s, CALL_TIMEOUT_S)
    clients = [
        ProbeClient(
            target.base_url,
            key,
            room=room,
            tally=tally,
            timeout_s=timeout_s,
            clock=clock,
            mask=mask,
            asked=Asked(target.model, tuple(target.params)),
            network=target.network,
        )
        for key in keys
    ]
    probes = [_KeyProbe(client, target, mask) for client in clients]
    try:
        async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
            for probe in probes:
                group.create_task(probe.run())
    except TimeoutError:
        # Each probe keeps what it knows by now.
        pass
    finally:
        for client in clients:
            await client.close()
    now = datetime.fromtimestamp(round(clock.now(), 3), UTC)
    entries = [probe.entry(digest(key), now, patience_s) for probe, key in zip(probes, keys, strict=True)]
    return Probed(tuple(entries), tally)


@dataclass(slots=True)
class _KeyProbe:
    """The probing of one key: what is known so far."""

    client: ProbeClient
    target: Target
    mask: Callable[[str], str]
    heard: list[Heard] = field(default_factory=list)
    known: Abilities = field(default_factory=dict)
    models: tuple[str, ...] | None = None
    owner: str | None = None
    first: Heard | None = None
    failure: KeyFailure | None = None

    async def run(self) -> None:
        """Find out everything; the state is true between any two awaits."""
        listed = await self._list_models()
        if listed.failure is not None and not listed.failure.reached:
            await self._fail(listed)
            return
        limit = await self._first_answer()
        if self.failure is not None or self.first is None:
            return
        base = {"model": self.target.model, **({} if limit is None else {limit: LIMIT_TOKENS})}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._probe_params())
            for name, probing in {
                "json_schema": probe_json_schema(self.client, base, limit),
                "logprobs": probe_logprobs(self.client, base),
                "seed": probe_seed(self.client, base),
                "prompt_logprobs": probe_prompt_logprobs(self.client, base, self.target.model),
            }.items():
                group.create_task(self._learn(name, probing))

    async def _learn(self, name: str, probing: Any) -> None:
        self.known[name] = await probing

    async def _list_models(self) -> Heard:
        heard = await self.client.ask("/models")
        self.heard.append(heard)
        if heard.failure is not None or heard.body is None:
            self.known["listed"] = Finding("unknown", heard.words)
            return heard
        listed = heard.body.get("data") or heard.body.get("models")
        rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
        self.models = tuple(str(row.get("id") or row.get("name") or row.get("model")) for row in rows)
        mine = [row for row, name in zip(rows, self.models, strict=True) if name == self.target.model]
        owners = [row.get("owned_by") for row in mine or rows[:1]]
        self.owner = next((owner for owner in owners if isinstance(owner, str)), None)
        self.known["listed"] = Finding("yes" if mine else "missing" if rows else "unknown")
        return heard

    async def _first_answer(self) -> str | None:
        """Which parameter limits the tokens; None where neither does. Sets `first`, or `failure`."""
        findings = {}
        for name in ("max_completion_tokens", "max_tokens"):
            heard = await self._ask({**question(LONG_QUESTION), name: LIMIT_TOKENS})
            if judge_limit(heard).state == "accepted":  # too short to tell; a small model is not so short each time
                heard = await self._ask({**question(LONG_QUESTION), name: LIMIT_TOKENS})
            findings[name] = self.known[name] = judge_limit(heard)
            if self.first is None and _is_the_end(heard):
                await self._fail(heard)
                return None
        if self.first is None:
            heard = await self._ask(question("Say OK."))
            if self.first is None:
                await self._fail(heard)
                return None
        # One that seems to be ignored is sent all the same: it may hold now and then, and nothing else is there.
        ranked = [
            name for state in ("yes", "accepted", "ignored") for name, known in findings.items() if known.state == state
        ]
        return ranked[0] if ranked else None

    async def _ask(self, body: Mapping[str, Any]) -> Heard:
        heard = await self.client.chat({"model": self.target.model, **body})
        self.heard.append(heard)
        if self.first is None and heard.is_answer:
            self.first = heard
        return heard

    async def _fail(self, heard: Heard) -> None:
        """Say why nothing works, with the fix where it can be found out."""
        failure = heard.failure or CallError("the response has no choices", kind="bad_response", status=200)
        hint = failure.hint
        if heard.redirects_to is not None:
            hint = f"the address redirects to {heard.redirects_to}; write the final address in base_url (the key is not sent along)"  # noqa: E501
        elif _speaks_of_model(heard):
            hint = diagnose_model(self.target.model, self.models) or hint
        elif failure.kind in ("bad_request", "bad_response"):
            hint = await diagnose_address(self.client, self.target) or hint
        elif not failure.reached:
            hint = "check base_url, and that this machine reaches it (network, DNS, proxy, TLS)"
        # A web page is no illness that passes: the address is wrong.
        kind = "bad_request" if _PAGE in failure.message else failure.kind
        self.failure = KeyFailure(kind, failure.message, None if hint is None else clean_words(hint, self.mask))

    async def _probe_params(self) -> None:
        """One call with the job's own parameters, exactly as a run sends them."""
        if not self.target.params:
            return
        heard = await self._ask({**question("Say OK."), **self.target.params})
        if heard.failure is None:
            self.known["params"] = Finding("yes")
        else:
            hint = "" if heard.failure.hint is None else f"; {heard.failure.hint}"
            self.known["params"] = Finding("refused" if heard.is_refusal else "unknown", f"{heard.words}{hint}")

    def entry(self, digest: str, now: datetime, patience_s: float) -> KeyFindings:
        """What is known, as it is remembered."""
        failure, first = self.failure, self.first
        if failure is None and first is None:
            failure = KeyFailure("timeout", f"no answer within {patience_s:g} s", "try again, or look at the provider")
        entry = KeyFindings(
            base_url=plain_address(self.target.base_url),
            model=self.target.model,
            key=digest,
            probed_at=now,
            failure=failure,
            models_count=None if self.models is None else len(self.models),
            rate_headers=self._rate_headers(),
            server=self._server(),
        )
        skew = _skew(self.heard)
        if skew is not None:
            entry = msgspec.structs.replace(entry, clock_skew_s=skew[0], clock_error_s=skew[1])
        if first is None:
            return msgspec.structs.replace(entry, listed=self.known.get("listed", UNKNOWN))
        said = {"served_model": first.completion.model, "system_fingerprint": first.completion.system_fingerprint}
        safe = {name: None if words is None else clean_words(words, self.mask) for name, words in said.items()}
        took_ms = [heard.took_s * 1000.0 for heard in self.heard if heard.is_answer]
        known = {name: self.known.get(name, UNKNOWN) for name in _ABILITIES}
        return msgspec.structs.replace(
            entry, **known, **safe, usage=judge_usage(first), latency_ms=round(statistics.median(took_ms), 1)
        )

    def _rate_headers(self) -> dict[str, str]:
        """The headers that tell limits, of the last answer that had any."""
        for heard in reversed(self.heard):
            found = {
                clean(name, _HEADER_CHARS_MAX): clean(self.mask(value), _HEADER_CHARS_MAX)
                for name, value in heard.headers.items()
                if "ratelimit" in name.lower().replace("-", "")
            }
            if found:
                return dict(sorted(found.items())[:RATE_HEADERS_MAX])
        return {}

    def _server(self) -> str | None:
        named = next((heard.headers["server"] for heard in self.heard if heard.headers.get("server")), None)
        parts = [named, None if self.owner is None else f"model owned by {self.owner}"]
        return clean_words(", ".join(part for part in parts if part), self.mask) or None


_ABILITIES = (
    "listed", "max_tokens", "max_completion_tokens", "json_schema", "logprobs", "prompt_logprobs", "seed", "params",
)  # fmt: skip


def _is_the_end(heard: Heard) -> bool:
    """Whether no other parameter would make a difference."""
    return heard.failure is not None and (heard.failure.kind in _GIVES_UP or _speaks_of_model(heard))


def _speaks_of_model(heard: Heard) -> bool:
    """Whether a refusal is for the model, and not for the address or a field."""
    failure = heard.failure
    if failure is None or failure.status not in (400, 404, 422):
        return False
    said = failure.message.lower()
    names_it = "model" in said and any(
        words in said for words in ("not exist", "not found", "unknown", "invalid model", "no such", "not available")
    )
    return names_it and "max_" not in said


def _skew(heard: Sequence[Heard]) -> "tuple[float, float] | None":
    """How far the provider's clock is ahead, in seconds, and how exactly that is known; of the quickest call.

    `Date` is cut to the second, so half a second is added; it was written somewhere within the round trip.
    """
    for one in sorted(heard, key=lambda one: one.took_s):
        try:
            date_s = parsedate_to_datetime(one.headers["date"]).replace(tzinfo=UTC).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError, IndexError):
            continue
        return round(date_s + 0.5 - (one.sent_at_s + one.took_s / 2.0), 1), round(0.5 + one.took_s / 2.0, 1)
    return None
