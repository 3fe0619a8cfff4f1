"""Whether `response_format` is taken: what is believed at once, what is tried, and what proves nothing."""

import random

import pytest

from batcher.providers.structured import TURNS_MAX, StructuredSupport

NAMED = "HTTP 400: Unknown parameter: 'response_format.json_schema'"
WORDLESS = "HTTP 400: bad request"
CRASH = "HTTP 500: Internal Server Error"


def sends(support: StructuredSupport) -> bool:
    return support.shape().with_format


def test_without_a_format_nothing_is_sent_or_learned() -> None:
    support = StructuredSupport(has_format=False)
    shape = support.shape()

    assert not shape.with_format
    assert not support.failed(shape, status=400, words=NAMED)
    assert not support.is_refused


@pytest.mark.parametrize("status", [400, 404, 415, 422, 500, 501])
@pytest.mark.parametrize(
    "words",
    [NAMED, "json_schema is not supported", "Structured Outputs need another model", "'strict' is not permitted",
     "guided_json needs a backend", "failed to compile grammar", "responseFormat: unknown"],
)  # fmt: skip
def test_a_refusal_that_names_the_format_is_believed_at_once(status: int, words: str) -> None:
    support = StructuredSupport(has_format=True)

    assert support.failed(support.shape(), status=status, words=words)
    assert support.is_refused
    assert not sends(support)


@pytest.mark.parametrize("words", ["access to this model is restricted", "a misguided request", "programmarian"])
def test_words_that_hold_the_formats_names_by_chance_prove_nothing(words: str) -> None:
    support = StructuredSupport(has_format=True)

    support.failed(support.shape(), status=404, words=words)

    assert not support.is_refused


@pytest.mark.parametrize("status", [400, 415, 422, 500])
def test_a_server_that_fails_on_the_field_without_a_word_is_found_out(status: int) -> None:
    """Within a few calls, and only the first crashes cost their rows a try."""
    support = StructuredSupport(has_format=True)
    calls = tries = 0
    for _ in range(12):
        while True:
            shape, calls = support.shape(), calls + 1
            if not shape.with_format:
                support.replied(shape)
                break
            if not support.failed(shape, status=status, words=CRASH):
                tries += 1

    assert support.is_refused
    assert tries == (2 if status == 500 else 0)
    assert calls <= 12 + tries + TURNS_MAX


@pytest.mark.parametrize("status", [400, 500])
def test_a_row_that_fails_for_its_own_sake_does_not_cost_the_job_its_format(status: int) -> None:
    """It fails with the format and without it; the others' answers without it prove nothing alone."""
    support = StructuredSupport(has_format=True)
    for _ in range(5):
        shape = support.shape()
        if shape.with_format:
            support.failed(shape, status=status, words=WORDLESS)
    own = support.shape()
    assert not own.with_format
    assert not support.failed(own, status=400, words=WORDLESS)

    support.replied(support.shape())
    assert sends(support), "the format is tried again"
    support.replied(support.shape())

    for _ in range(10):
        assert not support.failed(support.shape(), status=status, words=WORDLESS)
    assert sends(support)


def test_an_answer_with_the_format_that_was_on_its_way_ends_the_doubt() -> None:
    """Fifty first calls in flight, and the first to come back is a bad row's 400."""
    support = StructuredSupport(has_format=True)
    shapes = [support.shape() for _ in range(50)]

    support.failed(shapes[0], status=400, words=WORDLESS)
    for shape in shapes[1:]:
        support.replied(shape)

    assert sends(support)
    assert not support.failed(support.shape(), status=400, words=WORDLESS)


@pytest.mark.parametrize("status", [400, 500])
def test_fifty_first_calls_of_an_outage_are_no_proof(status: int) -> None:
    """All fail at once, all are asked again without the format, and the provider is back: one turn, no more."""
    support = StructuredSupport(has_format=True)
    for shape in [support.shape() for _ in range(50)]:
        support.failed(shape, status=status, words=CRASH)
    for shape in [support.shape() for _ in range(50)]:
        assert not shape.with_format
        support.replied(shape)

    assert not support.is_refused
    assert sends(support)


def test_late_failures_of_an_earlier_turn_prove_nothing() -> None:
    support = StructuredSupport(has_format=True)
    late = [support.shape() for _ in range(50)]
    for _ in range(TURNS_MAX):
        while sends(support):
            support.failed(late.pop(), status=500, words=CRASH)
            if support._turn:
                break
        support.replied(support.shape())

    assert not support.is_refused


@pytest.mark.parametrize("error_rate", [0.05, 0.2, 0.5])
def test_random_crashes_hardly_ever_make_a_good_provider_refused(error_rate: float) -> None:
    """With 20 calls in flight, over 1000 seeds: never at 20 % errors, and hardly at 50 %."""
    refused = 0
    for seed in range(1000):
        chance, support = random.Random(seed), StructuredSupport(has_format=True)
        flying = [support.shape() for _ in range(20)]
        for _ in range(300):
            shape = flying.pop(chance.randrange(20))
            if chance.random() < error_rate:
                support.failed(shape, status=500, words=CRASH)
            else:
                support.replied(shape)
            flying.append(support.shape())
        refused += support.is_refused

    assert refused <= (5 if error_rate == 0.5 else 0)


@pytest.mark.parametrize("status", [None, 401, 402, 403, 408, 429, 502, 503, 504])
def test_what_says_nothing_of_the_body_teaches_nothing(status: int | None) -> None:
    support = StructuredSupport(has_format=True)
    for _ in range(50):
        assert not support.failed(support.shape(), status=status, words="unavailable")
    assert sends(support)


def test_late_answers_of_an_earlier_turn_prove_nothing() -> None:
    """Forty calls without the format were on their way in the first doubt: they are one turn, not three."""
    support = StructuredSupport(has_format=True)
    support.failed(support.shape(), status=400, words=WORDLESS)
    late = [support.shape() for _ in range(40)]
    for shape in late:
        support.replied(shape)
        if sends(support):
            support.failed(support.shape(), status=400, words=WORDLESS)

    assert not support.is_refused
