"""Bodies out, responses in: exact for those who keep the protocol, lenient for those who nearly do."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.core.records import Usage
from batcher.providers.wire import ChatWire, decode_completion, error_text

TEXTS = st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = TEXTS.filter(lambda name: name not in ("model", "messages", "response_format"))


def completion(message=None, **fields) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "a", **(message or {})}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **fields}).encode()


def used(**usage):
    return decode_completion(completion(usage=usage)).usage


@given(TEXTS, st.dictionaries(NAMES, VALUES, max_size=4), st.lists(VALUES), st.dictionaries(TEXTS, VALUES, max_size=2))
def test_the_spliced_body_is_the_json_of_its_parts(model, params, messages, response_format) -> None:
    """Whatever the model is called and whatever the parameters hold."""
    wire = ChatWire(model, params, response_format)
    encoded = msgspec.json.encode(messages)

    plain = json.loads(wire.body(encoded, with_format=False))
    with_format = json.loads(wire.body(encoded, with_format=True))

    assert {"model": model, **params, "messages": messages} == plain
    assert {"model": model, **params, "messages": messages, "response_format": response_format} == with_format


def test_the_users_own_response_format_wins() -> None:
    wire = ChatWire("m", {"response_format": {"type": "json_object"}}, {"type": "json_schema"})

    assert not wire.has_format
    for with_format in (True, False):
        assert {"type": "json_object"} == json.loads(wire.body(b"[]", with_format=with_format))["response_format"]


def test_parameters_that_yaml_gives_numbers_for_names_become_text() -> None:
    assert {"1234": -100} == json.loads(
        ChatWire("m", {"logit_bias": {1234: -100}}, None).body(b"[]", with_format=False)
    )["logit_bias"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "ตอบ trả lời 回答 🙂"}, "ตอบ trả lời 回答 🙂"),
        ({"content": ""}, ""),
        ({"content": None}, None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, {"text": "b"}]}, "ab"),
        ({"content": ["a", {"text": "b"}, 3]}, "ab"),
        ({"content": []}, ""),
        ({"content": {"label": "x"}}, '{"label":"x"}'),
        ({"content": 7}, "7"),
        ({"content": True}, "true"),
    ],
)
def test_content_comes_in_many_shapes(message, text) -> None:
    assert text == decode_completion(completion(message)).text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_read_under_both_names(name: str) -> None:
    assert "because" == decode_completion(completion({name: "because"})).reasoning


def test_a_reasoning_object_is_left_out_and_the_answer_kept() -> None:
    read = decode_completion(completion({"reasoning": {"steps": [1]}, "reasoning_content": ""}))
    assert ("a", None) == (read.text, read.reasoning)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(10, 0, 2, 0)),
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4},
             "completion_tokens_details": {"reasoning_tokens": 1}}, Usage(10, 4, 2, 1),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 6}, Usage(10, 6, 2, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(10, 0, 2, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": []}, Usage(10, 0, 2, 0)),
        ({"prompt_tokens": "10", "completion_tokens": 2.0}, Usage(10, 0, 2, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0, 0, 0)),
        # xAI: 10 + 2 + 30 of reasoning that is not in completion_tokens; Gemini names no part at all.
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 42,
             "completion_tokens_details": {"reasoning_tokens": 30}}, Usage(10, 0, 32, 30),
        ),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, Usage(20, 0, 603, 0)),
        ({"prompt_tokens": "20", "completion_tokens": "198", "total_tokens": "623"}, Usage(20, 0, 603, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 0}, Usage(10, 0, 2, 0)),
        ({"prompt_tokens": 10, "completion_tokens": -2, "total_tokens": 12}, None),
        ({"prompt_tokens": 10, "completion_tokens": None}, None),
        ({"prompt_tokens": 10}, None),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": "-1", "completion_tokens": 2}, None),
        ({"prompt_tokens": 10**12, "completion_tokens": 2}, None),
        ({"prompt_tokens": 10**40, "completion_tokens": 2}, None),
        ({"prompt_tokens": "9" * 5000, "completion_tokens": 2}, None),
        ({"prompt_tokens": "٣", "completion_tokens": 2}, None),
        ({"prompt_tokens": {}, "completion_tokens": []}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_usage_is_whole_and_possible_or_unknown(usage, expected) -> None:
    """Half a usage would book half a price; an unknown one is booked as unknown. The answer stays either way."""
    assert expected == used(**usage)


@pytest.mark.parametrize("usage", ["none", 5, [1], "12"])
def test_usage_that_is_no_object_is_unknown(usage) -> None:
    read = decode_completion(completion(usage=usage))
    assert ("a", None) == (read.text, read.usage)


@pytest.mark.parametrize(
    ("error", "words"),
    [({"message": "upstream", "code": 502}, "upstream"), ("plain words", "plain words"), ({"detail": "d"}, "d"),
     ({"message": {"deep": 1}}, '{"message":{"deep":1}}'), ([1], "[1]"), (5, "5"), ({"message": ""}, '{"message":""}')],
)  # fmt: skip
def test_an_error_inside_200_is_told_in_its_words(error, words: str) -> None:
    read = decode_completion(json.dumps({"error": error, "choices": None}).encode())
    assert (words, False) == (read.error, read.has_choice)


def test_a_warning_beside_an_answer_is_no_error() -> None:
    read = decode_completion(completion(error={"message": "deprecated"}))
    assert ("a", None) == (read.text, read.error)


@pytest.mark.parametrize("value", [{"x": "\ud83d"}, {"x": 10**400}, {"x": float("nan")}, object(), {"x": {1, 2}}])
def test_an_error_that_json_cannot_say_is_still_told(value) -> None:
    """The SDK reads bodies with Python's json, which knows half characters and endless numbers."""
    assert isinstance(error_text(value), str)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"<!DOCTYPE html>", "HTML page"),
        (b"data: {}\n\n", "event stream"),
        (b'{"choices":[{"mess', "cut or invalid JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"null", "not JSON"),
        (b"[1]", "cut or invalid"),
        (b'{"choices": 5, "x": ', "cut or invalid"),
        (b'{"choices": 5, "x": "\xff"}', "cut or invalid"),
        (b'{"choices":[{"message":{"content":1e999}}]}', "cut or invalid"),
        (b'{"error":' + b"[" * 100_000, "cut or invalid"),
        (b'{"x":' + b"[" * 100_000, "cut or invalid"),
        (b'{"choices":5,"error":' + b"[" * 500_000 + b"]" * 500_000 + b"}", "cut or invalid"),
    ],
)
def test_what_is_no_completion_says_what_it_looks_like(body: bytes, words: str) -> None:
    """As a ValueError and nothing else: another exception would end the run as a fault of ours."""
    with pytest.raises(ValueError, match=words):
        decode_completion(body)


JUNK = st.one_of(
    st.binary(max_size=40),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("choices", "usage", "model", "error"), VALUES))
    .map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(["content", "refusal", "reasoning", "reasoning_content"]), VALUES)
    .map(completion),
    st.integers(0, 200).map(lambda cut: completion({"content": ["x"]}, usage={"prompt_tokens": "1"})[:cut]),
)  # fmt: skip


@given(JUNK)
def test_any_body_is_read_or_refused_by_value_error(body: bytes) -> None:
    try:
        read = decode_completion(body)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = None
        assert read.text is None or isinstance(read.text, str)
        assert read.usage is None or min(msgspec.structs.astuple(read.usage)) >= 0

    assert refusal is None or "response is" in refusal
