"""Which price a model has where."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from batcher.core.records import Usage
from batcher.ledger.describe import describe
from batcher.ledger.price_list import PINNED, find_price
from batcher.ledger.prices import AnyPrice, Price, TieredPrice, cost_usd

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
GATEWAY = "https://gateway.example.com/v1"
LOOPBACK = "http://127.0.0.1:8000/v1"


def rates(price: AnyPrice | None) -> tuple[str, ...] | None:
    if price is None:
        return None
    base = price.base if isinstance(price, TieredPrice) else price
    return tuple(str(rate) for rate in (base.input, base.cached_input, base.output))


@pytest.mark.parametrize("base_url", [None, GATEWAY, LOOPBACK, "http://vllm:8000/v1", "http://[::1]:1/v1"])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4.1-nano", ("0.10", "0.025", "0.40")),
        ("gpt-4.1-nano-2025-04-14", ("0.10", "0.025", "0.40")),
        ("openai/GPT-4.1", ("2.00", "0.50", "8.00")),
        ("claude-sonnet-4-5-20250929", ("3.00", "0.30", "15.00")),
        ("claude-sonnet-4.5", ("3.00", "0.30", "15.00")),
        ("gemini-2.5-flash", ("0.30", "0.03", "2.50")),
        ("deepseek-ai/DeepSeek-V3.2", ("0.28", "0.028", "0.42")),
        ("deepseek-chat", ("0.28", "0.028", "0.42")),
        ("deepseek-r1-distill-qwen-7b", ("0.15", "0.15", "0.15")),
        ("DeepSeek-R1-Distill-Qwen-1.5B", ("0.08", "0.08", "0.08")),
        ("gpt-4o", ("2.5", "1.25", "10")),
    ],
)
def test_a_model_has_its_makers_price_where_nobody_else_names_one(
    model: str, base_url: str | None, expected: tuple[str, ...]
) -> None:
    """A gateway, this machine, or no endpoint at all."""
    assert expected == rates(find_price(model, at=AT, base_url=base_url))


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("smollm2-135m", LOOPBACK),
        ("my-finetune", GATEWAY),
        ("ft:gpt-4.1-nano:acme::abc", "https://api.openai.com/v1"),
        ("gpt-4.1-nanoo", None),
        # genai-prices takes it for the R1 of 671 B.
        ("deepseek-r1-distill-llama-70b", None),
        ("deepseek-r1-distill-llama-70b", GATEWAY),
        # It charges for each request, which tokens do not show.
        ("sonar-pro", "https://api.perplexity.ai"),
        ("", None),
        ("/", GATEWAY),
    ],
)
def test_what_nobody_knows_is_unknown_and_never_free(model: str, base_url: str | None) -> None:
    """No neighbour's price and no 0."""
    assert find_price(model, at=AT, base_url=base_url) is None


def test_a_known_endpoint_has_its_own_price() -> None:
    """The maker's would be wrong there."""
    price = find_price("gpt-4.1", at=AT, base_url="https://example.openai.azure.com/openai/v1")
    assert price is not None
    assert "azure/gpt-4.1" in price.source
    nobody = find_price("claude-sonnet-4-5", at=AT, base_url="https://api.groq.com/openai/v1")
    assert nobody is None


def test_the_source_says_whose_price_it_is() -> None:
    """A gateway may charge another, and the report has to show that we do not know."""
    at_home = find_price("gpt-4.1-nano", at=AT, base_url="https://api.openai.com/v1")
    elsewhere = find_price("gpt-4.1-nano", at=AT, base_url=GATEWAY)
    assert at_home is not None
    assert elsewhere is not None
    assert "list price of the maker" not in at_home.source
    assert elsewhere.source.endswith(": list price of the maker")


def test_the_job_has_the_last_word() -> None:
    """Even where a list knows better, and for what no list knows."""
    price = find_price("gpt-4.1-nano", at=AT, override={"input": 1, "cached_input": "0.5", "output": 2.5})
    assert ("1", "0.5", "2.5") == rates(price)
    assert ("0", "0", "0") == rates(find_price("mine", at=AT, override={"input": 0, "output": 0}))


def test_a_long_context_pays_its_tier() -> None:
    """Pinned and from genai-prices alike."""
    for model, base_url in (
        ("claude-sonnet-4-5", None),
        ("anthropic/claude-sonnet-4.5", "https://openrouter.ai/api/v1"),
    ):
        price = find_price(model, at=AT, base_url=base_url)
        assert Decimal("0.6") == cost_usd(Usage(200_000), price)
        assert Decimal("1.200006") == cost_usd(Usage(200_001), price)
    gemini = find_price("gemini-2.5-pro", at=AT)
    assert isinstance(gemini, TieredPrice)
    assert Decimal(15) == gemini.for_input(200_001).output


def test_a_price_depends_on_the_jobs_start_and_on_nothing_else() -> None:
    """A run resumed at night prices its rows like those of the day; any zone means the same moment."""
    night = datetime(2026, 11, 21, 20, tzinfo=UTC)
    assert find_price("deepseek-chat", at=night) == find_price("deepseek-chat", at=AT)
    hanoi = AT.astimezone(timezone(timedelta(hours=7)))
    peak = datetime(2026, 11, 21, 8, tzinfo=UTC)
    for moment in (AT, peak):
        assert find_price("deepseek-v4-flash", at=moment) == find_price("deepseek-v4-flash", at=moment)
    assert find_price("deepseek-v4-flash", at=hanoi) == find_price("deepseek-v4-flash", at=AT)
    assert find_price("deepseek-v4-flash", at=peak) != find_price("deepseek-v4-flash", at=AT)
    naive = AT.replace(tzinfo=None)
    assert find_price("gpt-4o", at=naive) == find_price("gpt-4o", at=AT)


def test_every_pinned_price_has_a_source_and_a_date() -> None:
    """An undated price cannot be doubted."""
    for entry in PINNED:
        assert entry.price.source
        assert entry.price.date is not None
        assert entry.names == {name.lower() for name in entry.names}


def test_pinned_prices_agree_with_genai_prices_where_the_table_says_so() -> None:
    """If an upgrade of genai-prices differs, somebody has to look."""
    from genai_prices.data_snapshot import get_snapshot

    for provider_id, model in (("openai", "gpt-4.1"), ("openai", "gpt-4.1-nano"), ("google", "gemini-2.5-flash")):
        _, found = get_snapshot().find_provider_model(model, None, provider_id, None)
        listed = found.get_prices(AT)
        pinned = find_price(model, at=AT)
        assert isinstance(pinned, Price)
        assert (listed.input_mtok, listed.cache_read_mtok, listed.output_mtok) == (
            pinned.input,
            pinned.cached_input,
            pinned.output,
        )


def test_a_pinned_price_is_found_without_genai_prices() -> None:
    """Its import takes 0.3 s, half of what a run may take to its first request."""
    code = (
        "import sys, datetime\n"
        "from batcher.ledger.price_list import find_price\n"
        "import batcher.ledger.ledger, batcher.ledger.describe\n"
        f"find_price('gpt-4.1-nano', at=datetime.datetime.now(datetime.UTC), base_url={LOOPBACK!r})\n"
        "sys.exit('genai_prices' in sys.modules)\n"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_the_sheet_shows_prices_tiers_source_and_date() -> None:
    """What `batcher prices MODEL` prints."""
    assert [
        "claude-sonnet-4-5: input $3.00, cached input $0.30, output $15.00",
        "  input above 200,000 tokens: input $6.00, cached input $0.60, output $22.50",
        "  USD per million tokens; genai-prices 0.2.3; litellm 1.106.2 agrees on the base, as of 2026-11-21",
    ] == describe("claude-sonnet-4-5", at=AT, base_url="https://api.anthropic.com/v1").lines()


def test_an_unknown_model_gets_the_nearest_names_and_the_way_out() -> None:
    """A typing error is the usual reason."""
    sheet = describe("gtp-4.1-nano", at=AT)
    assert sheet.price is None
    assert "gpt-4.1-nano" == sheet.nearest[0]
    assert "price unknown; did you mean gpt-4.1-nano" in sheet.lines()[0]
    assert None is sheet.to_json()["price"]
    assert () == describe("ภาษาไทย", at=AT).nearest
