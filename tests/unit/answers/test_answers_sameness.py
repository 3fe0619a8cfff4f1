"""One answer given to everything is found; answers that only look alike are not."""

import random
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import pyarrow as pa
import pytest

from batcher.answers.sameness import Frequent, Same, SameHeads, judge_sameness, most_given

HALF = Decimal("0.5")


def batches(answers: list[str], rows: int = 1_000) -> list[pa.Array]:
    return [pa.array(answers[start : start + rows], pa.string()) for start in range(0, len(answers), rows)]


def verdict(answers: list[str], share: Decimal = HALF) -> list[str]:
    """As a run is judged: the heads first, the whole answers only where those are alike."""
    heads = SameHeads()
    for batch in batches(answers):
        heads.add(batch)
    if not heads.may_be_above(share):
        return []
    same = most_given(batches(answers))
    return judge_sameness(same, share, shown="" if same is None else same.text)


def test_the_same_error_told_as_text_to_everything_is_named() -> None:
    """A proxy that turns errors into answers: every row is ok, and none has an answer."""
    answers = ["Prompt is too long"] * 4_981 + [f"คำตอบที่ {at}" for at in range(19)]

    assert ['4,981 of 5,000 answers are the same: "Prompt is too long"; success.same allows 50 %'] == verdict(answers)


@pytest.mark.parametrize(
    "error",
    [
        "prompt is too long: {} tokens > 200000 maximum",
        "Error: request {} failed",
        "提示过长：{} 个标记，超过上限",
        "ข้อความยาวเกินไป {} โทเคน",
        "Lỗi: yêu cầu quá dài ({} từ)",
        "  This model's maximum context length is 8,192 tokens, you asked for {:,}  ",
    ],
)
def test_numbers_in_an_error_are_one_sign(error: str) -> None:
    """Each row is told its own number of tokens: the variants are one answer."""
    answers = [error.format(200_000 + 37 * at) for at in range(100)]

    assert ["100 of 100 answers are the same"] == [sentence.partition(":")[0] for sentence in verdict(answers)]


@pytest.mark.parametrize(
    "answer",
    [
        "The total of the invoice is {} baht.",
        "แถว {} dòng số {} 第{}行 🙂",
        "2026-11-{}",
        "INV-{}",
        "答案是 {}，谢谢您的耐心等待",
    ],
)
def test_answers_that_differ_in_a_number_alone_are_different(answer: str) -> None:
    """Numbers are often all that an answer is about; only in an error they are not."""
    assert [] == verdict([answer.replace("{}", str(at)) for at in range(1_000)])


@pytest.mark.parametrize("word", ["yes", "positive"[:7], "ไม่ใช่", "là có", "不适用", "", " \n "])
def test_a_word_may_be_given_to_everything(word: str) -> None:
    """A yes-or-no job says yes to most of its rows, and no harm is done."""
    assert [] == verdict([word] * 500)


@pytest.mark.parametrize("text", ["undefined", "无法回答", "ไม่สามารถตอบ", "không có gì"])
def test_a_text_of_eight_columns_is_long_enough(text: str) -> None:
    """Chinese characters say twice as much as letters, and take two columns."""
    assert 1 == len(verdict([text] * 20))


def test_few_answers_are_not_judged() -> None:
    assert [] == verdict(["Prompt is too long"] * 19)
    assert 1 == len(verdict(["Prompt is too long"] * 20))


def test_a_share_that_is_reached_exactly_holds() -> None:
    """As for the other shares of the rule."""
    others = [f"ทีม {at}" for at in range(50)]

    assert [] == verdict(["the very same answer"] * 50 + others)
    assert 1 == len(verdict(["the very same answer"] * 51 + others))


def test_a_share_of_everything_turns_it_off() -> None:
    assert [] == verdict(["the very same answer"] * 50, Decimal(1))


def test_long_answers_that_begin_alike_are_different() -> None:
    """A form letter has one beginning; what counts is the whole text."""
    opening = "Kính gửi quý khách, cảm ơn quý khách đã liên hệ với chúng tôi về yêu cầu của mình. " * 4

    assert [] == verdict([f"{opening}{chr(0x4E00 + at)}" for at in range(200)])
    assert 1 == len(verdict([opening] * 200))


def test_case_and_outer_space_do_not_count() -> None:
    answers = ["Service unavailable", "service unavailable\n", " SERVICE UNAVAILABLE "] * 10

    assert ['30 of 30 answers are the same: "Service unavailable"; success.same allows 50 %'] == verdict(answers)


def test_more_different_answers_than_counters_leave_the_frequent_one() -> None:
    """A million rows have far more answers than there is room for: the frequent one is never lost."""
    chance = random.Random(20)
    answers = ["the very same answer"] * 30_600 + [f"câu trả lời {chance.random()}" for _ in range(29_400)]
    chance.shuffle(answers)

    same = most_given(batches(answers, 16_384))

    assert same is not None
    assert "the very same answer" == same.text
    assert 30_600 * 0.99 < same.rows <= 30_600
    assert not same.is_exact
    assert "at least " == judge_sameness(same, HALF, shown=same.text)[0][:9]


@pytest.mark.parametrize("seed", range(20))
def test_no_count_is_too_large_and_none_too_small_by_more_than_its_bound(seed: int) -> None:
    """The law of Misra and Gries, over streams of every skew."""
    chance = random.Random(seed)
    stream = [str(int(chance.paretovariate(0.3 + seed / 10))) for _ in range(5_000)]
    frequent = Frequent(10)
    for batch in batches(stream, chance.randint(1, 700)):
        frequent.add(batch)
    counted = {frequent.shown[digest]: count for digest, count in frequent.counts.items()}
    truth = Counter(stream)

    assert len(counted) <= 10
    assert frequent.missed_max <= len(stream) / 11
    assert all(truth[text] - frequent.missed_max <= count <= truth[text] for text, count in counted.items())
    assert all(text in counted for text, count in truth.items() if count > frequent.missed_max)


def test_heads_never_miss_what_the_whole_answers_show() -> None:
    """Only the beginnings are looked at first; they must be alike where the answers are, however long a number."""
    filler = "x" * 70

    def errors() -> Iterable[str]:
        for at in range(25):
            yield f"Error {10**at} in 9{'9' * at} of request {at}: {filler}"

    assert 1 == len(verdict(list(errors())))


def test_nothing_is_said_of_no_answers() -> None:
    assert None is most_given([])
    assert [] == judge_sameness(None, HALF, shown="")
    assert [] == judge_sameness(Same(10, 20, "half of them"), HALF, shown="half of them")
