"""What answers show, and what they do not: a probe must be able to say no to each ability."""

import json
import re
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from loopback import Asked, Loopback, Said, completion, echo

from batcher.clock import SystemClock
from batcher.core.contracts import CallError
from batcher.providers.probe import Target, probe_provider
from batcher.providers.probe_ability import (
    judge_limit,
    judge_usage,
    probe_json_schema,
    probe_logprobs,
    probe_prompt_logprobs,
    probe_seed,
)
from batcher.providers.probe_call import Heard
from batcher.providers.wire import decode_completion
from batcher.runs.findings import Finding, KeyFindings

Body = dict[str, Any]


def heard(body: Body) -> Heard:
    """A 200 with this body."""
    return Heard(body=body, completion=decode_completion(json.dumps(body).encode()))


def chat(text: str | None, *, finish_reason: str = "stop", usage: Any = None, **choice: Any) -> Heard:
    first = {"message": {"content": text}, "finish_reason": finish_reason, **choice}
    return heard({"choices": [first], **({} if usage is None else {"usage": usage})})


def tokens(prompt: int, output: int) -> Body:
    return {"prompt_tokens": prompt, "completion_tokens": output}


def no(status: int = 400, words: str = "unknown field") -> Heard:
    kind = {400: "bad_request", 404: "bad_request", 429: "rate_limited", 500: "server", 503: "server"}[status]
    return Heard(CallError(words, kind=kind, status=status))


class FakeClient:
    """Answers by rule, and keeps what it was asked."""

    def __init__(self, rule: Callable[[str, Body], Heard]) -> None:
        self.rule, self.bodies = rule, []

    async def ask(self, path: str, body: Body | None = None) -> Heard:
        self.bodies.append(body)
        return self.rule(path, body or {})

    async def chat(self, body: Body) -> Heard:
        return await self.ask("/chat/completions", body)


# ------------------------------------------------------------------------------------------------ limits and usage


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (chat("one two", finish_reason="length", usage=tokens(30, 16)), "yes"),
        (chat("one two", usage=tokens(30, 16)), "yes"),
        (chat("", finish_reason="length"), "yes"),
        (chat("billing", usage=tokens(30, 1)), "accepted"),
        (chat("one two three", usage=tokens(30, 90)), "ignored"),
        (chat(" ".join(["một"] * 40)), "ignored"),
        (no(400), "refused"),
        (no(500), "refused"),
        (no(429), "unknown"),
        (no(503), "unknown"),
        (no(400, "Could not finish the message because max_tokens or model output limit was reached."), "yes"),
    ],
)
def test_a_limit_is_judged_by_the_length_that_came(answer: Heard, expected: str) -> None:
    """Status 200 says nothing: a server that ignores the limit answers 200, and the bill is longer."""
    assert expected == judge_limit(answer).state


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (tokens(30, 16), "yes"),
        (None, "missing"),
        ({}, "missing"),
        (tokens(0, 16), "implausible"),
        (tokens(30, 0), "implausible"),
        (tokens(-1, 16), "implausible"),
        ({"total_tokens": 46}, "implausible"),
        ({**tokens(30, 16), "prompt_tokens_details": {"cached_tokens": 31}}, "implausible"),
    ],
)
def test_usage_is_believed_only_where_it_can_be(usage: Any, expected: str) -> None:
    """A count of zero would be booked as a cost of zero."""
    assert expected == judge_usage(chat("một hai ba", usage=usage)).state


# ------------------------------------------------------------------------------------------------------ abilities


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": [{"token": "OK", "logprob": -0.1}]}, "yes"),
        ({"tokens": ["OK"], "token_logprobs": [-0.1]}, "yes"),
        (None, "ignored"),
        ({"content": []}, "ignored"),
        ({"content": [{"token": "OK", "logprob": None}]}, "ignored"),
        ({"content": [{"token": "OK", "logprob": 3.5}]}, "ignored"),
        ("yes", "ignored"),
    ],
)
async def test_logprobs_are_there_or_not(logprobs: Any, expected: str) -> None:
    client = FakeClient(lambda _path, _body: chat("OK", logprobs=logprobs))

    assert expected == (await probe_logprobs(client, {"model": "m"})).state


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"colour": "violet"}', "yes"),
        ('<think>mờ</think>\n{"colour":"ochre"}', "yes"),
        ('{"colour": "blue"}', "ignored"),
        ('{"color": "violet"}', "ignored"),
        ('{"colour": "violet", "why": "天空"}', "ignored"),
        ('"violet"', "ignored"),
        ("At noon the sky is blue.", "ignored"),
        ('```json\n{"colour": "violet"}\n```', "ignored"),
        ("[" * 100_000, "ignored"),
    ],
)
async def test_a_schema_is_obeyed_only_by_an_answer_that_keeps_it(text: str, expected: str) -> None:
    client = FakeClient(lambda _path, _body: chat(text))

    assert expected == (await probe_json_schema(client, {"model": "m"}, "max_tokens")).state


async def test_a_schema_that_is_cut_off_while_thinking_is_not_judged() -> None:
    client = FakeClient(lambda _path, _body: chat("", finish_reason="length"))

    assert "unknown" == (await probe_json_schema(client, {"model": "m"}, "max_tokens")).state


@pytest.mark.parametrize(
    ("answer", "expected"), [(no(400), "refused"), (no(500), "refused"), (no(429), "unknown"), (no(503), "unknown")]
)
async def test_an_illness_is_no_refusal(answer: Heard, expected: str) -> None:
    """What a rate limit or an outage kept back is unknown, and never remembered as a lack."""
    client = FakeClient(lambda _path, _body: answer)

    assert expected == (await probe_json_schema(client, {}, None)).state
    assert expected == (await probe_logprobs(client, {})).state
    assert expected == (await probe_seed(client, {})).state
    assert expected == (await probe_prompt_logprobs(client, {}, "m")).state


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a", "a", "b"], Finding("yes")),
        (["a", "a", "a"], Finding("yes", "with another seed too")),
        (["a", "b", "a"], Finding("accepted", "two answers with one seed differ")),
        (["", "", ""], Finding("accepted", "the answers were empty")),
    ],
)
async def test_a_seed_is_repeatable_when_it_repeats(texts: list[str], expected: Finding) -> None:
    left = iter(texts)
    client = FakeClient(lambda _path, _body: chat(next(left)))

    assert expected == await probe_seed(client, {"model": "m"})
    assert [(1, 7), (1, 7), (1, 8)] == [(body["temperature"], body["seed"]) for body in client.bodies]


# ----------------------------------------------------------------------------------------------- prompt logprobs

_SPLIT = re.compile(r" ?[^ ]+")
_TRUTH = -0.03


def scoring(path: str, body: Body, *, shift: int = 0, knows_echo: bool = True, knows_prompt: bool = False) -> Heard:
    """A completions server; `shift` 1 scores each token with the place of its neighbour, as a real one does."""
    if path != "/completions":
        return no(400)
    words = _SPLIT.findall(body["prompt"])
    scores = [None, *(-1.0 - at for at in range(len(words) - 2)), _TRUTH, -9.0][shift : shift + len(words)]
    answer = {"text": " dog"}
    if body.get("echo") and knows_echo:
        both = [*words, "."], [*scores, -0.5]
        return heard({"choices": [{**answer, "logprobs": {"tokens": both[0], "token_logprobs": both[1]}}]})
    if "prompt_logprobs" in body and knows_prompt:
        entries = [
            None if score is None else {str(at): {"logprob": score, "decoded_token": word}, "9": {"logprob": -0.001, "decoded_token": "."}}  # noqa: E501
            for at, (word, score) in enumerate(zip(words, scores, strict=True))
        ]  # fmt: skip
        return heard({"choices": [{**answer, "prompt_logprobs": entries}]})
    return heard({"choices": [{**answer, "logprobs": {"tokens": [" dog"], "token_logprobs": [_TRUTH]}}]})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "yes"),
        ({"shift": 1}, "untrustworthy"),
        ({"knows_echo": False}, "refused"),
        ({"knows_echo": False, "knows_prompt": True}, "yes"),
        ({"knows_echo": False, "knows_prompt": True, "shift": 1}, "untrustworthy"),
    ],
)
async def test_prompt_logprobs_are_believed_only_after_the_check(options: dict[str, Any], expected: str) -> None:
    """A server that is off by one position gave a perplexity of 55,009 for a text of 19.76."""
    client = FakeClient(lambda path, body: scoring(path, body, **options))

    found = await probe_prompt_logprobs(client, {"model": "m"}, "m")

    assert expected == found.state
    assert "The quick brown fox jumps over the lazy dog" == client.bodies[1]["prompt"]


async def test_prompt_logprobs_of_chats_alone_stay_unverified() -> None:
    entries = [None, {"1": {"logprob": -1.0, "decoded_token": "OK"}}]
    client = FakeClient(
        lambda path, _body: (
            no(404)
            if path == "/completions"
            else heard({"choices": [{"message": {"content": "OK"}}], "prompt_logprobs": entries})
        )
    )

    assert "unverified" == (await probe_prompt_logprobs(client, {"model": "m"}, "m")).state


# ---------------------------------------------------------------------------------------------- one whole probing


async def probe(
    server: Loopback,
    *keys: str | None,
    params: Body | None = None,
    base_url: str | None = None,
    patience_s: float = 20.0,
    timeout_s: float = 10.0,
) -> tuple[KeyFindings, ...]:
    """All findings about a server on loopback, keys named by themselves."""
    target = Target(base_url or server.base_url, "gpt-4.1-nano", params or {}, timeout_s)
    probed = await probe_provider(
        target,
        keys or ("k1",),
        digest=str,
        clock=SystemClock(),
        mask=lambda text: text.replace("k1", "***"),
        patience_s=patience_s,
    )
    assert probed.tally.calls == len(server.asked)
    return probed.entries


def listed(*names: str) -> Said:
    return Said(body={"object": "list", "data": [{"id": name, "owned_by": "house"} for name in names]})


async def test_a_plain_server_is_known_in_a_dozen_calls() -> None:
    """The calls of one key cost next to nothing, and none goes out without a bound on its answer."""

    def answer(asked: Asked) -> Said:
        if asked.path == "/v1/models":
            return listed("gpt-4.1-nano", "other")
        return echo(asked) if asked.path == "/v1/chat/completions" else Said(404, b"not found")

    with Loopback(answer) as server:
        (entry,) = await probe(server)

    assert (None, "yes", 2, "served-model") == (
        entry.failure,
        entry.listed.state,
        entry.models_count,
        entry.served_model,
    )
    assert ("fp_1", "yes", "ignored") == (entry.system_fingerprint, entry.usage.state, entry.json_schema.state)
    assert entry.server is not None
    assert entry.server.endswith("model owned by house")
    assert len(server.asked) <= 13
    bodies = [asked.body for asked in server.asked if asked.body]
    assert all(body.get("max_completion_tokens", body.get("max_tokens", 999)) <= 200 for body in bodies)


async def test_an_answer_too_short_to_tell_is_asked_for_once_more() -> None:
    """Answers are drawn by chance: a small model stops early now and then, and its limit would stay unknown."""
    shorts = iter(["one two"])

    def answer(asked: Asked) -> Said:
        if asked.path != "/v1/chat/completions":
            return Said(404, b"not found")
        usage = {"prompt_tokens": 10, "completion_tokens": 16, "total_tokens": 26}
        return completion(text) if (text := next(shorts, None)) else completion("one " * 16, usage=usage)

    with Loopback(answer) as server:
        (entry,) = await probe(server)

    assert ("yes", "yes") == (entry.max_completion_tokens.state, entry.max_tokens.state)


async def test_a_list_of_models_without_its_object_is_read() -> None:
    with Loopback(lambda a: Said(body=[{"id": "gpt-4.1-nano"}]) if a.body is None else completion("x")) as server:
        (entry,) = await probe(server)

    assert "yes" == entry.listed.state


async def test_no_list_of_models_is_no_fault() -> None:
    with Loopback(lambda a: Said(404, b"not found") if a.body is None else completion("x")) as server:
        (entry,) = await probe(server)

    assert (None, "unknown") == (entry.failure, entry.listed.state)


async def test_a_refused_key_is_asked_no_further() -> None:
    """Two calls, not a dozen: a provider may lock whoever knocks too often."""

    def answer(asked: Asked) -> Said:
        if asked.authorization == "Bearer k1":
            return Said(401, {"error": {"message": "Incorrect API key provided: k1"}})
        return listed("gpt-4.1-nano") if asked.body is None else completion("x")

    with Loopback(answer) as server:
        bad, good = await probe(server, "k1", "k2")

    assert bad.failure is not None
    assert ("auth", "HTTP 401: Incorrect API key provided: ***") == (bad.failure.kind, bad.failure.words)
    assert good.is_working
    assert 2 == sum(asked.authorization == "Bearer k1" for asked in server.asked)


async def test_without_a_key_no_authorization_is_sent() -> None:
    with Loopback(lambda a: listed("x") if a.body is None else completion("x")) as server:
        (entry,) = await probe(server, None)

    assert entry.is_working
    assert {""} == {asked.authorization for asked in server.asked}


async def test_two_calls_at_once_and_never_more() -> None:
    """A probe must not be the reason for a 429, however many keys there are."""
    at_work, most = [], []
    never = threading.Event()

    def answer(asked: Asked) -> Said:
        at_work.append(1)
        most.append(len(at_work))
        never.wait(0.02)
        at_work.pop()
        return listed("x") if asked.body is None else completion("x")

    with Loopback(answer) as server:
        await probe(server, "k1", "k2", "k3")

    assert 2 == max(most)


async def test_what_is_open_when_the_time_is_up_stays_unknown() -> None:
    """A server that stalls on one field costs the doctor its patience and nothing that it knew."""
    over = threading.Event()

    def answer(asked: Asked) -> Said:
        if asked.body is not None and "response_format" in asked.body:
            over.wait(10)
        return listed("x") if asked.body is None else completion("x")

    with Loopback(answer) as server:
        (entry,) = await probe(server, patience_s=0.8)
        over.set()

    assert (None, "yes", "unknown") == (entry.failure, entry.usage.state, entry.json_schema.state)


async def test_a_server_that_never_answers_is_a_failure_not_a_wait() -> None:
    over = threading.Event()

    def answer(asked: Asked) -> Said:
        over.wait(10)
        return completion("x")

    with Loopback(answer) as server:
        (entry,) = await probe(server, timeout_s=0.2)
        over.set()

    assert entry.failure is not None
    assert "timeout" == entry.failure.kind


async def test_a_short_429_is_waited_out() -> None:
    """A key at its rate limit works; the probe comes back when it was told to."""

    def answer(asked: Asked) -> Said:
        if asked.number in (2, 3):
            return Said(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "20"})
        return listed("x") if asked.body is None else completion("x")

    with Loopback(answer) as server:
        (entry,) = await probe(server)

    assert entry.is_working


async def test_the_clocks_are_compared_by_the_date() -> None:
    """An hour apart, and a round trip of nothing."""
    late = {"Date": formatdate(time.time() + 3600, usegmt=True)}

    class Late(Loopback):
        """The base class of the server writes a date of its own first; the last one of two counts for nobody."""

        def _handler(self) -> Any:
            handler = super()._handler()
            handler.date_time_string = lambda _self, timestamp=None: late["Date"]
            return handler

    with Late(lambda a: listed("x") if a.body is None else completion("x")) as server:
        (entry,) = await probe(server)

    assert entry.clock_skew_s is not None
    assert entry.clock_error_s is not None
    assert abs(entry.clock_skew_s - 3600) <= entry.clock_error_s + 1


async def test_the_address_with_v1_is_tried_once() -> None:
    page = Said(200, b"<!doctype html><html></html>", {"content-type": "text/html"})

    with Loopback(lambda a: completion("x") if a.path.startswith("/v1/") else page) as server:
        (entry,) = await probe(server, base_url=server.base_url.removesuffix("/v1"))

    assert entry.failure is not None
    assert "bad_request" == entry.failure.kind
    assert f"{server.base_url} answers; write base_url: {server.base_url}" == entry.failure.hint
    assert ["/v1/chat/completions"] == [asked.path for asked in server.asked if asked.path.startswith("/v1")]


async def test_a_redirect_is_named_without_its_query_and_not_followed() -> None:
    with Loopback() as other:
        target = f"{other.base_url}/login?session=abcdef"
        with Loopback(lambda _: Said(302, b"", {"location": target})) as server:
            (entry,) = await probe(server)

    assert entry.failure is not None
    assert entry.failure.hint is not None
    assert f"redirects to {other.base_url}/login;" in entry.failure.hint
    assert "abcdef" not in entry.failure.hint
    assert [] == other.asked


async def test_a_wrong_model_is_told_the_nearest_names() -> None:
    def answer(asked: Asked) -> Said:
        if asked.body is None:
            return listed("gpt-4.1-nano-2025-04-14", "whisper-1")
        return Said(404, {"error": {"message": "The model `gpt-4.1-nano` does not exist", "code": "model_not_found"}})

    with Loopback(answer) as server:
        (entry,) = await probe(server)

    assert entry.failure is not None
    assert "did you mean gpt-4.1-nano-2025-04-14?" == entry.failure.hint
    assert "missing" == entry.listed.state


async def test_the_jobs_own_parameters_are_tried_as_they_are() -> None:
    def answer(asked: Asked) -> Said:
        if asked.body is None:
            return listed("x")
        if "top_k" in asked.body:
            return Said(400, {"error": {"message": "Unrecognized request argument supplied: top_k"}})
        return completion("x")

    with Loopback(answer) as server:
        (entry,) = await probe(server, params={"top_k": 5, "temperature": 0})

    assert entry.is_working
    words = "HTTP 400: Unrecognized request argument supplied: top_k; remove params.top_k"
    assert Finding("refused", words) == entry.params
