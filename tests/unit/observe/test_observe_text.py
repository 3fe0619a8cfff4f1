"""Text from outside: harmless in a terminal, and without secrets."""

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from batcher.observe.text import Masker, cells, clean, cut, mask, without_controls

SECRET = "p/ss+wörd=Zq81xY"


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;your terminal is mine\x07hello", "hello"),
        ("\x1b]52;c;cm0gLXJmIC8=\x07paste me", "paste me"),
        ("\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\ here", "click here"),
        ("\x1bP1$q\x1b\\device", "device"),
        ("\x9b2Jcleared", "cleared"),
        ("\x9d0;title\x9crest", "rest"),
        ("\x1bcreset", "reset"),
        ("50 %\rerror: none", "50 % error: none"),
        ("a\r\nb\nc\u2028d\x85e", "a b c d e"),
        ("abc\u202edcba\u202c \u2066x\u2069", "abcdcba x"),
        ("back\b\b\b\bspace\x00\x7f", "backspace"),
        ("\x1b\x1b[31m[31mnested", "[31mnested"),
        ("\x1b]52;c;never ended", "52;c;never ended"),
        ("in\u2060vis\ufeffible\U000e0041", "invisible"),
        ("zero\u200bwidth \u3164\u115ffillers \u034f\U000e0041", "zerowidth fillers"),
        ("می\u200cخواهم 👩\u200d👧 ❤\ufe0f ก้ำ ความ", "می\u200cخواهم 👩\u200d👧 ❤\ufe0f ก้ำ ความ"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("  many   spaces\t\tand tabs ", "many spaces and tabs"),
        ("ที่ hỗ trợ 工单 👍🏽 [bold]", "ที่ hỗ trợ 工单 👍🏽 [bold]"),
    ],
)
def test_hostile_text_becomes_one_harmless_line(hostile: str, shown: str) -> None:
    """Nothing that a provider says may move the cursor, reach the clipboard or turn the reading direction."""
    assert shown == clean(hostile)


@given(st.text() | st.text(alphabet="\x1b[]\x9b\x07\\;?0m\r\n\u202e\u200dก้ำ工é👨👩a"), st.integers(0, 20))
def test_clean_keeps_its_promise_for_any_text(text: str, width: int) -> None:
    """No control character comes through, and no line is wider than asked, by either way to count."""
    shown = clean(text, width)

    assert not [c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
    assert cells(shown) <= width
    assert cell_len(shown) <= width
    shown.encode()


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("tickets", 7, "tickets"),
        ("tickets", 6, "ticke…"),
        ("ตั๋วที่น้ำ", 5, "ตั๋วที่น้ำ"),
        ("ตั๋วที่น้ำนะ", 5, "ตั๋วที่…"),
        ("ตั๋วที่", 3, "ตั๋วที่"),
        ("ตั๋วที่น", 3, "ตั๋ว…"),
        ("工单分类", 8, "工单分类"),
        ("工单分类", 7, "工单分…"),
        ("工单分类", 6, "工单…"),
        ("hỗ trợ", 5, "hỗ t…"),
        ("ab cd", 4, "ab…"),
        ("x", 0, ""),
        ("👍🏽👍🏽", 5, "👍🏽…"),
    ],
)
def test_cut_respects_what_is_read_as_one_character(text: str, width: int, shown: str) -> None:
    """A Thai consonant without its tone mark is another word, half a wide character is a broken line."""
    assert shown == cut(text, width)


def test_a_flood_of_marks_is_thinned() -> None:
    """Hundreds of marks on one letter would paint over the lines around it."""
    assert len(cut("e" + "\u0301" * 500, 10)) <= 12


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET),
        quote_plus(SECRET),
        quote(SECRET, safe="").replace("%2F", "%2f").replace("%3D", "%3d"),
        json.dumps(SECRET)[1:-1],
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f":{SECRET}".encode()).decode(),
        base64.b64encode(f"user:{SECRET}".encode()).decode(),
        base64.b64encode(f"me:{SECRET}:x".encode()).decode(),
        base64.urlsafe_b64encode(f"api:{SECRET}".encode()).decode(),
    ],
)
def test_a_known_secret_is_masked_in_every_form(form: str) -> None:
    """A provider repeats the header as it came, a proxy the URL, a library its own representation."""
    masked = mask(f"the server said: <{form}>", [SECRET])

    assert masked.startswith("the server said: <")
    assert "***" in masked
    assert form[4:-4] not in masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Incorrect API key provided: sk-abcDEF0123456789.", "Incorrect API key provided: ***."),
        ("key sk-proj-ab_cd-1234567890 refused", "key *** refused"),
        ("token hf_AbCdEfGhIjKlMnOp", "token ***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("AIzaSyA1234567890abcdefghij", "***"),
        ("ghp_0123456789abcdefghij and gsk_0123456789abcdef", "*** and ***"),
        ("Authorization: Bearer abc.def-123", "Authorization: ***"),
        ("{'authorization': 'Basic dXNlcjpwYXNz', 'a': 1}", "{'authorization': '***', 'a': 1}"),
        ("sent Bearer abcd1234 twice", "sent Bearer *** twice"),
        ("https://me:passw0rd@proxy.example/v1", "https://***@proxy.example/v1"),
        ("?api_key=abcdefgh&x=1", "?api_key=***&x=1"),
        ('{"x-api-key": "abcdefgh"}', '{"x-api-key": "***"}'),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_", "***"),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    """Keys that nobody named get into messages too."""
    assert masked == mask(text, [])


@pytest.mark.parametrize(
    "text",
    [
        "task-management-system is risk-averse",
        "and/or-combinations; basic understanding; Bearer authentication needed",
        "column sk_customer_id is missing",
        "http://localhost:8080/v1 at 12:30",
        "model qwen/qwen3-235b-a22b",
        "请求超时: 工单 ตั๋ว",
    ],
)
def test_plain_words_are_not_masked(text: str) -> None:
    """A message full of stars helps nobody at night."""
    assert text == mask(text, [])


def test_a_short_secret_is_masked_only_where_it_stands_alone() -> None:
    """Local servers take any key, often `x`; masking each x would make every message unreadable."""
    assert "expected *** got none" == mask("expected x got none", ["x"])


def test_the_longer_of_two_secrets_leaves_no_rest() -> None:
    """One key may begin like another."""
    assert "a *** b" == mask("a secret-one-two b", ["secret-one", "secret-one-two"])


def test_empty_secrets_mask_nothing() -> None:
    """An unset variable is the empty string, which stands between any two letters."""
    assert "hello" == Masker(["", "  "]).mask("hello")


def test_masking_hostile_text_takes_linear_time() -> None:
    """A megabyte of almost-keys is done in a moment; the suite's timeout is the witness."""
    masker = Masker([SECRET])
    for piece in ("sk-", "://a:", "Bearer ", "authorization:", "eyJaaaaaaaaa.", "\x1b]", "api_key="):
        masker.mask(without_controls(piece * 50_000))
