"""Retry-After in every form that servers send, and the pause of a key."""

import random

import pytest

from batcher.limits.pause import Pause, parse_retry_after

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
