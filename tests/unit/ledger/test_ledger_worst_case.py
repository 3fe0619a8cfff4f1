"""What one call may cost at most, before it is sent."""

from decimal import Decimal

import msgspec
import pytest

from batcher.core.records import Usage
from batcher.errors import JobError
from batcher.ledger.prices import FREE, Price, Tier, TieredPrice, cost_usd, price_from_job
from batcher.ledger.worst_case import (
    IMAGE_TOKENS,
    TEMPLATE_TOKENS,
    TOOLS_TOKENS,
    OutputBound,
    WorstCase,
    check_budget,
    output_bound,
)

NANO = Price(Decimal("0.10"), Decimal("0.025"), Decimal("0.40"), "a list")
LONG = TieredPrice(NANO, (Tier(1_000, Price(Decimal("0.20"), Decimal("0.05"), Decimal("0.80"), "a list")),))


def messages(*contents: object) -> bytes:
    return msgspec.json.encode([{"role": "user", "content": content} for content in contents])


def test_a_body_costs_a_token_a_byte_and_the_longest_answer() -> None:
    """By hand: (1,000 + 200 + 128) x 0.10 + 16 x 0.40 dollars per million."""
    worst = WorstCase.of_job(NANO, model="m", params={"max_tokens": 16}, overhead_bytes=200)
    assert Decimal("0.0001392") == worst.usd_of(1_000)
    assert 128 == TEMPLATE_TOKENS


@pytest.mark.parametrize(
    "text", ["แอปเปิดไม่ได้ ช่วยด้วย", "Ứng dụng không mở được", "应用打不开，请帮忙", "🙂🏳️‍🌈", 'a "quoted"\n\x01']
)
def test_no_tokenizer_makes_more_tokens_than_bytes(text: str) -> None:
    """One token a byte is the worst that a vocabulary of bytes can do, in every script."""
    worst = WorstCase(NANO, OutputBound(10, is_from_job=True), extra_tokens=0).usd(messages(text))
    truth = cost_usd(Usage(input=len(text.encode()), output=10), NANO)
    assert worst is not None
    assert truth is not None
    assert worst >= truth


def test_tools_have_a_preamble() -> None:
    """346 tokens, for one maker."""
    plain = WorstCase.of_job(NANO, model="m", params={"max_tokens": 1}, overhead_bytes=0)
    tools = WorstCase.of_job(NANO, model="m", params={"max_tokens": 1, "tools": []}, overhead_bytes=0)
    assert (TOOLS_TOKENS - TEMPLATE_TOKENS) * Decimal("0.0000001") == tools.usd_of(0) - plain.usd_of(0)


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("m", {"max_tokens": 16}, OutputBound(16, True)),
        ("m", {"max_completion_tokens": 8, "max_tokens": 16}, OutputBound(16, True)),
        ("gpt-4.1-nano", {}, OutputBound(32_768, False)),
        ("openai/gpt-5-mini", {}, OutputBound(128_000, False)),
        ("gpt-5-pro", {}, OutputBound(272_000, False)),
        ("Qwen/Qwen2.5-0.5B-Instruct", {}, OutputBound(32_768, False)),
        ("m", {"max_tokens": None}, OutputBound(32_768, False)),
        ("m", {"max_tokens": True}, OutputBound(32_768, False)),
        ("m", {"max_tokens": "16"}, OutputBound(32_768, False)),
        ("m", {"max_tokens": 0}, OutputBound(32_768, False)),
    ],
)
def test_the_longest_answer(model: str, params: dict[str, object], expected: OutputBound) -> None:
    """The job's own cap, the higher of two; what is no cap does not count as one."""
    assert expected == output_bound(model, params)


def test_a_longer_request_is_held_at_the_dearer_tier() -> None:
    """Only where its bytes could be so many tokens; the tier holds for the output too."""
    worst = WorstCase(LONG, OutputBound(10, is_from_job=True), extra_tokens=100)
    assert Decimal("0.000104") == worst.usd_of(900)
    assert Decimal("0.0002082") == worst.usd_of(901)


def test_a_tier_that_is_cheaper_does_not_lower_the_worst_case() -> None:
    """Fewer tokens than bytes may fall below it."""
    cheaper = TieredPrice(NANO, (Tier(1_000, Price(Decimal("0.01"), Decimal("0.50"), Decimal("0.01"), "a list")),))
    worst = WorstCase(cheaper, OutputBound(10, is_from_job=True), extra_tokens=0)
    assert Decimal("0.000104") == worst.usd_of(1_000)
    # Cached input is dearer there than any other.
    assert Decimal("0.0010045") == worst.usd_of(2_001)


def test_what_is_free_has_no_worst_case() -> None:
    """A local model."""
    assert Decimal(0) == WorstCase.of_job(FREE, model="m", params={}, overhead_bytes=10).usd(messages("hi"))


def test_an_image_counts_by_its_size_and_not_by_its_bytes() -> None:
    """A link of 20 bytes and a megabyte of base64 are the same to who bills them."""
    worst = WorstCase(NANO, OutputBound(1, is_from_job=True), extra_tokens=0)
    text = {"type": "text", "text": "what is it?"}
    link = worst.usd(messages([text, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]))
    inline = worst.usd(messages([text, {"type": "image_url", "image_url": {"url": "data:" + "A" * 10**6}}]))
    assert link == inline
    assert link is not None
    assert IMAGE_TOKENS * Decimal("0.0000001") < link < (IMAGE_TOKENS + 200) * Decimal("0.0000001")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "https://x/y.mp4"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "hologram"},
        {"type": 5},
    ],
)
def test_sound_video_and_files_have_no_bound(part: dict[str, object]) -> None:
    """A short link may stand for an hour of video; a guess would be no wall."""
    worst = WorstCase(NANO, OutputBound(1, is_from_job=True))
    assert worst.usd(messages("hi", [{"type": "text", "text": "listen"}, part])) is None


def test_text_that_speaks_of_parts_is_text() -> None:
    """Row values are data."""
    worst = WorstCase(NANO, OutputBound(1, is_from_job=True), extra_tokens=0)
    asked = messages('[{"type":"input_audio"}]', [{"type": "text", "text": '"type":"video_url"'}])
    assert worst.usd_of(len(asked)) == worst.usd(asked)


def test_where_all_is_text_nobody_looks_for_parts() -> None:
    """Templates make nothing else, and to look takes 50 µs in 100 kB."""
    worst = WorstCase(NANO, OutputBound(1, is_from_job=True), extra_tokens=0, may_have_parts=False)
    asked = messages([{"type": "input_audio"}])
    assert worst.usd_of(len(asked)) == worst.usd(asked)


def test_the_advice_names_the_parameter() -> None:
    """For a run that cannot begin."""
    assert "an answer may have 32,768 tokens, as the job sets no params.max_tokens" == (output_bound("m", {}).advice)
    assert "an answer may have 9,000 tokens by its params.max_tokens" == (
        output_bound("m", {"max_tokens": 9_000}).advice
    )


@pytest.mark.parametrize(
    ("price", "params", "words"),
    [
        (None, {}, "the model m has no known price, so budget.usd cannot hold: give provider.price: {input: …, out"),
        (price_from_job({"input": 1}), {}, "the price of m has no output"),
        (TieredPrice(NANO, (Tier(1, price_from_job({"input": 1})),)), {}, "the price of m has no output"),
        (NANO, {"service_tier": "priority"}, "service_tier: priority has prices of its own"),
        (NANO, {"web_search_options": {}}, "charged by the search"),
        (NANO, {"modalities": ["text", "audio"]}, "asks for audio"),
    ],
)  # fmt: skip
def test_a_budget_that_could_not_hold_is_refused(price: Price | None, params: dict[str, object], words: str) -> None:
    """Before anything is sent: never booked at zero, never at a guess."""
    with pytest.raises(JobError, match=words.replace("{", r"\{")):
        check_budget(price, model="m", params=params)


def test_a_budget_that_holds_is_taken() -> None:
    """Free, listed, of the job, in tiers, and a tier that the job prices itself."""
    for price in (FREE, NANO, LONG, price_from_job({"input": 1, "output": 2})):
        check_budget(price, model="m", params={"service_tier": "flex", "modalities": ["text"]})
    check_budget(price_from_job({"input": 1, "output": 2}), model="m", params={"service_tier": "priority"})
