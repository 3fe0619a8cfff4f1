"""Retry-After in every form that servers send, and the pause of a key."""

import random
import time

import pytest

from batcher.limits.pause import Pause, parse_limit_reset, parse_retry_after, parse_retry_words

NOW = 784_111_767.0  # Sun, 06 Nov 1994 08:49:27 GMT


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"retry-after": "7"}, 7.0, id="seconds"),
        pytest.param({"Retry-After": "7"}, 7.0, id="as HTTP/1.1 writes it"),
        pytest.param({"RETRY-AFTER": " 0.25 "}, 0.25, id="a fraction, shouted"),
        pytest.param({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, id="milliseconds first"),
        pytest.param({"retry-after-ms": "soon", "retry-after": "9"}, 9.0, id="unreadable milliseconds"),
        pytest.param({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 10.0, id="date"),
        pytest.param({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT"}, 10.0, id="date of RFC 850"),
        pytest.param({"retry-after": "Sun Nov  6 08:49:37 1994"}, 10.0, id="date of asctime"),
        pytest.param(
            {"retry-after": "Sun, 06 Nov 1994 09:49:37 GMT", "date": "Sun, 06 Nov 1994 09:49:07 GMT"},
            30.0,
            id="date, and a server whose clock is an hour ahead",
        ),
        pytest.param({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "x"}, 10.0, id="unreadable server date"),
        pytest.param({"retry-after": "Sun, 06 Nov 1994 08:00:00 GMT"}, 0.0, id="date in the past"),
        pytest.param({"retry-after": "-5"}, 0.0, id="negative"),
        pytest.param({"retry-after": "0"}, 0.0, id="zero"),
        pytest.param({"retry-after": "999999999999"}, 86_400.0, id="31,000 years"),
        pytest.param({"retry-after": "9" * 400}, 86_400.0, id="more than a float holds"),
        pytest.param({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0, id="the last date"),
        pytest.param({"retry-after": "nan"}, None, id="nan"),
        pytest.param({"retry-after": "inf"}, None, id="inf"),
        pytest.param({"retry-after": "1_0"}, None, id="python's digits"),
        pytest.param({"retry-after": "๗"}, None, id="Thai seven"),
        pytest.param({"retry-after": "1e3"}, None, id="exponent"),
        pytest.param({"retry-after": ""}, None, id="empty"),
        pytest.param({"retry-after": "tomorrow, maybe"}, None, id="words"),
        pytest.param({"retry-after": "Sun, 99 Foo 1994 08:49:37 GMT"}, None, id="no such date"),
        pytest.param({"retry-after": "Sun, 06 Nov 99999999999 08:49:37 GMT"}, None, id="no such year"),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    """Read wrongly it is a minute lost, or a ban."""
    assert wait_s == parse_retry_after(headers, NOW)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1m30.5s", "x-ratelimit-remaining-tokens": "0"}, 90.5),
        ({"X-RateLimit-Reset-Tokens": "250ms"}, 0.25),
        ({"x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-requests": "59"}, None),
        ({"x-ratelimit-reset-requests": "1h2m3s", "x-ratelimit-remaining-requests": "0",
          "x-ratelimit-reset-tokens": "5s", "x-ratelimit-remaining-tokens": "0"}, 3723.0),
        ({"x-ratelimit-reset-requests-day": "33011.5", "x-ratelimit-remaining-requests-day": "0"}, 33011.5),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}, 30.0),
        ({"ratelimit": '"minute";r=5;t=9, "day";r=0;t=77'}, 77.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "784111827000"}, 60.0),
        ({"x-ratelimit-reset": "1784111777", "date": "Tue, 15 Jul 2026 10:36:07 GMT"}, 10.0),
        ({"x-ratelimit-reset": "1784111777"}, 86_400.0),
        ({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "1994-11-06T08:50:27Z",
          "anthropic-ratelimit-tokens-remaining": "9", "anthropic-ratelimit-tokens-reset": "1994-11-06T09:50:27Z"},
         60.0),
        ({"anthropic-ratelimit-tokens-reset": "1994-11-06T08:00:00Z"}, 0.0),
        ({"x-ratelimit-reset": "400h"}, 86_400.0),
        ({"x-ratelimit-reset": "9" * 400}, 86_400.0),
        ({"x-ratelimit-reset": "nan"}, None),
        ({"x-ratelimit-reset": "-5"}, 0.0),
        ({"x-ratelimit-reset": "1e3"}, None),
        ({"x-ratelimit-reset": "๗s"}, None),
        ({"x-ratelimit-reset": "5 apples"}, None),
        ({"x-ratelimit-reset": "0001-01-01T00:00:00"}, 0.0),
        ({"x-ratelimit-reset": "9999-12-31T23:59:59+00:00"}, 86_400.0),
        ({f"x-ratelimit-reset-{number}": "7s" for number in range(10_000)}, 7.0),
    ],
)  # fmt: skip
def test_a_used_up_limit_says_when_it_is_whole_again(headers: dict[str, str], wait_s: float | None) -> None:
    """A daily limit without a Retry-After is waited for until it resets, and never longer than a day."""
    assert wait_s == parse_limit_reset(headers, NOW)


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Please try again in 7m12s. Visit https://platform.openai.com", 432.0),
        ("try again in 20s", 20.0),
        ("Please retry in 37.2s.", 37.2),
        ("Please retry after 24 seconds.", 24.0),
        ("Try again in 1 hour and 5 minutes", 3900.0),
        ("please try again after 1 seconds", 1.0),
        ("try again in 250ms", 0.25),
        ("Daily free limit reached. Try again in 2h 16m", 8160.0),
        ('"retryDelay": "37s"', 37.0),
        ("请 20 秒后重试", 20.0),
        ("请在 1 分钟后再试", 60.0),
        ("Please try again in 999999999999h", 86_400.0),
        ("try again later", None),
        ("retry in 5 more lines", None),
        ("try again in 3 months", None),
        ("wait for 3 models", None),
        ("try again in ๗s", None),
        ("", None),
    ],
)
def test_words_that_name_a_wait_are_read(words: str, wait_s: float | None) -> None:
    assert wait_s == parse_retry_words(words)


@pytest.mark.parametrize("words", ["try again in " * 9000, "wait " * 9000, "1 s " * 9000, "retryDelay" + '"' * 90_000])
def test_hostile_words_take_no_time(words: str) -> None:
    started_s = time.perf_counter()
    assert parse_retry_words(words) is None
    assert time.perf_counter() - started_s < 0.5


def pause() -> Pause:
    return Pause(random.Random(3))


def test_a_pause_only_grows() -> None:
    """A later 429 with a shorter wait does not let anyone go early."""
    rest = pause()
    rest.pause_until(20.0)
    rest.pause_until(15.0)
    assert 10.0 == rest.remaining_s(10.0)
    assert 0.0 == rest.remaining_s(20.0)
    assert 0.0 == rest.remaining_s(99.0)


def test_what_the_provider_says_is_kept_to_the_second() -> None:
    """Neither sooner nor later."""
    rest = pause()
    rest.refused(100.0, started=99.0, retry_after_s=9.0)
    assert 9.0 == rest.remaining_s(100.0)


@pytest.mark.parametrize("retry_after_s", [None, 0.0])
def test_unnamed_pauses_double_up_to_a_minute(retry_after_s: float | None) -> None:
    """0 names nothing: a 429 costs no attempt, and obeying it would ask for ever."""
    rest, now, waits = pause(), 0.0, []
    for _ in range(10):
        rest.refused(now + 0.1, started=now, retry_after_s=retry_after_s)
        waits.append(rest.remaining_s(now + 0.1))
        now += 0.2 + waits[-1]
    for number, wait_s in enumerate(waits):
        longest_s = min(60.0, 2.0**number)
        assert longest_s / 2 <= wait_s <= longest_s


def test_a_hundred_rows_refused_at_once_are_one_refusal() -> None:
    """Else one burst of 429s would make an hour."""
    rest = pause()
    for number in range(100):
        rest.refused(10.0 + number / 1000, started=9.0, retry_after_s=None)
    assert rest.remaining_s(10.1) <= 1.0


def test_only_a_success_that_started_after_the_refusal_ends_the_episode() -> None:
    """Answers that were on their way say nothing about the limit."""
    rest = pause()
    for now in (10.0, 20.0, 30.0):
        rest.refused(now, started=now - 0.5, retry_after_s=None)
    rest.succeeded(started=29.0)
    rest.refused(50.0, started=49.0, retry_after_s=None)
    assert rest.remaining_s(50.0) >= 4.0
    rest.succeeded(started=60.0)
    rest.refused(70.0, started=69.0, retry_after_s=None)
    assert rest.remaining_s(70.0) <= 1.0
