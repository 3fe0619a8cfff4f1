"""Parsers for the parts of a simulator's config: each takes what a person wrote and where, and gives a record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from batcher.errors import JobError
from batcher.simulator.answers import ANSWER_MODES, AnswerRule
from batcher.simulator.chance import parse_duration_s
from batcher.simulator.faults import FAULTS, FaultRule, Outage
from batcher.simulator.fields import (
    Parser,
    nearest,
    read_choice,
    read_count,
    read_fields,
    read_share,
    read_text,
    read_texts,
)
from batcher.simulator.limits import WINDOW_KINDS, Limits


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens; cached input costs what input costs unless said otherwise."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def cost_usd(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> Decimal:
        """Dollars for one call; `cached_tokens` are part of `prompt_tokens`."""
        cached = self.input if self.cached_input is None else self.cached_input
        total = (prompt_tokens - cached_tokens) * self.input + cached_tokens * cached + completion_tokens * self.output
        return total / 1_000_000


def read_limits(value: Any, where: str) -> Limits:
    """Limits of one key; `burst` and `day` are durations, `concurrency` and `slots` counts."""
    parsed = read_fields(
        value,
        where,
        {
            "requests_per_minute": optional(read_count(1)),
            "tokens_per_minute": optional(read_count(1)),
            "window": read_choice(WINDOW_KINDS),
            "burst": parse_duration_s,
            "concurrency": optional(read_count(1)),
            "requests_per_day": optional(read_count(1)),
            "day": _read_day,
            "slots": optional(read_count(1)),
        },
    )
    names = {"burst": "burst_s", "concurrency": "concurrency_max", "day": "day_s"}
    return Limits(**{names.get(name, name): value for name, value in parsed.items()})


def _read_day(value: Any, where: str) -> float:
    day_s = parse_duration_s(value, where)
    if day_s <= 0:
        raise JobError(f"{where} is {value!r}; write a duration above 0, such as 24h or 30s")
    return day_s


def read_fault(value: Any, where: str) -> str:
    """The name of a fault that there is."""
    name = str(value)
    if name not in FAULTS:
        raise JobError(f"{where} names the fault {name!r}, which is not known{nearest(name, FAULTS)}")
    return name


def read_faults(value: Any, where: str) -> dict[str, float]:
    """Shares by fault."""
    if not isinstance(value, Mapping):
        raise JobError(f"{where} is {value!r}; write a mapping of faults to shares, as in {{500: 5%, reset: 1%}}")
    return {read_fault(name, where): read_share(share, f"{where}.{name}") for name, share in value.items()}


def check_faults(faults: Mapping[str, float], where: str) -> None:
    """Refuse names that are not there, and shares that cannot be."""
    for name, share in faults.items():
        read_fault(name, where)
        if not 0 <= share <= 1:
            raise JobError(f"{where}.{name} is {share}; a share is from 0 to 1")
    if sum(faults.values()) > 1 + 1e-9:
        raise JobError(f"{where} add up to {sum(faults.values()):.2%}; together they can be 100% at most")


def read_rules(value: Any, where: str) -> tuple[FaultRule, ...]:
    """Faults by content."""
    parsers = {"contains": read_text, "fault": read_fault, "times": optional(read_count(1))}
    return tuple(FaultRule(**part) for part in _read_list(value, where, parsers, needed=("contains", "fault")))


def read_outages(value: Any, where: str) -> tuple[Outage, ...]:
    """Times of outage; the fault is 503 unless said otherwise."""
    parsers = {"start": parse_duration_s, "duration": parse_duration_s, "fault": read_fault}
    parts = _read_list(value, where, parsers, needed=("start", "duration"))
    return tuple(Outage(part["start"], part["duration"], part.get("fault", "503")) for part in parts)


def _read_list(
    value: Any, where: str, parsers: Mapping[str, Parser], *, needed: tuple[str, ...]
) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)):
        raise JobError(f"{where} is {value!r}; write a list of mappings of {', '.join(parsers)}")
    parts = [read_fields(part, f"{where}[{index}]", parsers) for index, part in enumerate(value)]
    for index, part in enumerate(parts):
        for name in needed:
            if name not in part:
                raise JobError(f"{where}[{index}] has no {name}; add it")
    return parts


def read_answer(value: Any, where: str, base: Path) -> AnswerRule:
    """An answer rule: `echo`, `label:a,b`, `lorem:20`, `template:…`, `truth:FILE`, or a mapping with `mode`."""
    if isinstance(value, Mapping):
        parsed = read_fields(
            value,
            where,
            {
                "mode": read_choice(list(ANSWER_MODES)),
                "labels": read_texts,
                "template": read_text,
                "words": read_count(0),
                "truth": lambda part, path: _read_truth(base / read_text(part, path), path),
            },
        )
        rule = AnswerRule(**parsed)
    else:
        mode_text, colon, argument = read_text(value, where).partition(":")
        rule = AnswerRule(mode=read_choice(list(ANSWER_MODES))(mode_text.strip(), where))
        if colon and rule.mode == "label":
            rule = replace(rule, labels=tuple(label.strip() for label in argument.split(",") if label.strip()))
        elif colon and rule.mode == "lorem":
            rule = replace(rule, words=read_count(0)(argument.strip(), where))
        elif colon and rule.mode == "template":
            rule = replace(rule, template=argument)
        elif colon and rule.mode == "truth":
            rule = replace(rule, truth=_read_truth(base / argument.strip(), where))
        elif colon:
            raise JobError(f"{where} is {value!r}; echo takes no argument")
    if rule.mode == "label" and not rule.labels:
        raise JobError(f"{where} has no labels; write label:billing,technical,other")
    if rule.mode == "truth" and not rule.truth:
        raise JobError(f"{where} has no truth; write truth:FILE.jsonl with a {{text, answer}} a line")
    return rule


class _Truth(msgspec.Struct):
    text: str
    answer: str


def _read_truth(path: Path, where: str) -> dict[str, str]:
    decoder, truth = msgspec.json.Decoder(_Truth), {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        pair = decoder.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise JobError(f"{where}: {path}:{number}: {error}; write {{text, answer}}") from error
                    truth[pair.text.strip()] = pair.answer
    except OSError as error:
        raise JobError(f"{where}: cannot read {path}: {error.strerror}") from error
    return truth


def read_price(value: Any, where: str) -> Price:
    """US dollars per million tokens."""
    parsed = read_fields(value, where, {"input": _read_usd, "output": _read_usd, "cached_input": _read_usd})
    for name in ("input", "output"):
        if name not in parsed:
            raise JobError(f"{where} has no {name}; write US dollars per million tokens")
    return Price(**parsed)


def _read_usd(value: Any, where: str) -> Decimal:
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        usd = Decimal(-1)
    if isinstance(value, bool) or not usd.is_finite() or usd < 0:
        raise JobError(f"{where} is {value!r}; write US dollars per million tokens, such as 0.10")
    return usd


def optional(read: Parser) -> Parser:
    """A parser that also takes None, and gives it back."""
    return lambda value, where: None if value is None else read(value, where)
