"""The openai package is the measure of how an error is read, and of how a key travels."""

import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.providers.error_body import ErrorBody, read_error_body
from batcher.providers.exchange import chat_headers
from batcher.providers.failures import StatusFailed

CLIENT = openai.OpenAI(api_key="sk-secret-0123456789", base_url="http://127.0.0.1/v1")

WORDS = st.text(max_size=12) | st.sampled_from(
    ["", "ยอดเงินไม่พอ", "hết tiền", "余额不足", "\ud83d", "insufficient_quota"]
)
NAMES = st.none() | st.booleans() | st.integers() | WORDS
ERRORS = st.fixed_dictionaries(
    {}, optional={"message": WORDS, "code": NAMES, "type": NAMES, "param": NAMES, "detail": st.lists(WORDS)}
)
VALUES = ERRORS | st.lists(ERRORS, max_size=2) | NAMES
BODIES = VALUES | st.fixed_dictionaries({"error": VALUES}, optional={"code": NAMES, "message": WORDS})


def by_the_sdk(status: int, content: bytes, headers: dict[str, str]) -> openai.APIStatusError:
    response = httpx2.Response(status, content=content, headers=headers, request=httpx2.Request("POST", "http://x"))
    return CLIENT._make_status_error_from_response(response)


def assert_read_alike(content: bytes, headers: dict[str, str]) -> None:
    read = read_error_body(StatusFailed(429, headers, content))
    meant = by_the_sdk(429, content, headers)

    # NaN is not equal to itself.
    assert repr(meant.body) == repr(read.said)
    assert (meant.code or "", str(meant.type or "")) == (read.code, read.type)
    assert (meant.param if isinstance(meant.param, str) else "") == read.param


@given(BODIES)
def test_json_is_read_as_the_sdk_reads_it(body: Any) -> None:
    """Whatever a provider sends: what `error.body`, `.code`, `.type` and `.param` would be."""
    assert_read_alike(json.dumps(body).encode(), {"content-type": "application/json"})


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_read_as_the_sdk_reads_them(content: bytes) -> None:
    assert_read_alike(content, {})


@pytest.mark.parametrize(
    "charset", ["gb2312", "GB18030", "big5", "shift_jis", "tis-620", "windows-1258", "utf-16", "no-such"]
)
def test_a_page_in_another_charset_is_read_as_the_sdk_reads_it(charset: str) -> None:
    """Gateways in China still send GB 2312."""
    text = {"tis-620": "ยอดเงินไม่พอ", "windows-1258": "Ti ên", "big5": "餘額", "shift_jis": "残高"}.get(charset, "余额")
    encoded = "utf-8" if charset == "no-such" else charset
    assert_read_alike(text.encode(encoded), {"content-type": f"text/html; charset={charset}"})


def test_what_cannot_be_read_is_its_text() -> None:
    deep = b"[" * 100_000
    assert ErrorBody(deep.decode(), "", "", "") == read_error_body(StatusFailed(500, {}, deep))
    assert ErrorBody("", "", "", "") == read_error_body(StatusFailed(500, {}, b""))
    assert ErrorBody("\ufffd", "", "", "") == read_error_body(
        StatusFailed(500, {"content-type": "x; charset="}, b"\xff")
    )


def test_a_charset_that_takes_minutes_is_not_believed() -> None:
    """Python knows `punycode`, whose time grows with the square of the text."""
    content = b"a" * 200_000
    assert content.decode() == read_error_body(StatusFailed(500, {"content-type": "x; charset=punycode"}, content)).said


@pytest.mark.parametrize("key", ["sk-secret-0123456789", "x"])
def test_the_fast_client_sends_the_key_as_the_sdk_does(key: str) -> None:
    sdk = openai.AsyncOpenAI(api_key=key, base_url="http://127.0.0.1/v1").auth_headers
    ours = chat_headers(key)

    assert {"Authorization": f"Bearer {key}"} == sdk
    assert sdk.items() <= ours.items()
    assert "Authorization" not in chat_headers(None)
