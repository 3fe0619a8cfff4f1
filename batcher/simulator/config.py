"""Everything that can be set on the simulator, and how it is read from a YAML file or the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from batcher.errors import JobError
from batcher.simulator.answers import AnswerRule
from batcher.simulator.chance import Latency, parse_duration_s
from batcher.simulator.faults import FaultRule, FaultsBy, FaultScript, Outage
from batcher.simulator.fields import nearest, read_choice, read_count, read_fields, read_share, read_switch, read_texts
from batcher.simulator.limits import Limits
from batcher.simulator.parts import (
    Price,
    check_faults,
    optional,
    read_answer,
    read_fault,
    read_faults,
    read_limits,
    read_outages,
    read_price,
    read_rules,
)

Structured = Literal["taken", "refused", "ignored", "crashes"]
AT_ONCE = Latency()
UNLIMITED = Limits()
ECHO = AnswerRule()

_STRUCTURED: tuple[Structured, ...] = ("taken", "refused", "ignored", "crashes")
_FAULTS_BY: tuple[FaultsBy, ...] = ("number", "content")
_WHERE = "simulator"


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """One simulator. With the defaults: any key, any model, no waiting, no limits, no faults, answers by echo.

    Args:
        models: The models there are; empty for any name.
        keys: The API keys that are taken; empty for any, also none.
        seed: Fixes faults, latencies and answers.
        latency: Time to an answer or a seeded fault; refusals (limits, keys, bad requests) come at once.
        token_latency_s: Added for each token of the answer.
        limits: Requests and tokens per minute, requests per day and concurrency, for each key on its own; the
            server's slots, for all keys together.
        faults: The share of requests that meet each fault of `faults.FAULTS`.
        faults_by: What decides who: the request's `number` or its `content` (and how often it was seen).
        rules: Faults for requests whose text holds a marker.
        outages: Times at which every request fails.
        retry_after_s: What the seeded 429s ask for.
        drip_s: How long a dripping answer takes.
        answer: How answers are made.
        structured: What becomes of `response_format`: `taken`, `refused` (400), `ignored`, or `crashes` (500).
        usage: Whether answers carry token counts.
        cached_share: The share of each prompt reported, and priced, as cached.
        reasoning_tokens: Reported, billed and counted against max_tokens on top of each answer's own.
        context_tokens: Prompt and max_tokens together may not pass this.
        price: What the witness books.
        body_bytes_max: A longer request is refused with 413.
    """

    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    seed: int = 0
    latency: Latency = AT_ONCE
    token_latency_s: float = 0.0
    limits: Limits = UNLIMITED
    faults: Mapping[str, float] = field(default_factory=dict)
    faults_by: FaultsBy = "number"
    rules: tuple[FaultRule, ...] = ()
    outages: tuple[Outage, ...] = ()
    retry_after_s: float = 1.0
    drip_s: float = 5.0
    answer: AnswerRule = ECHO
    structured: Structured = "taken"
    usage: bool = True
    cached_share: float = 0.0
    reasoning_tokens: int = 0
    context_tokens: int | None = None
    price: Price | None = None
    body_bytes_max: int = 32 * 2**20

    def __post_init__(self) -> None:
        """Refuse faults that do not exist, wherever the config came from."""
        check_faults(self.faults, f"{_WHERE}.faults")
        for name in [rule.fault for rule in self.rules] + [outage.fault for outage in self.outages]:
            read_fault(name, f"{_WHERE}.rules or .outages")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, base: Path | None = None) -> "SimulatorConfig":
        """A config from plain values, as YAML or the command line gives them; `base` is where its paths start.

        Raises:
            JobError: A field is unknown, or its value is not what it can be; names the field.
        """
        return cls(**_read_config(mapping, base or Path()))

    def changed(self, mapping: Mapping[str, Any]) -> "SimulatorConfig":
        """This config with some of the fields that may change at run time set anew.

        Raises:
            JobError: See `from_mapping`; also for a field that stands for the simulator's whole life.
        """
        for name in mapping:
            if name not in RUNTIME_FIELDS:
                raise JobError(f"{_WHERE}.{name} does not change at run time{nearest(str(name), RUNTIME_FIELDS)}")
        return replace(self, **_read_config(mapping, Path()))

    def script(self) -> FaultScript:
        """What goes wrong."""
        return FaultScript(self.faults, self.faults_by, self.rules, self.outages)


RUNTIME_FIELDS = (
    "latency",
    "latency_per_token",
    "limits",
    "faults",
    "faults_by",
    "rules",
    "outages",
    "retry_after",
    "drip",
    "structured",
    "usage",
)


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> SimulatorConfig:
    """The config in a YAML file (or the defaults), with `overrides` put over its fields.

    Raises:
        JobError: The file cannot be read, is no YAML, or see `SimulatorConfig.from_mapping`.
    """
    written: Any = {} if path is None else _read_yaml(path)
    if not isinstance(written, Mapping):
        raise JobError(f"{path} holds no mapping; write fields such as `seed: 7`")
    base = path.parent if path is not None else Path()
    try:
        return SimulatorConfig.from_mapping({**written, **(overrides or {})}, base=base)
    except JobError as error:
        raise (error if path is None else JobError(f"{path}: {error.message}", hint=error.hint)) from None


def _read_yaml(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JobError(f"{path} is not UTF-8 (byte {error.start})") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise JobError(f"{path}{line} is not YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}") from error


def _read_config(mapping: Any, base: Path) -> dict[str, Any]:
    parsed = read_fields(mapping, _WHERE, {**_PARSERS, "answer": lambda value, where: read_answer(value, where, base)})
    names = {field.name for field in fields(SimulatorConfig)}
    return {name if name in names else _NAMES[name]: value for name, value in parsed.items()}


# What people write, where the code's name carries a unit.
_NAMES = {"latency_per_token": "token_latency_s", "retry_after": "retry_after_s", "drip": "drip_s"}


_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "models": read_texts,
    "keys": read_texts,
    "seed": read_count(0),
    "latency": Latency.parse,
    "latency_per_token": parse_duration_s,
    "limits": read_limits,
    "faults": read_faults,
    "faults_by": read_choice(_FAULTS_BY),
    "rules": read_rules,
    "outages": read_outages,
    "retry_after": parse_duration_s,
    "drip": parse_duration_s,
    "structured": read_choice(_STRUCTURED),
    "usage": read_switch,
    "cached_share": read_share,
    "reasoning_tokens": read_count(0),
    "context_tokens": optional(read_count(1)),
    "price": read_price,
    "body_bytes_max": read_count(1),
}
