"""What becomes of each request, decided without a socket and without waiting."""

import json
from decimal import Decimal

import pytest

from batcher.errors import JobError
from batcher.simulator.config import SimulatorConfig
from batcher.simulator.desk import Desk
from batcher.simulator.tokens import count_prompt_tokens

SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}}},
}


def body(text="hello", **fields):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()


def ask(desk, request=None, key="sk-1"):
    """One request from arrival to departure."""
    number = desk.arrive(key)
    plan = desk.plan(number, key, body() if request is None else request)
    desk.leave(key, plan.answer)
    return plan


def desk_of(clock, **mapping):
    return Desk(SimulatorConfig.from_mapping(mapping), clock)


def error_of(plan):
    return json.loads(plan.answer.body)["error"]


def test_an_answer_has_every_field_of_the_wire_and_true_token_counts(clock):
    desk = desk_of(clock, cached_share=0.5, reasoning_tokens=7)
    answer = json.loads(ask(desk, body("สวัสดี")).answer.body)
    prompt = count_prompt_tokens([{"role": "user", "content": "สวัสดี"}])
    assert "chat.completion" == answer["object"]
    assert 1_700_001_000 == answer["created"]
    assert "fp_simulator" == answer["system_fingerprint"]
    assert [{"index": 0, "finish_reason": "stop", "logprobs": None}] == [
        {name: choice[name] for name in ("index", "finish_reason", "logprobs")} for choice in answer["choices"]
    ]
    assert "สวัสดี" == answer["choices"][0]["message"]["content"]
    usage = answer["usage"]
    assert (prompt, 6 + 7, prompt + 13) == (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
    assert prompt // 2 == usage["prompt_tokens_details"]["cached_tokens"]
    assert 7 == usage["completion_tokens_details"]["reasoning_tokens"]


def test_max_tokens_cuts_the_answer_and_says_so(clock):
    desk = desk_of(clock)
    for fields in ({"max_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": 99}):
        answer = json.loads(ask(desk, body("abcdefghijkl", **fields)).answer.body)
        assert ("abcdefgh", "length") == (
            answer["choices"][0]["message"]["content"],
            answer["choices"][0]["finish_reason"],
        )
        assert 2 == answer["usage"]["completion_tokens"]


def test_usage_off_leaves_it_out_and_still_bills(clock):
    plan = ask(desk_of(clock, usage=False))
    assert "usage" not in json.loads(plan.answer.body)
    assert plan.tokens.prompt > 0


@pytest.mark.parametrize(
    ("request_body", "status", "by", "param", "code"),
    [
        (b"{", 400, "request", None, None),
        (b"\xff", 400, "request", None, None),
        (b"", 400, "request", None, None),
        (b"[]", 400, "request", None, None),
        (b'{"messages": []}', 400, "request", None, None),
        (b'{"model": "m", "messages": "hello"}', 400, "request", None, None),
        (b'{"model": "m", "messages": []}', 400, "request", "messages", "empty_array"),
        (body(stream=True), 400, "request", "stream", "unsupported_parameter"),
        (body(n=2), 400, "request", "n", "unsupported_parameter"),
        (body(max_tokens=0), 400, "request", "max_tokens", "integer_below_min_value"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_an_error_object(clock, request_body, status, by, param, code):
    plan = ask(desk_of(clock), request_body)
    assert (status, by) == (plan.answer.status, plan.refused_by)
    assert {"message", "type", "param", "code"} == set(error_of(plan))
    assert (param, code) == (error_of(plan)["param"], error_of(plan)["code"])


def test_only_the_keys_and_models_given_are_taken(clock):
    desk = desk_of(clock, keys=["sk-right-key"], models=["m"])
    assert 200 == ask(desk, key="sk-right-key").answer.status
    wrong = ask(desk, key="sk-wrong-key-9876")
    assert (401, "invalid_api_key") == (wrong.answer.status, error_of(wrong)["code"])
    assert b"sk-wrong" not in wrong.answer.body
    assert 401 == ask(desk, key="").answer.status
    unknown = ask(desk, b'{"model": "x", "messages": [{"role": "user", "content": "q"}]}', key="sk-right-key")
    assert (404, "model_not_found") == (unknown.answer.status, error_of(unknown)["code"])


def test_a_prompt_past_the_context_is_refused_by_name(clock):
    desk = desk_of(clock, context_tokens=20)
    assert 200 == ask(desk, body("abcd", max_tokens=12)).answer.status
    plan = ask(desk, body("abcd", max_tokens=13))
    assert ("context", "context_length_exceeded") == (plan.refused_by, error_of(plan)["code"])


def test_response_format_is_taken_ignored_refused_or_crashes(clock):
    assert (
        '{"label":"'
        in json.loads(ask(desk_of(clock), body(response_format=SCHEMA)).answer.body)["choices"][0]["message"]["content"]
    )
    ignored = ask(desk_of(clock, structured="ignored"), body("hi", response_format=SCHEMA))
    assert "hi" == json.loads(ignored.answer.body)["choices"][0]["message"]["content"]
    refused = ask(desk_of(clock, structured="refused"), body(response_format=SCHEMA))
    assert (400, "structured") == (refused.answer.status, refused.refused_by)
    assert "'response_format' of type 'json_schema' is not supported" in error_of(refused)["message"]
    assert 500 == ask(desk_of(clock, structured="crashes"), body(response_format=SCHEMA)).answer.status
    plain = ask(desk_of(clock, structured="refused"), body(response_format={"type": "text"}))
    assert 200 == plain.answer.status


def test_limits_hold_for_each_key_on_its_own(clock):
    desk = desk_of(clock, limits={"requests_per_minute": 60, "burst": "2s"})
    assert [None, None, "requests"] == [ask(desk, key="a").refused_by for _ in range(3)]
    assert None is ask(desk, key="b").refused_by
    refused = ask(desk, key="a")
    headers = dict(refused.answer.headers)
    assert ("1", "1000", "0") == (
        headers["retry-after"],
        headers["retry-after-ms"],
        headers["x-ratelimit-remaining-requests"],
    )
    assert ("requests", "rate_limit_exceeded") == (error_of(refused)["type"], error_of(refused)["code"])
    clock.time_s += 1.0
    assert None is ask(desk, key="a").refused_by


def test_tokens_are_charged_for_prompt_and_answer_together(clock):
    """8 prompt tokens (3 + 4 + 1) and 1 of the answer: 9, so 20 a minute hold two requests."""
    desk = desk_of(clock, limits={"tokens_per_minute": 20})
    assert [None, None, "tokens"] == [ask(desk, body("abcd")).refused_by for _ in range(3)]
    large = ask(desk, body("a" * 400))
    assert "size" == large.refused_by
    assert "retry-after" not in dict(large.answer.headers)


def test_one_request_more_than_the_concurrency_is_refused(clock):
    desk = desk_of(clock, limits={"concurrency": 2})
    numbers = [desk.arrive("a") for _ in range(3)]
    assert "concurrency" == desk.plan(numbers[2], "a", body()).refused_by
    desk.leave("a", None)
    assert None is desk.plan(numbers[1], "a", body()).refused_by


def test_600_a_minute_asked_at_twice_that_refuses_half(clock):
    """Over ten simulated minutes: what passes is the allowance and one burst."""
    desk = desk_of(clock, limits={"requests_per_minute": 600, "burst": "1s"})
    passed = 0
    for _ in range(12_000):
        passed += ask(desk).refused_by is None
        clock.time_s += 0.05
    assert 6000 <= passed <= 6010


def test_a_request_during_its_keys_retry_after_is_early(clock):
    """So a test can prove from outside that a Retry-After pauses a key at once."""
    desk = desk_of(clock, faults={"429": 1}, retry_after="2s")
    assert not ask(desk, key="a").is_early
    assert ask(desk, key="a").is_early
    assert not ask(desk, key="b").is_early
    clock.time_s += 2.0
    assert not ask(desk, key="a").is_early


def test_a_fault_uses_its_allowance_and_bills_only_if_the_model_ran(clock):
    desk = desk_of(clock, faults={"500": 1}, limits={"requests_per_minute": 60, "burst": "1s"})
    failed = ask(desk)
    assert (500, 0) == (failed.answer.status, failed.tokens.prompt)
    assert "0" == dict(failed.answer.headers)["x-ratelimit-remaining-requests"]
    assert "requests" == ask(desk).refused_by
    cut = ask(desk_of(clock, faults={"cut": 1}))
    assert cut.tokens.prompt > 0


def test_the_same_seed_gives_the_same_run(clock):
    mapping = {"faults": {"500": 0.2, "length": 0.2}, "latency": "lognormal:200ms,900ms", "answer": "label:a,b,c"}

    def run(seed):
        desk = desk_of(clock, seed=seed, **mapping)
        return [ask(desk, body(f"row {index}")) for index in range(200)]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_an_outage_set_at_run_time_begins_then(clock):
    desk = desk_of(clock)
    clock.time_s += 500
    desk.change({"outages": [{"start": "10s", "duration": "5s", "fault": 503}]})
    statuses = []
    for passed_s in (0, 10, 4.9, 0.1):
        clock.time_s += passed_s
        statuses.append(ask(desk).answer.status)
    assert [200, 503, 503, 200] == statuses


def test_a_change_of_latency_restarts_no_outage_and_limits_start_anew(clock):
    desk = desk_of(clock, outages=[{"start": 0, "duration": "10s"}], limits={"requests_per_minute": 60, "burst": "1s"})
    clock.time_s += 11
    assert 200 == ask(desk).answer.status
    desk.change({"latency": "1s", "faults": {}})
    assert 429 == ask(desk).answer.status
    desk.change({"limits": {}})
    assert 200 == ask(desk).answer.status


def test_a_wrong_change_changes_nothing(clock):
    desk = desk_of(clock, faults={"500": 1})
    for wrong in ({"faults": {"x": 1}}, {"seed": 3}, [], {"faults": {}, "latency": "x"}):
        with pytest.raises(JobError):
            desk.change(wrong)
    assert 500 == ask(desk).answer.status


def test_money_is_decimal_and_cached_input_has_its_price():
    price = SimulatorConfig.from_mapping({"price": {"input": 1, "cached_input": 0.25, "output": 4}}).price
    assert Decimal("0.00048125") == price.cost_usd(200, 25, 75)


def test_a_used_up_day_is_refused_in_openais_words_and_without_a_retry_after(clock):
    """RPD 200: one is back after 7 min 12 s; the time is in the words and the reset, in no Retry-After."""
    desk = desk_of(clock, limits={"requests_per_day": 200})
    assert all(ask(desk).is_good for _ in range(200))
    refused = ask(desk)
    headers = dict(refused.answer.headers)
    assert 429 == refused.answer.status
    assert "day" == refused.refused_by
    assert (
        "requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s."
        in (error_of(refused)["message"])
    )
    assert "24h0m0s" == headers["x-ratelimit-reset-requests"]
    assert not [name for name in headers if name.startswith("retry-after")]
