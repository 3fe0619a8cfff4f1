"""What `batcher doctor` shows: for each key one line a finding, and what follows from it."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from batcher.errors import ExitCode
from batcher.ledger.prices import AnyPrice
from batcher.observe.human import counted, dollars, duration
from batcher.observe.text import clean
from batcher.providers.probe_call import Tally
from batcher.runs.findings import Finding, KeyFindings, State

_NAME_WIDTH = 19
_SKEW_TOLD_S = 2.0
_HEADERS_SHOWN = 6

_Meanings = Mapping[State, str]

_USAGE: _Meanings = {
    "yes": "returned - tokens and costs are counted",
    "missing": "not returned - costs are unknown, and a budget cannot be kept",
    "implausible": "returned, and cannot be right - costs are unknown, and a budget cannot be kept",
}
_SCHEMA: _Meanings = {
    "yes": "obeyed - answer.labels are sent as an enum",
    "ignored": "ignored - answer.labels are sent as an enum, which does not help",
    "refused": "refused - a run sends no response_format, the prompt alone asks for the labels",
}
_LOGPROBS: _Meanings = {
    "yes": "returned for generated tokens",
    "ignored": "not returned - params.logprobs would be in vain",
    "refused": "refused - leave params.logprobs out",
}
_PROMPT_LOGPROBS: _Meanings = {
    "yes": "returned",
    "untrustworthy": "returned, and wrong - not to be used",
    "unverified": "returned, unchecked",
    "ignored": "not returned",
    "refused": "none",
}
_SEED: _Meanings = {
    "yes": "repeatable: the same answer twice",
    "accepted": "accepted, not shown to be repeatable",
    "refused": "refused - leave params.seed out",
}
_PARAMS: _Meanings = {"yes": "taken", "refused": "refused - the job cannot run"}
_LIMIT: _Meanings = {
    "yes": "{} works",
    "accepted": "{} is taken",
    "ignored": "{} is ignored",
    "refused": "{} is refused",
    "unknown": "{} is unknown",
}


def key_lines(entry: KeyFindings, number: int, count: int) -> Iterator[str]:
    """The findings of one key."""
    name = "no key" if not entry.key else "key" if count == 1 else f"key {number} of {count}"
    failure = entry.failure
    if failure is not None:
        yield f"{name}: {_VERDICTS.get(failure.kind, 'does not work')}: {clean(failure.words)}"
        if failure.hint:
            yield _line("what to do", clean(failure.hint))
        if entry.listed.state == "missing":
            yield _line("model", _model(entry))
        yield from _clock(entry)
        return
    yield f"{name}: {'accepted' if entry.key else 'none needed'}"
    yield _line("model", _model(entry))
    yield _line("usage", _said(entry.usage, _USAGE))
    limits = [(limit, getattr(entry, limit)) for limit in ("max_completion_tokens", "max_tokens")]
    yield _line("token limit", "; ".join(_said(found, _LIMIT).format(limit) for limit, found in limits))
    yield _line("JSON schema", _said(entry.json_schema, _SCHEMA))
    yield _line("logprobs", _said(entry.logprobs, _LOGPROBS))
    yield _line("prompt logprobs", _said(entry.prompt_logprobs, _PROMPT_LOGPROBS))
    yield _line("seed", _said(entry.seed, _SEED))
    yield _line("system_fingerprint", clean(entry.system_fingerprint or "none"))
    yield _line("rate headers", _rates(entry.rate_headers))
    yield from _clock(entry)
    if entry.latency_ms is not None:
        yield _line("latency", f"{duration(entry.latency_ms / 1000) if entry.latency_ms >= 1000 else f'{entry.latency_ms:,.0f} ms'} for a short answer (median)")  # fmt: skip  # noqa: E501
    if entry.params.state != "unknown" or entry.params.words:
        yield _line("job's parameters", _said(entry.params, _PARAMS))


def cost_line(tally: Tally, cost_usd: Decimal | None, price: AnyPrice | None) -> str:
    """What the probing took: calls, tokens, dollars and where the price is from."""
    usage = tally.usage
    tokens = f"{counted(tally.calls, 'call')}, {usage.input:,} input and {usage.output:,} output tokens"
    if tally.unreported:
        tokens += f", {counted(tally.unreported, 'answer')} that did not say"
    if price is None:
        return f"{tokens}, cost unknown: no price for this model"
    if cost_usd is None:
        return f"{tokens}, cost unknown"
    at_least = "at least " if tally.unreported and cost_usd else ""
    return f"{tokens}, {at_least}{dollars(cost_usd)} ({price.source})"


def verdict_line(entries: Sequence[KeyFindings], code: ExitCode) -> str:
    """Whether the job can run, in one sentence."""
    working = sum(entry.is_working for entry in entries)
    if code == ExitCode.STOPPED:
        return "the provider cannot be asked now; a run would wait for it, and nothing was found out about the job"
    if code != ExitCode.OK:
        return "the job cannot run as it is"
    if working < len(entries):
        return f"the job can run, with {working} of its {len(entries)} keys"
    return "the job can run"


_VERDICTS = {
    "auth": "refused",
    "quota": "accepted, and its quota is used up",
    "rate_limited": "accepted, and at its rate limit",
    "connection": "cannot be reached",
    "timeout": "no answer",
    "server": "the provider is ill",
}


def _line(name: str, text: str) -> str:
    return f"  {name:<{_NAME_WIDTH}} {text}"


def _said(finding: Finding, meanings: _Meanings) -> str:
    meaning = meanings.get(finding.state, "unknown")
    return meaning if finding.words is None else f"{meaning} ({clean(finding.words)})"


def _model(entry: KeyFindings) -> str:
    listed = {"yes": "in the list", "missing": f"not in the list of {entry.models_count}"}
    where = listed.get(entry.listed.state, "there is no list to look it up in")
    if not entry.is_working:
        return where
    served = entry.served_model
    if served is None:
        return f"answers, {where}"
    return f"answers, {where}" if served == entry.model else f"answers as {clean(served)}, {where}"


def _rates(headers: Mapping[str, str]) -> str:
    shown = [f"{name}: {value}" for name, value in headers.items()][:_HEADERS_SHOWN]
    more = f", and {len(headers) - len(shown)} more" if len(headers) > len(shown) else ""
    return f"{', '.join(shown)}{more}" if shown else "none - limits, where there are any, have to stand in the job"


def _clock(entry: KeyFindings) -> Iterator[str]:
    skew_s, error_s = entry.clock_skew_s, entry.clock_error_s or 0.0
    if skew_s is None:
        if entry.is_working:
            yield _line("clock", "unknown: answers carry no date")
    elif abs(skew_s) <= _SKEW_TOLD_S + error_s:
        yield _line("clock", f"agrees with ours (within {_SKEW_TOLD_S + error_s:.1f} s)")
    else:
        side = "ahead of" if skew_s > 0 else "behind"
        yield _line(
            "clock", f"{duration(abs(skew_s))} {side} ours - one of the two is wrong; set this machine's by NTP"
        )
