"""The faults the simulator knows, and which request gets which.

`FAULTS` is the one table: help and documentation are made from it, and no other name is taken. Which
request gets which fault depends on the seed and on the request's number, or (`by: content`) on its messages
and how often these very messages were seen, so a retry meets another fate and a rerun the same.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from batcher.simulator.chance import draw

Group = Literal["status", "connection", "answer"]
FaultsBy = Literal["number", "content"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail.

    A `status` fault answers with an HTTP error, a `connection` fault with less than an HTTP response, an
    `answer` fault with a 200 that is no good answer. `is_billed`: the model did run, so its tokens count.
    `is_good`: what the client gets is an answer all the same.
    """

    name: str
    group: Group
    status: int | None
    is_billed: bool
    does: str
    is_good: bool = False


def _table() -> dict[str, Fault]:
    faults = [
        Fault("429", "status", 429, False, "rate limit, with Retry-After in seconds"),
        Fault("429_date", "status", 429, False, "rate limit, with Retry-After as an HTTP date"),
        Fault("429_ms", "status", 429, False, "rate limit, with retry-after-ms only"),
        Fault("429_bare", "status", 429, False, "rate limit, without a word on when to come back"),
        Fault("quota", "status", 429, False, "429 that no waiting mends: insufficient_quota"),
        Fault("500", "status", 500, False, "server error, as OpenAI words it"),
        Fault("502", "status", 502, False, "bad gateway, the HTML page of a proxy"),
        Fault("503", "status", 503, False, "overloaded, as OpenAI words it"),
        Fault("504", "status", 504, False, "gateway timeout, the HTML page of a proxy"),
        Fault("529", "status", 529, False, "overloaded_error, as Anthropic words it"),
        Fault("408", "status", 408, False, "the server gave up on the request"),
        Fault("409", "status", 409, False, "conflict: the resource was locked for a moment"),
        Fault("400", "status", 400, False, "a parameter the model refuses"),
        Fault("context_length", "status", 400, False, "400 context_length_exceeded"),
        Fault("content_filter_400", "status", 400, False, "400 content_filter: the prompt was filtered (Azure)"),
        Fault("401", "status", 401, False, "wrong API key"),
        Fault("402", "status", 402, False, "payment required (DeepSeek, OpenRouter)"),
        Fault("403", "status", 403, False, "country or project not allowed"),
        Fault("404", "status", 404, False, "model_not_found"),
        Fault("413", "status", 413, False, "request body too large, the HTML page of a proxy"),
        Fault("415", "status", 415, False, "unsupported media type"),
        Fault("422", "status", 422, False, "validation error in FastAPI's form: no error object"),
        Fault("reset", "connection", None, False, "the connection is reset (TCP RST) in place of an answer"),
        Fault("close", "connection", None, False, "the connection is closed in place of an answer"),
        Fault("hang", "connection", None, False, "no answer until the client leaves"),
        Fault("drip", "connection", 200, True, "a good answer, byte by byte over `drip` seconds", is_good=True),
        Fault("cut", "connection", 200, True, "half the body that Content-Length promised, then closed"),
        Fault("cut_chunked", "connection", 200, True, "half a chunked body without its end, then closed"),
        Fault("error_200", "answer", 200, False, "200 with an error object inside"),
        Fault("html_200", "answer", 200, False, "200 with an HTML page"),
        Fault("invalid_json", "answer", 200, True, "200 with JSON that lacks its last brace"),
        Fault("no_usage", "answer", 200, True, "a good answer without usage", is_good=True),
        Fault("null_content", "answer", 200, True, "content is null"),
        Fault("empty_content", "answer", 200, True, "content is the empty string"),
        Fault("empty_choices", "answer", 200, True, "choices is an empty list"),
        Fault("no_choices", "answer", 200, True, "choices is not there"),
        Fault("length", "answer", 200, True, "half the text, finish_reason length"),
        Fault("content_filter", "answer", 200, True, "no text, finish_reason content_filter"),
        Fault("refusal", "answer", 200, True, "content null, the refusal field filled"),
        Fault("off_answer", "answer", 200, True, "prose that keeps neither labels nor schema"),
    ]
    return {fault.name: fault for fault in faults}


FAULTS: Mapping[str, Fault] = _table()


@dataclass(frozen=True, slots=True)
class FaultRule:
    """A request whose last user message holds `contains` gets `fault`, the first `times` times (None: always)."""

    contains: str
    fault: str
    times: int | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """From `start_s` on, for `duration_s`, every request gets `fault`.

    Counted from the start of the simulator, or from the moment the outages were set at run time.
    """

    start_s: float
    duration_s: float
    fault: str = "503"


@dataclass(frozen=True, slots=True)
class FaultScript:
    """What goes wrong, all of it. An outage comes before a rule, a rule before the shares."""

    shares: Mapping[str, float] = field(default_factory=dict)
    by: FaultsBy = "number"
    rules: Sequence[FaultRule] = ()
    outages: Sequence[Outage] = ()


class FaultPlan:
    """Picks a fault, or none, for each request; remembers how often a content was seen where that matters."""

    def __init__(self, script: FaultScript, *, seed: int, start_s: float) -> None:
        self._script, self._seed, self._start_s = script, seed, start_s
        self._names = [name for name, share in script.shares.items() if share > 0]
        self._bounds = list(accumulate(script.shares[name] for name in self._names))
        self._seen: Counter[str] = Counter()
        self._ruled: Counter[tuple[int, str]] = Counter()

    def outage(self, now_s: float) -> Fault | None:
        """The fault of the outage that is on now."""
        passed_s = now_s - self._start_s
        for outage in self._script.outages:
            if outage.start_s <= passed_s < outage.start_s + outage.duration_s:
                return FAULTS[outage.fault]
        return None

    def pick(self, *, number: int, digest: str, text: str, now_s: float) -> Fault | None:
        """The fault for request `number`, which asks `text` with messages named `digest`."""
        fault = self.outage(now_s) or self._by_rule(digest, text)
        if fault is not None or not self._names:
            return fault
        about: int | str = number
        if self._script.by == "content":
            about = f"{digest}\0{self._seen[digest]}"
            self._seen[digest] += 1
        index = bisect_right(self._bounds, draw(self._seed, "fault", about))
        return FAULTS[self._names[index]] if index < len(self._names) else None

    def _by_rule(self, digest: str, text: str) -> Fault | None:
        for index, rule in enumerate(self._script.rules):
            if rule.contains in text:
                if rule.times is None:
                    return FAULTS[rule.fault]
                self._ruled[index, digest] += 1
                if self._ruled[index, digest] <= rule.times:
                    return FAULTS[rule.fault]
        return None
