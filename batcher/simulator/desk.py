"""Decides what becomes of each request; sends nothing and waits for nothing.

The order is a provider's: key, body, model, context, limits; and then, for what got through, outages and faults.
A request that meets a fault has used its allowance, as it would have there; one that is refused has not.
"""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from batcher.clock import Clock
from batcher.errors import JobError
from batcher.simulator import wire
from batcher.simulator.answers import answer_text, ask
from batcher.simulator.chance import draw
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.fault_answers import (
    FaultContext,
    answer_fault,
    day_is_over,
    rate_limited,
    spoiled,
    status_answer,
)
from batcher.simulator.faults import Fault, FaultPlan
from batcher.simulator.limits import Admission, KeyLimits
from batcher.simulator.tokens import count_prompt_tokens, count_tokens, cut_to_tokens
from batcher.simulator.wire import NO_TOKENS, ChatRequest, Completion, HttpAnswer, Tokens, error_answer

_FAULT_FIELDS = {"faults", "faults_by", "rules", "outages"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one chat request: wait `latency_s`, then send `answer`, in the way of `fault` if there is one.

    `answer` is None for the faults that send nothing. `tokens` are those to bill once it is sent.
    """

    number: int
    answer: HttpAnswer | None
    fault: Fault | None = None
    refused_by: str | None = None
    latency_s: float = 0.0
    model: str | None = None
    digest: str | None = None
    tokens: Tokens = NO_TOKENS
    is_early: bool = False

    @property
    def is_good(self) -> bool:
        """Whether its client, once it has all of it, has an answer."""
        return self.answer is not None and self.answer.status == 200 and (self.fault is None or self.fault.is_good)


class _KeyState:
    """What the desk remembers of one key."""

    __slots__ = ("in_flight", "limits", "paused_until_s")

    def __init__(self, limits: KeyLimits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.paused_until_s = 0.0


class Desk:
    """All the simulator's state but the connections and the witness."""

    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._clock = clock
        self._chat = msgspec.json.Decoder(ChatRequest)
        self._keys: dict[str, _KeyState] = {}
        self._requests = 0
        self.config = config
        self._start_s = clock.monotonic()
        self._plan_faults()

    def change(self, mapping: Any) -> None:
        """Set some fields at run time: outages count from now, limits start anew.

        Raises:
            JobError: See `SimulatorConfig.changed`.
        """
        if not isinstance(mapping, dict):
            raise JobError('the body is no mapping; send JSON such as {"faults": {"500": 1}}')
        self.config = self.config.changed(mapping)
        if "limits" in mapping:
            for state in self._keys.values():
                state.limits = KeyLimits(self.config.limits)
        if "outages" in mapping:
            self._start_s = self._clock.monotonic()
        if _FAULT_FIELDS & mapping.keys():
            self._plan_faults()

    def arrive(self, key: str) -> int:
        """A chat request has come: its number, from 1. `leave` must follow."""
        self._requests += 1
        self._state(key).in_flight += 1
        return self._requests

    def leave(self, key: str, answer: HttpAnswer | None) -> None:
        """It is done with, and `answer` was sent whole (None: nothing was)."""
        state = self._state(key)
        state.in_flight -= 1
        if answer is not None and answer.retry_after_s is not None:
            state.paused_until_s = max(state.paused_until_s, self._clock.monotonic() + answer.retry_after_s)

    def refusal_of_key(self, key: str) -> HttpAnswer | None:
        """The 401 for this key, if it is not taken."""
        keys = self.config.keys
        if not keys or key in keys:
            return None
        return wire.wrong_key(key) if key else wire.missing_key()

    def outage(self) -> Fault | None:
        """The fault of the outage that is on now."""
        return self._faults.outage(self._clock.monotonic())

    def plan(self, number: int, key: str, body: bytes) -> Plan:
        """What becomes of chat request `number`."""
        state = self._state(key)
        is_early = self._clock.monotonic() < state.paused_until_s
        refusal = self.refusal_of_key(key)
        if refusal is not None:
            return Plan(number, refusal, refused_by="key", is_early=is_early)
        try:
            chat = self._chat.decode(body)
        except msgspec.ValidationError as error:
            return Plan(
                number, error_answer(400, f"Invalid request: {error}."), refused_by="request", is_early=is_early
            )
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Plan(number, wire.not_json(), refused_by="request", is_early=is_early)
        plan = self._plan_chat(number, key, chat, state)
        return replace(plan, is_early=True) if is_early else plan

    def _plan_chat(self, number: int, key: str, chat: ChatRequest, state: _KeyState) -> Plan:
        config, now_s = self.config, self._clock.monotonic()
        question = ask(config.seed, chat.model, chat.messages)
        seen = Plan(number, None, model=chat.model, digest=question.digest)
        prompt_tokens = count_prompt_tokens(chat.messages)
        refused = self._refuse(chat, prompt_tokens)
        if refused is not None:
            return replace(seen, answer=refused.answer, refused_by=refused.by)

        schema = chat.schema if config.structured == "taken" else None
        text = answer_text(config.answer, question, schema)
        if text is None:
            missing = error_answer(
                400, "The simulator's truth file has no answer to this question.", code="truth_missing"
            )
            return replace(seen, answer=missing, refused_by="truth")
        completion = self._completion(number, chat, text, prompt_tokens)
        used = completion.tokens or NO_TOKENS

        if config.limits.concurrency_max is not None and state.in_flight > config.limits.concurrency_max:
            crowded = error_answer(429, "Too many concurrent requests.", kind="requests", code="rate_limit_exceeded")
            return replace(seen, answer=crowded, refused_by="concurrency")
        admission = state.limits.admit(used.prompt + used.completion, now_s)
        if admission.refused_by is not None:
            limited = self._limited(chat.model, admission, state, used.prompt + used.completion)
            return replace(seen, answer=limited, refused_by=admission.refused_by)

        fault = self._faults.pick(number=number, digest=question.digest, text=question.text, now_s=now_s)
        context = FaultContext(chat.model, key, chat.tokens_max, prompt_tokens, config.retry_after_s, self._clock.now())
        answer, billed = self._answer(fault, completion, context)
        if answer is not None:
            answer = replace(answer, headers=admission.headers + answer.headers)
        latency_s = config.latency.at(draw(config.seed, "latency", number)) + config.token_latency_s * used.completion
        return replace(seen, answer=answer, fault=fault, latency_s=latency_s, tokens=billed)

    def _refuse(self, chat: ChatRequest, prompt_tokens: int) -> "_Refused | None":
        """What a provider would say to this request before it looks at limits, if it would not take it."""
        config, tokens_max = self.config, chat.tokens_max
        if config.models and chat.model not in config.models:
            return _Refused("model", wire.unknown_model(chat.model))
        if not chat.messages:
            empty = "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
            return _Refused("request", error_answer(400, empty, param="messages", code="empty_array"))
        if chat.stream or chat.n not in (None, 1):
            param = "stream" if chat.stream else "n"
            refused = f"The simulator does not support '{param}' in chat completions."
            return _Refused("request", error_answer(400, refused, param=param, code="unsupported_parameter"))
        if tokens_max is not None and tokens_max < 1:
            low = f"Invalid 'max_tokens': integer below minimum value. Expected a value >= 1, but got {tokens_max}."
            return _Refused("request", error_answer(400, low, param="max_tokens", code="integer_below_min_value"))
        if config.context_tokens is not None and prompt_tokens + (tokens_max or 0) > config.context_tokens:
            return _Refused("context", wire.too_long(config.context_tokens, prompt_tokens, tokens_max or 0))
        if chat.schema is not None and config.structured in ("refused", "crashes"):
            return _Refused("structured", _no_schema(config.structured == "crashes", chat.response_format or {}))
        return None

    def _completion(self, number: int, chat: ChatRequest, text: str, prompt_tokens: int) -> Completion:
        config, finish_reason = self.config, "stop"
        reasoning = config.reasoning_tokens
        if chat.tokens_max is not None and reasoning + count_tokens(text) > chat.tokens_max:
            reasoning = min(reasoning, chat.tokens_max)
            text, finish_reason = cut_to_tokens(text, chat.tokens_max - reasoning), "length"
        cached = int(prompt_tokens * config.cached_share)
        tokens = Tokens(prompt_tokens, cached, count_tokens(text) + reasoning, reasoning)
        return Completion(number, int(self._clock.now()), chat.model, text, tokens, finish_reason)

    def _answer(
        self, fault: Fault | None, completion: Completion, context: FaultContext
    ) -> tuple[HttpAnswer | None, Tokens]:
        """What is sent for this fault, and the tokens that it bills."""
        shown = completion if self.config.usage else replace(completion, tokens=None)
        if fault is None:
            return _good(shown), completion.tokens or NO_TOKENS
        if fault.group == "status":
            return status_answer(fault.name, context), NO_TOKENS
        if fault.group == "connection":
            return (_good(shown), completion.tokens or NO_TOKENS) if fault.is_billed else (None, NO_TOKENS)
        if not fault.is_billed:
            return answer_fault(fault.name, shown), NO_TOKENS
        # Missing usage is still billed: what the client is not told is spent all the same.
        billed = completion if fault.name == "no_usage" else spoiled(fault.name, completion)
        return answer_fault(fault.name, shown), billed.tokens or NO_TOKENS

    def _limited(self, model: str, admission: Admission, state: _KeyState, tokens: int) -> HttpAnswer:
        if admission.refused_by == "day":
            limit, used = state.limits.used("day", self._clock.monotonic())
            return day_is_over(model, limit, used, wait_s=admission.wait_s, headers=admission.headers)
        if admission.refused_by == "requests":
            kind, unit, asked = "requests", "requests per min (RPM)", 1
            limit, used = state.limits.used("requests", self._clock.monotonic())
        else:
            kind, unit, asked = "tokens", "tokens per min (TPM)", tokens
            limit, used = state.limits.used("tokens", self._clock.monotonic())
        where = f"for {model} in organization org-simulator on {unit}: Limit {limit}"
        if admission.refused_by == "size":
            message = f"Request too large {where}, Requested {asked}. The input or output tokens must be reduced."
            return error_answer(429, message, kind=kind, code="rate_limit_exceeded", headers=admission.headers)
        message = (
            f"Rate limit reached {where}, Used {used}, Requested {asked}. Please try again in {admission.wait_s:.3f}s."
        )
        return rate_limited(message, kind, wait_s=admission.wait_s, headers=admission.headers)

    def _state(self, key: str) -> _KeyState:
        state = self._keys.get(key)
        if state is None:
            state = self._keys[key] = _KeyState(KeyLimits(self.config.limits))
        return state

    def _plan_faults(self) -> None:
        self._faults = FaultPlan(self.config.script(), seed=self.config.seed, start_s=self._start_s)


@dataclass(frozen=True, slots=True)
class _Refused:
    by: str
    answer: HttpAnswer


def _good(completion: Completion) -> HttpAnswer:
    return HttpAnswer(200, wire.completion_body(completion))


def _crash() -> HttpAnswer:
    # What llama-cpp-python's server makes of a response_format that it does not know.
    where = "'loc': ('body', 'response_format', 'type')"
    message = f"[{{'type': 'literal_error', {where}, 'msg': \"Input should be 'text' or 'json_object'\"}}]"
    return error_answer(500, message, kind="internal_server_error")


def _no_schema(is_crash: bool, response_format: dict[str, Any]) -> HttpAnswer:
    if is_crash:
        return _crash()
    return error_answer(
        400,
        f"Invalid parameter: 'response_format' of type '{response_format.get('type')}' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide: "
        "https://platform.openai.com/docs/guides/structured-outputs",
    )
