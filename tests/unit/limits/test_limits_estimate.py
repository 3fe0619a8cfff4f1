"""Token estimates: learned, calm, never absurd."""

import pytest

from batcher.core.records import Usage
from batcher.limits.estimate import MEMORY, TokenEstimator


def test_before_anything_is_learned_bytes_and_the_cap_speak() -> None:
    """A cap of thousands says little about an answer; a small one says much."""
    estimator = TokenEstimator()
    assert 100 + 16 + 1 == estimator.estimate(400, 16)
    assert 100 + 512 + 1 == estimator.estimate(400, None)
    assert 100 + 1_024 + 1 == estimator.estimate(400, 4_096)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("ฉันถูกเรียกเก็บเงินสองครั้ง กรุณาคืนเงินด้วย" * 10, 260, id="Thai, o200k"),
        pytest.param("ฉันถูกเรียกเก็บเงินสองครั้ง กรุณาคืนเงินด้วย" * 10, 1_150, id="Thai, a tokenizer of bytes"),
        pytest.param("我被扣了两次费用,请退款" * 20, 180, id="Chinese"),
    ],
)
def test_every_script_is_learned_within_a_few_replies(text: str, tokens: int) -> None:
    """Characters / 4 is wrong by 2 to 6 times here."""
    estimator, size = TokenEstimator(), len(text.encode())
    for _ in range(20):
        estimator.learn(size, Usage(tokens, 0, 10), 10)
    assert tokens + 10 == pytest.approx(estimator.estimate(size, 10), rel=0.1)


def test_one_absurd_reply_moves_little() -> None:
    """A provider that reports a billion tokens once must not stop the run."""
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.learn(400, Usage(100, 0, 20), 64)
    before = estimator.estimate(400, 64)
    estimator.learn(400, Usage(1_000_000_000, 0, 1_000_000_000), 64)
    assert before <= estimator.estimate(400, 64) <= before * 1.1


def test_a_first_reply_that_is_absurd_is_forgotten() -> None:
    """There is nothing yet to compare it with but the prior."""
    estimator = TokenEstimator()
    estimator.learn(400, Usage(1_000_000_000, 0, 20), 64)
    for _ in range(100):
        estimator.learn(400, Usage(100, 0, 20), 64)
    assert 120 == pytest.approx(estimator.estimate(400, 64), rel=0.2)


def test_a_sorted_input_is_followed() -> None:
    """English rows, then Thai ones."""
    estimator = TokenEstimator()
    for _ in range(2_000):
        estimator.learn(400, Usage(80, 0, 20), None)
    for _ in range(800):
        estimator.learn(400, Usage(320, 0, 200), None)
    assert 520 == pytest.approx(estimator.estimate(400, None), rel=0.1)


def test_the_output_is_never_estimated_above_its_cap() -> None:
    """The next row may have a smaller one."""
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.learn(4, Usage(1, 0, 1_000), None)
    assert estimator.estimate(4, 16) <= 18


@pytest.mark.parametrize("usage", [None, Usage(), Usage(-5, 0, 3), Usage(0, 0, 3), Usage(3, 0, -1)])
def test_a_reply_that_says_nothing_teaches_nothing(usage: Usage | None) -> None:
    """Many gateways leave usage out, or send zeros."""
    estimator = TokenEstimator()
    estimator.learn(400, usage, 16)
    estimator.learn(0, Usage(5, 0, 5), 16)
    assert 117 == estimator.estimate(400, 16)
    assert estimator.estimate(0, 0) >= 1


def learned(estimator: TokenEstimator) -> TokenEstimator:
    for _ in range(MEMORY):
        estimator.learn(400, Usage(100, 0, 20), 64)
    return estimator


def test_replies_that_come_together_teach_what_each_would() -> None:
    """Within the rounding of a mean that moves once."""
    one_by_one, together = learned(TokenEstimator()), learned(TokenEstimator())
    replies = [(400 + 40 * number, Usage(90 + 12 * number, 0, 15 + number)) for number in range(16)]
    for body_bytes, usage in replies:
        one_by_one.learn(body_bytes, usage, 64)
    together.learn_all(replies, 64)
    assert one_by_one.tokens_per_byte == pytest.approx(together.tokens_per_byte, rel=0.005)
    assert one_by_one.estimate(400, 64) == pytest.approx(together.estimate(400, 64), abs=1)


def test_one_absurd_reply_among_many_moves_as_little_as_alone() -> None:
    """Nor do those that say nothing hide in a crowd."""
    estimator = learned(TokenEstimator())
    before = estimator.estimate(400, 64)
    good, absurd = (400, Usage(100, 0, 20)), (400, Usage(1_000_000_000, 0, 1_000_000_000))
    estimator.learn_all([good] * 7 + [absurd, (400, Usage(0, 0, 9)), (0, Usage(9, 0, 9)), (400, Usage(5, 0, -1))], 64)
    assert before <= estimator.estimate(400, 64) <= before * 1.1


def test_the_first_replies_teach_one_by_one_also_when_they_come_together() -> None:
    """The first ones are what is learned fastest from."""
    one_by_one, together = TokenEstimator(), TokenEstimator()
    replies = [(400, Usage(260, 0, 30))] * 20
    for body_bytes, usage in replies:
        one_by_one.learn(body_bytes, usage, 64)
    together.learn_all(replies, 64)
    assert one_by_one.estimate(400, 64) == together.estimate(400, 64)


def test_more_replies_than_are_remembered_are_taken_as_they_are() -> None:
    """Ten thousand calls may end in one turn: the mean is theirs, and does not swing beyond them."""
    estimator = learned(TokenEstimator())
    estimator.learn_all([(400, Usage(200, 0, 40))] * 10_000, 64)
    assert estimator.estimate(400, 64) == pytest.approx(240, abs=2)
