"""The circuit breaker: what opens it, what closes it, and what an outage costs a row."""

import math

from batcher.limits.breaker import FREE_MAX, Breaker


def fail(breaker: Breaker, row: int, now: float = 0.0, *, reached: bool = True) -> bool:
    ticket = breaker.enter(now)
    assert ticket is not None
    return breaker.record_failure(ticket, row, reached=reached, now=now)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(failure_threshold=2, recovery_s=60.0)
    fail(breaker, 1, now)
    fail(breaker, 2, now)
    assert breaker.is_open
    return breaker


def test_the_threshold_opens_it_and_the_last_failure_counts_against_no_row() -> None:
    """Five in a row from several rows."""
    breaker = Breaker(failure_threshold=5)
    assert [True, True, True, True] == [fail(breaker, row) for row in (1, 2, 3, 4)]
    assert not breaker.is_open
    assert fail(breaker, 5) is False
    assert breaker.is_open
    assert 0.0 == breaker.open_since


def test_a_success_starts_the_count_again() -> None:
    """Consecutive means consecutive."""
    breaker = Breaker(failure_threshold=3)
    for _ in range(10):
        fail(breaker, 1)
        fail(breaker, 2)
        breaker.record_success(0, 3, 0.0)
    assert not breaker.is_open


def test_one_poison_row_never_opens_it_by_itself_and_pays_each_time() -> None:
    """A row that makes the provider answer 500 is the row's fault, however often it is asked."""
    breaker = Breaker(failure_threshold=5)
    assert all(fail(breaker, 7) for _ in range(100))
    assert not breaker.is_open
    assert not fail(breaker, 8)
    assert breaker.is_open


def test_one_row_that_does_not_reach_the_provider_opens_it_and_never_pays() -> None:
    """Refused, DNS, TLS: the row had no part in it. A job of one row must survive an outage too."""
    breaker = Breaker(failure_threshold=5)
    assert not any(fail(breaker, 7, reached=False) for _ in range(5))
    assert breaker.is_open


def test_open_lets_nobody_pass_until_recovery_and_then_one() -> None:
    """One probe, and the others wait for what becomes of it."""
    breaker = opened(now=10.0)
    assert breaker.enter(69.9) is None
    assert 0.1 == round(breaker.can_pass(69.9), 6)
    assert 0.0 == breaker.can_pass(70.0)
    assert breaker.enter(70.0) is not None
    assert breaker.enter(70.0) is None
    assert math.inf == breaker.can_pass(1e9)


def test_a_probe_that_succeeds_closes_it_and_calls_those_who_wait() -> None:
    """They wake by the call, not by looking again."""
    breaker = opened()
    calls: list[bool] = []
    breaker.on_change(lambda: calls.append(breaker.is_open))
    probe = breaker.enter(60.0)
    assert probe is not None
    breaker.record_success(probe, 1, 61.0)
    assert [False] == calls
    assert (None, 0.0, 0.0) == (breaker.open_since, breaker.outage_s(61.0), breaker.can_pass(61.0))


def test_a_probe_that_fails_opens_it_again_for_the_whole_time_and_the_outage_goes_on() -> None:
    """`max_outage` is measured from the first opening."""
    breaker = opened()
    for number in range(1, 5):
        assert not fail(breaker, 1, 60.0 * number)
        assert 60.0 == breaker.can_pass(60.0 * number)
    assert 0.0 == breaker.open_since
    assert 250.0 == breaker.outage_s(250.0)


def test_a_probe_that_is_abandoned_frees_its_place() -> None:
    """Cancelled by a signal, or refused with 429: the next one probes, at once."""
    breaker = opened()
    calls: list[float] = []
    breaker.on_change(lambda: calls.append(breaker.can_pass(60.0)))
    probe = breaker.enter(60.0)
    assert probe is not None
    breaker.abandon(probe)
    assert [0.0] == calls
    second = breaker.enter(60.0)
    assert second is not None
    # The first one's late results are worth nothing.
    assert not breaker.record_failure(probe, 1, reached=True, now=60.5)
    breaker.abandon(probe)
    assert breaker.enter(61.0) is None
    breaker.record_success(second, 1, 62.0)
    assert not breaker.is_open


def test_what_was_in_flight_when_it_opened_counts_against_no_row_and_not_twice() -> None:
    """Two hundred calls fail in the first second of an outage; five of them are enough."""
    breaker = Breaker(failure_threshold=2, recovery_s=60.0)
    tickets = [breaker.enter(0.0) for _ in range(200)]
    counted = [
        breaker.record_failure(ticket, row, reached=True, now=row / 200)
        for row, ticket in enumerate(tickets)
        if ticket is not None
    ]
    assert 1 == sum(counted)
    assert 200 == len(counted)
    assert 59.0 < breaker.can_pass(1.0) < 59.1


def test_what_entered_before_the_outage_and_fails_after_it_counts_neither() -> None:
    """A timeout of 60 s ends long after the provider is back."""
    breaker = Breaker(failure_threshold=2, recovery_s=10.0)
    old = [breaker.enter(0.0) for _ in range(10)]
    fail(breaker, 1)
    fail(breaker, 2)
    probe = breaker.enter(10.0)
    assert probe is not None
    breaker.record_success(probe, 1, 11.0)
    for row, ticket in enumerate(old):
        assert ticket is not None
        assert not breaker.record_failure(ticket, row, reached=True, now=60.0)
    assert not breaker.is_open


def test_a_success_from_before_brings_the_probe_forward_once_and_closes_nothing() -> None:
    """It may have been on its way when the provider fell; asking once is cheap."""
    breaker = Breaker(failure_threshold=2, recovery_s=60.0)
    old = [breaker.enter(0.0) for _ in range(3)]
    fail(breaker, 1)
    fail(breaker, 2)
    assert old[0] is not None
    breaker.record_success(old[0], 5, 1.0)
    assert breaker.is_open
    assert 0.0 == breaker.can_pass(1.0)
    assert not fail(breaker, 1, 1.0)
    assert old[1] is not None
    breaker.record_success(old[1], 6, 2.0)
    assert 0.0 == breaker.can_pass(2.0)
    assert old[2] is not None
    breaker.record_success(old[2], 6, 3.0)
    assert breaker.is_open


def test_tries_lost_to_the_failures_that_opened_it_are_given_back() -> None:
    """They looked like the row's own when they came. A flapping provider would use up every row."""
    breaker = Breaker(failure_threshold=4, recovery_s=1.0)
    now, paid = 0.0, 0
    for _ in range(50):
        paid += sum(fail(breaker, 1, now) for _ in range(3))
        assert not fail(breaker, 2, now)
        assert breaker.is_open
        now += 1.0
        probe = breaker.enter(now)
        assert probe is not None
        breaker.record_success(probe, 3, now)
    assert 3 == paid


def test_a_row_that_was_answered_keeps_no_credit() -> None:
    """What is kept by row must not grow with the input."""
    breaker = Breaker(failure_threshold=2, recovery_s=1.0)
    fail(breaker, 1)
    fail(breaker, 2)
    probe = breaker.enter(1.0)
    assert probe is not None
    breaker.record_success(probe, 1, 1.0)
    assert fail(breaker, 1, 2.0)


def test_poisoned_rows_that_are_left_alone_are_set_aside() -> None:
    """At the end of a run only the rows remain that always fail; the provider was well all along."""
    breaker = Breaker(failure_threshold=5, recovery_s=60.0)
    for row in (1, 2):
        assert breaker.record_failure(entered(breaker), row, reached=True, now=0.0)
    breaker.record_success(entered(breaker), 3, 0.5)

    charged = [breaker.record_failure(entered(breaker), row, reached=True, now=1.0) for row in (1, 2) * 4]

    assert charged == [True] * 8
    assert not breaker.is_open


def test_an_outage_is_seen_though_a_suspect_fails_in_it() -> None:
    """Suspects do not count, but the rows that failed for the first time do."""
    breaker = Breaker(failure_threshold=3, recovery_s=60.0)
    breaker.record_failure(entered(breaker), 1, reached=True, now=0.0)
    breaker.record_success(entered(breaker), 2, 0.5)

    for row in (1, 3, 1, 4, 5):
        breaker.record_failure(entered(breaker), row, reached=True, now=1.0)

    assert breaker.is_open


def entered(breaker: Breaker) -> int:
    ticket = breaker.enter(0.0)
    assert ticket is not None
    return ticket


def test_a_row_that_fails_again_and_again_among_answered_ones_is_one_voice() -> None:
    """Its calls come often, and say nothing new; others count as before."""
    breaker = Breaker(failure_threshold=5)
    for other in range(100):
        assert fail(breaker, 1)
        breaker.record_success(entered(breaker), 1_000 + other, 0.0)
    for row in (2, 3, 4):
        fail(breaker, row)
        assert fail(breaker, 1)
    assert not breaker.is_open


def test_three_rows_in_flight_see_an_outage_after_as_many_failures_as_the_threshold() -> None:
    """A job with few rows must not use up their tries: the second time round costs nothing while nobody is answered."""
    breaker = Breaker(failure_threshold=5)
    assert [True, True, True, False, False] == [fail(breaker, row) for row in (1, 2, 3, 1, 2)]
    assert breaker.is_open


def test_answers_that_were_on_their_way_cost_the_first_rows_of_an_outage_no_second_try() -> None:
    """They start the count again, but say nothing of the time since: nothing that began after the row was answered."""
    breaker = Breaker(failure_threshold=3)
    served, first, second = (breaker.enter(0.0) for _ in range(3))
    assert served is not None
    assert first is not None
    assert second is not None
    assert breaker.record_failure(first, 10, reached=True, now=0.0)
    breaker.record_success(served, 9, 0.0)
    assert breaker.record_failure(second, 11, reached=True, now=0.0)
    assert not fail(breaker, 10), "asked again before anything was answered: it may be the provider"
    assert not fail(breaker, 12), "three rows, and it is"
    assert breaker.is_open


def test_one_failure_in_three_is_noise_and_nine_in_ten_an_outage() -> None:
    """At 5,000 calls/s, each of a new row: a minute of the one, and milliseconds of the other."""
    breaker, row = Breaker(), 0
    for row in range(300_000):
        one_of(breaker, row, is_failure=row % 3 == 0)
    assert not breaker.is_open

    seen = 0
    while not breaker.is_open:
        seen += 1
        one_of(breaker, row + seen, is_failure=seen % 10 != 0)
    assert seen < 60


def one_of(breaker: Breaker, row: int, *, is_failure: bool) -> None:
    ticket, now = entered(breaker), row / 5_000
    if is_failure:
        breaker.record_failure(ticket, row, reached=True, now=now)
    else:
        breaker.record_success(ticket, row, now)


def test_failures_in_bad_weather_cost_nothing_up_to_a_bound() -> None:
    """A third of the rows fails and is answered the next time. One that is never answered pays in the end."""
    breaker = Breaker()
    for row in range(0, 900, 3):
        one_of(breaker, row, is_failure=True)
        for other in (row, row + 1, row + 2):
            one_of(breaker, other, is_failure=False)

    costs = []
    for number in range(FREE_MAX + 5):
        costs.append(fail(breaker, 7_000, 1.0))
        one_of(breaker, 8_000 + number, is_failure=True)
        for other in (8_000 + number, 9_000 + number):
            one_of(breaker, other, is_failure=False)

    assert [False] * FREE_MAX + [True] * 5 == costs
    assert not breaker.is_open


def test_rows_that_fail_again_each_time_pay_however_many_they_are() -> None:
    """A third of the rows is poisoned: that is not the weather."""
    breaker, charged = Breaker(), 0
    for row in range(0, 900, 3):
        for _ in range(5):
            charged += breaker.record_failure(entered(breaker), row, reached=True, now=row / 100)
            for other in (row + 1, row + 2):
                one_of(breaker, other, is_failure=False)
    assert charged > 0.95 * 1_500


def test_rows_that_all_fail_again_pay_though_little_is_known_yet() -> None:
    """The first 33 calls of a run: 18 rows fail and 15 are answered, then the 18 fail for the second time."""
    breaker = Breaker(failure_threshold=1_000)
    for row in range(18):
        assert breaker.record_failure(entered(breaker), row, reached=True, now=0.1)
    for row in range(18, 33):
        one_of(breaker, row, is_failure=False)
    assert all(breaker.record_failure(entered(breaker), row, reached=True, now=0.5) for row in range(18))


def tail() -> Breaker:
    """Three poisoned rows are left, and one of them has just failed as a probe."""
    breaker = Breaker(failure_threshold=5, recovery_s=60.0)
    for row in (1, 2, 3, 1, 2):
        fail(breaker, row)
    assert all(breaker.is_offender(row) for row in (1, 2, 3))
    assert not fail(breaker, 3, 60.0)
    return breaker


def test_after_a_failed_probe_a_canary_may_go_once_in_a_recovery_time() -> None:
    """While it is out nobody else passes; if it fails it counts as a probe that failed."""
    breaker = tail()
    assert not breaker.begin_canary(1, 60.0), "its probe did not fail"
    assert breaker.begin_canary(3, 60.0)
    assert not breaker.begin_canary(3, 60.0)
    assert math.inf == breaker.can_pass(500.0)

    breaker.record_canary(70.0, is_up=False)

    assert breaker.is_open
    assert 0.0 == breaker.open_since
    assert 60.0 == breaker.can_pass(70.0)
    assert not fail(breaker, 1, 130.0)
    assert breaker.begin_canary(1, 130.0)


def test_no_canary_goes_while_it_is_closed_or_nobody_probed() -> None:
    """A failure of what was on the wire when it opened is no probe."""
    breaker = Breaker(failure_threshold=2)
    late = entered(breaker)
    assert not breaker.begin_canary(1, 0.0)
    fail(breaker, 1)
    fail(breaker, 2)
    breaker.record_failure(late, 3, reached=True, now=1.0)
    assert not any(breaker.begin_canary(row, 1.0) for row in (1, 2, 3))


def test_a_canary_that_is_answered_closes_it_and_the_rows_pay_until_another_one_fails() -> None:
    """The provider is well: it is the rows. A new row's failure is news, and a second one's the next."""
    breaker = tail()
    breaker.begin_canary(3, 60.0)
    breaker.record_canary(61.0, is_up=True)
    assert not breaker.is_open

    # Each of them was given back the one failure that had counted when it opened.
    assert 4 * 3 - 3 == sum(fail(breaker, row, 62.0) for _ in range(4) for row in (1, 2, 3))
    assert not breaker.is_open
    for row in (10, 11, 12, 13, 14):
        fail(breaker, row, 63.0)
    assert breaker.is_open


def test_a_success_from_before_while_a_canary_is_out_sends_nobody() -> None:
    """One request at a time."""
    breaker = Breaker(failure_threshold=2)
    late = entered(breaker)
    fail(breaker, 1)
    fail(breaker, 2)
    fail(breaker, 1, 60.0)
    assert breaker.begin_canary(1, 60.0)
    breaker.record_success(late, 9, 61.0)
    assert breaker.enter(61.0) is None


def test_it_remembers_why() -> None:
    """For the sentence that people read."""
    breaker = Breaker(failure_threshold=2)
    assert breaker.why is None
    breaker.record_failure(entered(breaker), 1, reached=True, now=0.0, why="HTTP 503")
    fail(breaker, 2)
    assert "HTTP 503" == breaker.why


def test_a_canary_that_was_lucky_is_refuted_by_a_row_that_is_answered() -> None:
    """One call in ten is served: the canary was, and then an offender is. It was the weather after all."""
    breaker = tail()
    breaker.begin_canary(3, 60.0)
    breaker.record_canary(61.0, is_up=True)
    assert fail(breaker, 1, 62.0) is fail(breaker, 2, 62.0) is False, "what they were given back"
    breaker.record_success(entered(breaker), 3, 62.0)

    for row in (1, 2, 1, 2, 1):
        fail(breaker, row, 63.0)

    assert breaker.is_open
