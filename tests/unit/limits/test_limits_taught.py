"""What response headers teach: the limits of a key where they are sure, and nothing where they are not."""

import random
import time
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.limits.headers import Reading, read_quotas, read_reset
from batcher.limits.taught import HeaderLessons, Lesson
from batcher.simulator.limits import DAY_S, KeyLimits, Limits, go_duration

WALL_S = 1_790_000_000.0


def openai(unit: str, limit: int, remaining: int, reset: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(remaining),
        f"x-ratelimit-reset-{unit}": reset,
    }


def teach(lessons: HeaderLessons, headers: dict[str, str], now_s: float, in_flight: int = 1) -> Lesson | None:
    return lessons.learn(headers, now_s=now_s, wall_s=WALL_S + now_s, in_flight=in_flight)


def bucket(lessons: HeaderLessons, unit: str, limit: int, period_s: float, uses: list[int]) -> Lesson | None:
    """Responses of a server that refills `limit` over `period_s`, with these parts used."""
    lesson = None
    for index, used in enumerate(uses):
        reset_s = period_s * used / limit
        lesson = teach(lessons, openai(unit, limit, limit - used, go_duration(reset_s)), index * 0.1)
    return lesson


def test_a_bucket_of_a_minute_is_told_from_one_of_a_day() -> None:
    """OpenAI sends 500 a minute and 10000 a day in the same header: taken for the other, it is 1,440 times wrong."""
    minute = bucket(HeaderLessons(), "requests", 500, 60, [1, 2, 3, 5, 8, 13, 21])
    day = bucket(HeaderLessons(), "requests", 10_000, DAY_S, [1, 2, 3, 5, 8, 13, 21])
    assert Lesson(500, None, 0.0) == minute
    assert day is None


class FastClientHeaders(dict[str, str]):
    """As the fast client keeps them: a value in UTF-8 cannot be had, neither by its name nor among all."""

    def __getitem__(self, name: str) -> str:
        value = super().__getitem__(name)
        if not value.isascii():
            raise ValueError("failed to convert header to a str")
        return value

    def items(self):
        return [(name, self[name]) for name in self]


def test_a_header_in_utf_8_teaches_nothing_and_stops_nothing() -> None:
    """Gateways write their names and notes as they are spoken; a run must not end by one."""
    headers = FastClientHeaders(
        {
            "x-gateway": "Cổng máy chủ",
            "date": "เสาร์",
            "x-ratelimit-note": "请求过于频繁",
            "x-ratelimit-limit-requests-minute": "30",
            "x-ratelimit-remaining-requests-minute": "29",
        }
    )
    assert Lesson(30, None, 0.0) == teach(HeaderLessons(), headers, 0.0)


def test_groqs_requests_are_a_days_and_its_tokens_a_minutes() -> None:
    lessons, lesson = HeaderLessons(), None
    for index, used in enumerate([1, 3, 6, 10, 20, 40, 60]):
        requests = openai("requests", 14_400, 14_400 - used, go_duration(6.0 * used))
        tokens = openai("tokens", 6_000, 6_000 - 98 * used, go_duration(0.98 * used))
        lesson = teach(lessons, requests | tokens, index * 0.3)
    assert Lesson(None, 6_000, 0.0) == lesson


def test_a_few_readings_name_nothing() -> None:
    """Four that agree may be chance, and so may any number of the same one."""
    assert bucket(HeaderLessons(), "requests", 500, 60, [1, 2, 3, 4]) is None
    assert bucket(HeaderLessons(), "requests", 500, 60, [7] * 30) is None


@pytest.mark.parametrize("period_s", [60.0, 3_600.0, DAY_S, 900.0, 10.0])
@pytest.mark.parametrize("kind", ["bucket", "sliding", "fixed"])
def test_only_a_minute_is_ever_named(kind: str, period_s: float) -> None:
    """Three ways of counting, five windows, traffic that wanders: a minute is found, another never taken for it."""
    limits = Limits(requests_per_day=3_000, day_s=period_s, window=kind)  # type: ignore[arg-type]  # one of the parameters
    meter, lessons, chance = KeyLimits(limits), HeaderLessons(), random.Random(4)
    named, now_s = set[int | None](), 0.0
    for _ in range(6_000):
        now_s += chance.expovariate(2_400 / min(period_s, 3_600.0))
        headers = dict(meter.admit(0, now_s).headers)
        if lessons.wants(now_s):
            lesson = teach(lessons, headers, now_s + chance.uniform(0, 0.5))
            named.add(None if lesson is None else lesson.requests_per_minute)
    assert named <= ({None, 3_000} if period_s == 60.0 else {None})
    assert (3_000 in named) == (period_s == 60.0)


@pytest.mark.parametrize("burst_s", [1.0, 10.0])
def test_a_bucket_that_holds_less_than_the_minute_is_learned(burst_s: float) -> None:
    """6,000 a minute and never more than 100 left: the share that is used says nothing, the differences do."""
    meter, chance = KeyLimits(Limits(requests_per_minute=6_000, burst_s=burst_s)), random.Random(4)
    lessons = HeaderLessons()
    now_s, lesson = 0.0, None
    for _ in range(3_000):
        now_s += chance.expovariate(120)
        lesson = teach(lessons, dict(meter.admit(0, now_s).headers), now_s)
    assert lesson is not None
    assert 6_000 == lesson.requests_per_minute


def test_a_fixed_day_that_is_used_up_at_once_rests_until_its_end() -> None:
    """All 2,000 within minutes: a bucket's time would be nearly a day too, but it comes back bit by bit."""
    meter, lessons, lesson = KeyLimits(Limits(requests_per_day=2_000, window="fixed")), HeaderLessons(), None
    for index in range(2_000):
        lesson = teach(lessons, dict(meter.admit(0, index * 0.1).headers), index * 0.1, in_flight=10)
    assert lesson is not None
    assert DAY_S - 200 == pytest.approx(lesson.rest_s, abs=1)


@pytest.mark.parametrize(
    ("headers", "requests", "tokens"),
    [
        ({"x-ratelimit-limit-requests-minute": "30", "x-ratelimit-limit-tokens-minute": "60000"}, 30, 60_000),
        ({"X-RateLimit-Limit-Req-Minute": "720", "X-RateLimit-Remaining-Req-Minute": "717"}, 720, None),
        ({"x-ratelimit-limit-req-10-second": "10"}, 60, None),
        ({"x-ratelimit-limit-requests-day": "14400", "x-ratelimit-limit-requests-hour": "900"}, None, None),
        ({"x-ratelimit-limit-requests-1h": "33600"}, None, None),
        ({"RateLimit-Limit": "100, 100;w=60", "RateLimit-Remaining": "50", "RateLimit-Reset": "30"}, 100, None),
        ({"RateLimit": "limit=100, remaining=9, reset=30", "RateLimit-Policy": "100;w=60"}, 100, None),
        ({"RateLimit": '"default";r=5;t=3', "RateLimit-Policy": '"default";q=10;w=6'}, 100, None),
        ({"RateLimit": '"d";r=5;t=300', "RateLimit-Policy": '"d";q=5;w=900'}, None, None),
        ({"RateLimit": '"b";r=5;t=3', "RateLimit-Policy": '"b";q=5;w=60;qu="content-bytes"'}, None, None),
    ],
)
def test_a_window_that_is_named_is_taken_at_its_word(
    headers: dict[str, str], requests: int | None, tokens: int | None
) -> None:
    lesson = teach(HeaderLessons(), headers, 0.0)
    assert (requests, tokens) == (
        (None, None) if lesson is None else (lesson.requests_per_minute, lesson.tokens_per_minute)
    )


def test_the_lowest_of_several_limits_is_the_limit() -> None:
    headers = {"x-ratelimit-limit-requests-minute": "500", "x-ratelimit-limit-requests-second": "5"}
    assert Lesson(300, None, 0.0) == teach(HeaderLessons(), headers, 0.0)


def test_a_limit_that_changes_is_learned_again() -> None:
    lessons = HeaderLessons()
    bucket(lessons, "requests", 500, 60, [1, 2, 3, 5, 8, 13])
    assert bucket(lessons, "requests", 5_000, 60, [10, 20]) is None
    assert Lesson(5_000, None, 0.0) == bucket(lessons, "requests", 5_000, 60, [10, 20, 40, 80, 160, 320])


def test_a_window_is_taken_back_when_readings_no_longer_agree() -> None:
    """The header now speaks of the day, with the same number: the rate that was named must go."""
    lessons = HeaderLessons()
    assert bucket(lessons, "requests", 500, 60, [1, 2, 3, 5, 8, 13]) is not None
    assert bucket(lessons, "requests", 500, DAY_S, [14, 15, 16, 17, 18, 19]) is None


def test_a_used_up_day_rests_until_it_resets() -> None:
    """A fixed day of 200 requests: what is left falls to 0, and the headers say for how long."""
    lessons = HeaderLessons()
    assert teach(lessons, openai("requests", 200, 150, "7h0m0s"), 0.0) is None
    assert Lesson(None, None, 25_190.0) == teach(lessons, openai("requests", 200, 0, "6h59m50s"), 10.0)


def test_what_is_in_flight_counts_as_used() -> None:
    """Four left of 200 and ten on the wire: they will be refused, or were counted already."""
    lessons = HeaderLessons()
    assert teach(lessons, openai("requests", 200, 5, "3m0s"), 0.0, in_flight=10) is None
    lesson = teach(lessons, openai("requests", 200, 4, "3m0s"), 0.1, in_flight=10)
    assert lesson is not None
    assert 180.0 == pytest.approx(lesson.rest_s, abs=1)
    assert teach(HeaderLessons(), openai("requests", 200, 4, "3m0s"), 0.1, in_flight=4) is None


def test_a_bucket_of_a_day_is_not_waited_for_until_it_is_full() -> None:
    """200 a day come back one in 7 min 12 s; "24h" at 0 left is when all of them are back."""
    lessons = HeaderLessons()
    teach(lessons, openai("requests", 200, 100, "12h0m0s"), 0.0)
    lesson = teach(lessons, openai("requests", 200, 0, "24h0m0s"), 1.0)
    assert lesson is not None
    assert 432.0 == lesson.rest_s


def test_a_counter_that_always_stands_at_nothing_pauses_nobody() -> None:
    lessons = HeaderLessons()
    for index in range(30):
        assert teach(lessons, openai("requests", 60, 0, "1m0s"), index * 0.1) is None


def test_openrouters_reset_is_a_time_of_day_by_the_servers_own_clock() -> None:
    """Our clock is an hour wrong; the response's own Date is not."""
    date_s = WALL_S - 3_600
    headers = {"Date": formatdate(date_s, usegmt=True), "X-RateLimit-Limit": "50"}
    lessons = HeaderLessons()
    teach(lessons, headers | {"X-RateLimit-Remaining": "9"}, 0.0)
    at_ms = str(int((date_s + 600) * 1000))
    lesson = teach(lessons, headers | {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": at_ms}, 0.0)
    assert lesson is not None
    assert 600.0 == pytest.approx(lesson.rest_s, abs=1)


def test_headers_are_read_often_at_first_and_then_now_and_then() -> None:
    lessons, looks = HeaderLessons(), 0
    for index in range(10_000):
        now_s = index * 0.001
        if lessons.wants(now_s):
            looks += 1
            teach(lessons, openai("requests", 500, 400, "12s"), now_s)
    assert looks == pytest.approx(20 + 10 / 0.1, abs=2)


def test_headers_that_say_nothing_are_hardly_read() -> None:
    lessons, looks = HeaderLessons(), 0
    for index in range(10_000):
        if lessons.wants(index * 0.001):
            looks += 1
            teach(lessons, {"content-type": "application/json", "x-request-id": "req"}, index * 0.001)
    assert looks <= 23


def test_a_low_remainder_is_looked_at_each_time() -> None:
    lessons = HeaderLessons()
    for index in range(30):
        teach(lessons, openai("requests", 10_000, 30, "5h0m0s"), index * 0.001, in_flight=50)
    assert lessons.wants(0.03)


@pytest.mark.parametrize(
    ("text", "reset"),
    [
        ("45.5", (45.5, 0.1)),
        ("30", (30.0, 1.0)),
        ("17ms", (0.017, 0.001)),
        ("6m0s", (360.0, 0.001)),
        ("2m59.56s", (179.56, 0.001)),
        ("24h0m0s", (86_400.0, 0.001)),
        ("1d2h", (93_600.0, 0.001)),
        ("1790000060", (60.0, 1.0)),
        ("1790000060000", (60.0, 1.0)),
        ("2026-09-21T14:14:20Z", (60.0, 1.0)),
        ("2026-09-21T21:14:20+07:00", (60.0, 1.0)),
        ("1789999000", (0.0, 1.0)),
        *[
            (text, None)
            for text in ("", "soon", "-5", "nan", "inf", "1e999", "1m x", "m", "๓๐", "三十", "9" * 400, "5s5")
        ],
        ("99999999", None),
        ("2026-99-99T00:00:00Z", None),
    ],
)
def test_resets_are_read_as_providers_write_them(text: str, reset: tuple[float, float] | None) -> None:
    found = read_reset(text, WALL_S)
    assert (reset is None) == (found is None)
    if reset is not None and found is not None:
        assert reset[0] == pytest.approx(found[0])
        assert reset[1] == pytest.approx(found[1])


@pytest.mark.parametrize(
    "value", ["nan", "inf", "1e999", "-1", "0", "9" * 400, "٦٠", "๖๐", "0x10", "1_000", "", " ", "sáu mươi", "1,5"]
)
def test_hostile_counts_teach_nothing(value: str) -> None:
    headers = {"x-ratelimit-limit-requests-minute": value, "ratelimit-policy": f'"a";q={value};w={value}'}
    assert teach(HeaderLessons(), headers, 0.0) is None


def test_more_is_left_than_there_is_teaches_nothing() -> None:
    assert [] == read_quotas(openai("requests", 10, 11, "1s"), WALL_S)


def test_ten_thousand_headers_cost_little_and_are_not_remembered() -> None:
    lessons = HeaderLessons()
    headers = {f"x-ratelimit-limit-requests-{index}s": "5" for index in range(10_000)}
    started = time.process_time()
    for index in range(20):
        teach(lessons, headers, float(index))
    assert time.process_time() - started < 0.5
    assert len(lessons._quotas) <= 16


NAMES = [
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "ratelimit",
    "ratelimit-policy", "ratelimit-limit", "anthropic-ratelimit-tokens-reset", "date", "X-RateLimit-Reset",
]  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.one_of(st.text(max_size=60), st.from_regex(r"[0-9dhms.;=\",qrtw:TZ-]{0,40}", fullmatch=True)),
    ),
    st.integers(0, 50),
)
@settings(max_examples=300, deadline=None)
def test_no_header_breaks_it_and_no_rest_is_longer_than_a_day(headers: dict[str, str], in_flight: int) -> None:
    lessons = HeaderLessons()
    for index in range(3):
        lesson = teach(lessons, headers, float(index), in_flight)
        assert lesson is None or 0.0 <= lesson.rest_s <= DAY_S


def test_a_reading_carries_all_that_was_said() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:24Z",
    }
    assert [Reading("requests ", "requests", None, 50, 49, 4.0, 1.0)] == read_quotas(headers, WALL_S)
