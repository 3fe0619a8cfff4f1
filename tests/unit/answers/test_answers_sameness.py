"""One answer given to everything is found; answers that only look alike are not."""

import random
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import pyarrow as pa
import pytest

from batcher.answers.sameness import Frequent, Given, SameHeads, SameLimit, most_given, same_sentence

HALF = Decimal("0.5")


def batches(answers: list[str], rows: int = 1_000) -> list[pa.Array]:
    return [pa.array(answers[start : start + rows], pa.string()) for start in range(0, len(answers), rows)]


def given(answers: list[str], limit: SameLimit = SameLimit(), labels: list[str] | None = None) -> Given:  # noqa: B008
    """As a run is judged: the heads first, the whole answers only where those are alike."""
    heads = SameHeads(labels)
    for batch in batches(answers):
        heads.add(batch)
    return most_given(batches(answers), limit, labels) if heads.may_be_above(limit.least) else Given()


def verdict(answers: list[str], share: Decimal = HALF, labels: list[str] | None = None) -> list[str]:
    """What is said of a run whose rule has this share; half is what holds without a line."""
    limit = SameLimit(share) if share == HALF else SameLimit(share, share)
    stuck = given(answers, limit, labels).stuck
    return [] if stuck is None else [same_sentence(stuck, limit, shown=stuck.text)]


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

    same = most_given(batches(answers, 16_384), SameLimit()).stuck

    assert same is not None
    assert "the very same answer" == same.text
    assert 30_600 * 0.99 < same.rows <= 30_600
    assert not same.is_exact
    assert "at least " == same_sentence(same, SameLimit(), shown=same.text)[:9]


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
    assert Given() == most_given([], SameLimit())
    assert [] == verdict(["half of all the rows"] * 30 + [f"another {at}" for at in range(30)])


SORTED = {
    "yes or no": ("Yes, it is.", "No, it is not."),
    "sentiment": ("Positive.", "Negative."),
    "tiếng Việt": ("Tích cực", "Tiêu cực"),
    "中文": ("正面评价", "负面评价"),
    "ไทย": ("ความรู้สึกเชิงบวก", "ความรู้สึกเชิงลบ"),
    "JSON": ('{"is_spam": false, "lang": "th"}', '{"is_spam": true, "lang": "th"}'),
    "log lines": ("timeout", "success"),
    "工单": ("系统错误", "支付问题"),
    "vé": ("Lỗi hệ thống", "Lỗi thanh toán"),
    "คืนสินค้า": ("ยาวเกินไป", "สั้นเกินไป"),
}


@pytest.mark.parametrize("case", SORTED)
@pytest.mark.parametrize(("rows", "rare"), [(1_000, 150), (1_000, 20)])
def test_a_job_that_sorts_in_its_own_words_is_not_stuck(case: str, rows: int, rare: int) -> None:
    """85 % positive is what an honest night looks like; the rest are given again and again as well."""
    often, seldom = SORTED[case]
    assert [] == verdict([often] * (rows - rare) + [seldom] * rare)


def test_a_trial_of_a_few_rows_may_hold_one_other_word() -> None:
    """Of 20 rows, 19 are positive in one trial of seven; of a sentence that would be strange."""
    assert [] == verdict(["ความรู้สึกเชิงบวก"] * 19 + ["ความรู้สึกเชิงลบ"])
    assert 1 == len(verdict(["Hello! How can I help you today?"] * 19 + ["Hello! What can I do for you?"]))


def test_what_is_given_often_and_may_be_right_is_told() -> None:
    """Whoever reads the last lines sees 93 % at once, as with labels."""
    usual = given(["Yes."] * 930 + ["No."] * 70).usual

    assert usual is not None
    assert ("Yes.", 930, 1_000) == (usual.text, usual.rows, usual.answers)
    assert None is given(["Yes."] * 500 + ["No."] * 500).usual


@pytest.mark.parametrize("other", ["yes", "no", "Tích cực", "正面评价"])
def test_a_sentence_among_words_is_no_class_of_its_own(other: str) -> None:
    """A model that greets 60 % of the rows answered only the rest."""
    assert 1 == len(verdict(["Hello! How can I help you today?"] * 60 + [other] * 40))


NOTHING_FOUND = [
    "Not found", "Not mentioned", "none", "Order number not found.", "ไม่พบหมายเลขคำสั่งซื้อ",
    "Không tìm thấy mã đơn hàng", "未找到订单号", "无法判断，没有提及",
    '{"defects": []}', '{"order": null, "names": [ ]}',
]  # fmt: skip


@pytest.mark.parametrize("answer", NOTHING_FOUND)
def test_nothing_found_may_be_said_of_most_rows(answer: str) -> None:
    """Most tickets name no order number; and to every row, it is an error as well."""
    assert [] == verdict([answer] * 60 + [f"{48_213 + at}" for at in range(40)])


def test_nothing_found_in_any_row_is_stuck() -> None:
    assert 1 == len(verdict(["ไม่พบหมายเลขคำสั่งซื้อ"] * 100))


@pytest.mark.parametrize(
    "answer",
    [
        "Request number: {}", "Order number: {}", "Error code: {}", "The credit limit is {} baht.", "{} tokens",
        "Maximum: {} °C", "Giới hạn: {} đồng", "最高限额为{}元，超过部分不赔。", "หมายเลขคำขอ {}", "Mã lỗi: {}",
        "错误代码 {}", "Limit: {}", "Timeout after {} s",
        "เกินกำหนดชำระ {} วัน", "Tay áo quá dài {} cm", "袖が{}cm長すぎます",
    ],
)  # fmt: skip
def test_numbers_that_were_asked_for_are_not_one(answer: str) -> None:
    """One word that errors have too makes no error of an answer."""
    assert [] == verdict([answer.format(1_000 + at) for at in range(300)])


@pytest.mark.parametrize(
    "error", ["Error", "null", "undefined", "错误", "Lỗi", "ข้อผิดพลาด", "**ERROR**", "```\nnull\n```"]
)
def test_a_bare_error_is_one_however_short(error: str) -> None:
    assert 1 == len(verdict([error] * 300))


def test_ids_in_an_error_are_one_sign() -> None:
    """Each row is told another request id, of another shape."""
    chance = random.Random(5)
    ids = [f"{chance.getrandbits(64):x}" for _ in range(200)]

    assert 1 == len(verdict([f"Internal server error. Request id: {at[:8]}-{at[8:]}" for at in ids]))
    assert 1 == len(verdict([f"Error: upstream failed (ref req_{at})" for at in ids]))


@pytest.mark.parametrize(
    "error", ["Prompt is too long", "提示过长：{} 个标记", "ข้อความยาวเกินไป: {} โทเคน", "Lời nhắc quá dài: {} token"]
)
def test_an_error_to_every_fifth_row_is_enough(error: str) -> None:
    """Half of all is for answers that may be right; nobody asks for this one."""
    answers = [error.format(200_000 + at) for at in range(60)] + [f"khách {at % 120} hỏi tiền" for at in range(240)]

    (said,) = verdict(answers)
    assert said.startswith('60 of 300 answers are the same error told as text: "')
    assert said.endswith('"; 10 % of such answers are allowed (another share: success.same)')
    assert [] == verdict(answers, Decimal("0.3"))
    assert 1 == len(verdict(answers, Decimal("0.05")))


@pytest.mark.parametrize(
    ("answer", "labels", "count"),
    [
        ("Prompt is too long", ["short", "long"], 1),
        ("Error: context limit exceeded", ["error", "question"], 1),
        ("The category is: error", ["error", "question"], 0),
        ('{"label": "server error"}', ["server error", "other"], 0),
        ("server error", ["error", "server error"], 0),
        ("kỹ thuật", ["ชำระเงิน", "kỹ thuật", "其他"], 0),
    ],
)
def test_an_error_in_which_a_label_stands_is_no_label(answer: str, labels: list[str], count: int) -> None:
    """`long` is a label, and in "Prompt is too long" there is nothing else; every row would be ok."""
    assert count == len(verdict([answer] * 300, labels=labels))


@pytest.mark.parametrize(
    ("answer", "is_read"),
    [
        ("long", False),
        ("  Long\n", False),
        ('{"label": "ร้องเรียน"}', False),
        ('{"label":"长"}', False),
        ("Prompt is too long", True),
        ('{"error": "long"}', True),
        ('{"label": "long", "error": "prompt is too long"}', True),
        ("team 1", True),
        ("team 17: prompt is too long", True),
        ("long. " * 30 + "error: prompt is too long", True),
    ],
)
def test_answers_that_are_labels_need_no_second_reading(answer: str, is_read: bool) -> None:
    """A job that sorts gives few answers to millions of rows; only what is more than a label may be an error."""
    heads = SameHeads(["long", "short", "ร้องเรียน", "长", "team 1"])
    heads.add(pa.array([answer] * 100))
    assert is_read == heads.may_be_above(Decimal("0.1"))
