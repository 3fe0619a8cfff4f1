"""One of the labels: what is taken as one, and what is rather asked again."""

import json
import time
import unicodedata

import pytest

from batcher.answers.labels import LabelChecker, structured_format
from batcher.core.records import NOTHING_SPENT, Invalid, Repaired, Reply, Request, Valid
from batcher.errors import JobError

REQUEST = Request(0, b"[]")
TEAMS = ("billing", "technical", "other")


def check(text, labels=TEAMS, tag=None, **fields):
    return LabelChecker(labels, tag).check(REQUEST, Reply(text, NOTHING_SPENT, 1.0, "p", **fields))


def label_of(text, labels=TEAMS, **fields):
    verdict = check(text, labels, **fields)
    return None if isinstance(verdict, Invalid) else verdict.label


@pytest.mark.parametrize(
    "text",
    [
        "billing",
        " billing\n",
        "Billing.",
        "BILLING!",
        "**Billing**.",
        "__billing__",
        "_billing_",
        "`billing`",
        "# billing",
        "- billing",
        "« billing »",
        "“billing”",
        "「billing」。",
        "『billing』",
        "（billing）",
        "billing：",
        "billing ✅",
        "ｂｉｌｌｉｎｇ",
        "bil\u200bling\ufeff",
        "billing billing",
        '"billing"',
        '{"label": "billing"}',
        '{"label":"Billing"}',
        '{"answer": "billing"}',
        '```json\n{"label": "billing"}\n```',
        "```\nbilling\n```",
        '"\\u0062illing"',
        '{"label": "billing", "reason": "it is about technical things"}',
    ],
)
def test_surroundings_are_forgiven(text: str) -> None:
    """The answer is the label; the text stays as the model wrote it, the label is the job's spelling."""
    assert check(text) == Valid(text, "billing")


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("I would say billing.", "label found inside a sentence"),
        ("The team is **Billing**, because the customer was charged twice.", "label found inside a sentence"),
        ('{"label": "It is billing"}', "label found inside a sentence"),
        ('{"label": "billing"} is my answer', "label found inside a sentence"),
        ('{"category": "billing", "why": "technical words"}', "label found in one of several JSON fields"),
    ],
)
def test_the_only_label_in_more_text_is_a_repair(text: str, how: str) -> None:
    assert check(text) == Repaired(text, how, "billing")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("I do not know", "no label in the answer"),
        ("bill", "no label in the answer"),
        ("billings", "no label in the answer"),
        ("rebilling", "no label in the answer"),
        ("e-billing", "no label in the answer"),
        ("billing_issue", "no label in the answer"),
        ("billing or technical", "several labels in the answer"),
        ("not billing", "a negation stands beside the label in the answer"),
        ("It isn't billing", "a negation stands beside the label in the answer"),
        ("It isn’t billing", "a negation stands beside the label in the answer"),
        ("", "the answer is empty"),
        (" \n", "the answer is empty"),
        ("?!", "no label in the answer"),
        ("{}", "no label in the answer"),
        ('{"billing": false}', "no label in the answer"),
        ('{"label": null}', "no label in the answer"),
        ('{"label": ["billing", "technical"]}', "several labels in the answer"),
        ('{"a": "billing", "b": "technical"}', "several labels in the answer"),
        ("{" * 50_000, "the answer is far longer than a label"),
        ('{"a":' * 1_500, "no label in the answer"),
        ("billing " * 200_000, "the answer is far longer than a label"),
    ],
)
def test_a_guess_is_no_answer(text: str, fault: str) -> None:
    """A wrong label at night is worse than a second question."""
    verdict = check(text)

    assert isinstance(verdict, Invalid)
    assert verdict.reason == f"{fault}; expected one of: billing, technical, other"
    assert verdict.kind == "invalid_answer"
    assert verdict.answer == text
    assert verdict.again == (
        "Your answer is not one of the labels. Answer with exactly one of: billing, technical, other and nothing else."
    )


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("ship", "shipping"), "shipping", "shipping"),
        (("ship", "shipping"), "the ship", "ship"),
        (("spam", "not spam"), "It is not spam.", "not spam"),
        (("spam", "not spam"), "It is spam.", "spam"),
        (("spam", "not_spam"), "Not spam", "not_spam"),
        (("spam", "not_spam"), "NOT-SPAM", "not_spam"),
        (("positive", "not positive"), "not   positive", "not positive"),
        (("level", "level 5"), "level 5", "level 5"),
        (("a", "b", "a/b"), "A/B", "a/b"),
        (("new york", "york city"), "new york city", None),
        (("C", "C++", "C#"), "**C++**", "C++"),
        (("C", "C++", "C#"), "c#", "C#"),
        (("C", "C++", "C#"), "C", "C"),
        (("C", "Java"), "C++", None),
        (("A", "B"), "A-", None),
        (("1", "2", "5"), "5", "5"),
        (("1", "2", "5"), "5.", "5"),
        (("1", "2", "5"), "Rating: 5", "5"),
        (("1", "2", "5"), "-5", None),
        (("1", "2", "5"), "2.5", None),
        (("1", "2", "5"), "1,5", None),
        (("1", "2", "5"), "5%", None),
        (("1", "2", "5"), "1/5", None),
        (("1", "2", "5"), "15", None),
        (("1", "2", "5"), '{"label": 5}', "5"),
        (("1", "2", "5"), "٥", None),
        (("-1", "0", "1"), "-1", "-1"),
        (("yes", "no"), "No.", "no"),
        (("yes", "no"), "The answer is no", "no"),
        (("yes", "no"), "No, it is not", None),
        (("true", "false"), '{"label": true}', "true"),
        (("👍", "👎"), "👍", "👍"),
        (("❤️", "💔"), "❤", "❤️"),
        (("café", "the"), "CAFE\u0301", "café"),
        (("cafe", "the"), "café", None),
        (("straße", "weg"), "STRASSE", "straße"),
    ],
)
def test_labels_that_look_alike_are_told_apart(labels, text, label) -> None:
    assert label_of(text, labels) == label


@pytest.mark.parametrize(
    ("labels", "text", "label"),
    [
        (("การเงิน", "เทคนิค"), "การเงิน", "การเงิน"),
        (("การเงิน", "เทคนิค"), "คำตอบคือการเงินครับ", "การเงิน"),
        (("การเงิน", "เทคนิค"), "ไม่ใช่การเงิน", None),
        (("ดี", "ไม่ดี"), "สินค้านี้ไม่ดีเลย", "ไม่ดี"),
        (("ชำระเงิน", "อื่นๆ"), "ช\u0e4d\u0e32ระเงิน", "ชำระเงิน"),
        (("账单", "技术"), "答案是账单。", "账单"),
        (("账单", "技术"), "不是账单", None),
        (("账单", "技术"), "账单和技术", None),
        (("请求", "其他"), "「请求」", "请求"),
        (("hóa đơn", "kỹ thuật"), "Hóa đơn.", "hóa đơn"),
        (("hóa đơn", "kỹ thuật"), unicodedata.normalize("NFD", "Đây là HÓA ĐƠN"), "hóa đơn"),
        (("hóa đơn", "kỹ thuật"), unicodedata.normalize("NFD", "không phải hóa đơn"), None),
        (("ສົ່ງ", "ຈ່າຍ"), "ຄຳຕອບແມ່ນສົ່ງ", "ສົ່ງ"),
        (("ការបង់ប្រាក់", "ផ្សេង"), "គឺការបង់ប្រាក់", "ការបង់ប្រាក់"),
        (("हाँ", "नहीं"), "हाँ।", "हाँ"),
        (("बिल", "अन्य"), "बिलिंग", None),
        (("बिल", "अन्य"), "यह बिल है", "बिल"),
        (("बिल", "अन्य"), "यह बिल नहीं है", None),
        (("billing", "technical"), "คำตอบคือbillingครับ", "billing"),
        (("billing", "technical"), "我认为是billing", "billing"),
        (("はい", "いいえ"), "「はい」です", "はい"),
    ],
)
def test_labels_in_scripts_with_and_without_spaces(labels, text, label) -> None:
    """Thai, Lao, Khmer and Chinese put no space between words: a label stands anywhere in the text."""
    assert label_of(text, labels) == label


@pytest.mark.parametrize(
    ("text", "labels", "is_ok"),
    [
        ("billing", TEAMS, True),
        ("**billing**", TEAMS, True),
        ('{"label": "billing"}', TEAMS, True),
        ('{"label": "bil', TEAMS, False),
        ("The answer is billing", TEAMS, False),
        ("I think that", TEAMS, False),
        ("", TEAMS, False),
        ("ship", ("ship", "shipping"), False),
        ("shipping", ("ship", "shipping"), True),
    ],
)
def test_a_cut_answer_counts_only_if_nothing_could_follow(text, labels, is_ok) -> None:
    """`max_tokens: 1` is common with labels: the label alone is enough, half of one never is."""
    verdict = check(text, labels, finish_reason="length")

    if is_ok:
        assert isinstance(verdict, Valid)
    else:
        assert isinstance(verdict, Invalid)
        assert verdict.kind == "truncated"
        assert "raise params.max_tokens" in verdict.reason
        assert verdict.again is None


def test_a_filtered_answer_is_refused_even_if_a_label_stands_in_it() -> None:
    verdict = check("billing", finish_reason="content_filter")

    assert isinstance(verdict, Invalid)
    assert verdict.kind == "refused"


def test_reasoning_does_not_count_as_the_answer() -> None:
    verdict = check("<think>technical? no.</think>billing", tag="<think>")

    assert verdict == Valid("billing", "billing", "technical? no.")


def test_very_many_labels_are_shortened_in_messages_but_not_in_the_question() -> None:
    labels = [f"label {number}" for number in range(100)]

    verdict = check("?", labels)

    assert isinstance(verdict, Invalid)
    assert verdict.reason.endswith("label 19 and 80 more")
    assert "label 99 and nothing else" in (verdict.again or "")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "is empty"),
        (["a", ""], "no visible character"),
        (["a", " \u200b"], "no visible character"),
        (["Billing", "billing"], "differ too little"),
        (["a b", "a_b"], "differ too little"),
        (["Ａ", "a"], "differ too little"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels: list[str], words: str) -> None:
    with pytest.raises(JobError, match=words):
        LabelChecker(labels)


def test_the_response_format_is_the_strict_json_schema() -> None:
    expected = {
        "type": "json_schema",
        "json_schema": {
            "name": "label",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"label": {"type": "string", "enum": ["a", "ข"]}},
                "required": ["label"],
                "additionalProperties": False,
            },
        },
    }
    assert structured_format(["a", "ข"]) == expected


@pytest.mark.parametrize(
    "label", ["billing", "C++", "not spam", "ดีมาก", "-1", "a.b*", "[x]", "\\d", "a|b", "(?:", "👍"]
)
def test_every_label_is_found_as_text_json_and_sentence(label: str) -> None:
    """Labels are text, never patterns."""
    labels = (label, "zzz")

    assert label_of(label, labels) == label
    assert label_of(f"**{label}**", labels) == label
    assert label_of(json.dumps({"label": label}), labels) == label
    assert label_of(f"so: {label} .", labels) == label
    assert label_of("xyz", labels) is None


@pytest.mark.parametrize("label", ["billing", "tiền lương", "ไม่มี", "退款", 'a "b"', "a\\b", "Đ/é", "0"])
@pytest.mark.parametrize("form", ['{{"label":{0}}}', '{{"label": {0}}}', '{{ "label" :{0} }}', '\n{{"label":{0}}}'])
def test_json_written_in_any_way_is_the_same_verdict_whether_it_is_looked_up_or_read(label: str, form: str) -> None:
    """The two usual ways are looked up; a cut at the end of the whole object changes nothing."""
    text = form.format(json.dumps(label, ensure_ascii=False))
    for reason in ("stop", "length"):
        assert Valid(text, label) == check(text, [label, "other"], finish_reason=reason)


@pytest.mark.parametrize(
    "text",
    [
        "category " * 900,
        "category 99 of thing " * 380,
        "category " + " " * 8_000,
        "category_-" * 800,
        "c" * 8_192,
        "x" * 1_000_000,
        "category 7 of things " * 380,
        "\u0301\u0316" * 4_096,
        "不" * 8_192,
    ],
)
def test_a_thousand_labels_in_a_hostile_answer_take_no_time(text: str) -> None:
    """The check runs on the event loop: what a model repeats must not hold up the other rows."""
    checker = LabelChecker([f"category {number} of things" for number in range(1_000)])
    started = time.process_time()
    checker.check(REQUEST, Reply(text, NOTHING_SPENT, 1.0, "p"))
    assert time.process_time() - started < 1.0
