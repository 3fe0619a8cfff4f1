"""How a job's limits become permits, and its budget a wall."""

from decimal import Decimal
from pathlib import Path

import pytest

from batcher.assemble.stack import LIMIT_MAX, Stack, Tools, build_stack, endpoint_of
from batcher.config.load import load_job
from batcher.core.contracts import CallError
from batcher.core.flight import Flight
from batcher.core.progress import Progress
from batcher.core.records import Request
from batcher.ledger.budget import Budget
from batcher.ledger.prices import Price
from batcher.testing.clock import ManualClock

JOB = "input: rows.jsonl\nprompt: hi\nmodel: m\n"


async def stack_of(
    tmp_path: Path, more: str, *, job: str = JOB, price: Price | None = None, budget: Budget | None = None
) -> Stack:
    path = tmp_path / "job.yaml"
    path.write_text(job + more, encoding="utf-8")
    loaded = load_job(path, environ={"A": "key-a-0123456789", "B": "key-b-0123456789"}).job
    tools = Tools(ManualClock(), Progress(), Flight(), lambda text: text, lambda _: None)
    stack = build_stack(
        loaded,
        endpoint_of(loaded.sole_provider, loaded),
        tools,
        response_format=None,
        price=price,
        budget=budget,
        is_first=True,
        seed=1,
    )
    await stack.close()
    return stack


ONE_KEY = 'base_url: "http://127.0.0.1:1/v1", api_key: "${A}"'
TWO_KEYS = 'base_url: "http://127.0.0.1:1/v1", api_key: ["${A}", "${B}"]'


@pytest.mark.parametrize(
    ("more", "in_flight"),
    [
        (f"provider: {{{ONE_KEY}}}\n", LIMIT_MAX),
        (f"provider: {{{TWO_KEYS}}}\n", LIMIT_MAX),
        (f"provider: {{{ONE_KEY}}}\nlimits: {{concurrency: 200}}\n", 200),
        (f"provider: {{{TWO_KEYS}}}\nlimits: {{concurrency: 200}}\n", 200),
        (f"provider: {{{ONE_KEY}, limits: {{concurrency: 7}}}}\n", 7),
        (f"provider: {{{TWO_KEYS}, limits: {{concurrency: 7}}}}\n", 14),
        (f"provider: {{{ONE_KEY}, limits: {{concurrency: 7}}}}\nlimits: {{concurrency: 200}}\n", 7),
        (f"provider: {{{TWO_KEYS}, limits: {{concurrency: 7}}}}\nlimits: {{concurrency: 10}}\n", 10),
    ],
)
async def test_calls_in_flight_are_what_the_job_says(tmp_path: Path, more: str, in_flight: int) -> None:
    """Limits under `provider` hold for each key, those of the job for all together; the tighter one counts."""
    stack = await stack_of(tmp_path, more)
    assert in_flight == stack.concurrency
    if in_flight != LIMIT_MAX:  # `auto` begins with less
        assert stack.places is not None
        assert in_flight == stack.places.free()


async def test_a_budget_looks_into_the_histories_of_a_column(tmp_path: Path) -> None:
    """Templates make text alone, so there nobody looks; a history may hold a sound, whose cost has no bound."""
    price = Price(Decimal("0.10"), Decimal("0.10"), Decimal("0.40"), "a list")
    job = "input: rows.jsonl\nprompt: {messages: chat}\nmodel: m\n"
    more = f"provider: {{{ONE_KEY}}}\n"
    stack = await stack_of(tmp_path, more, job=job, price=price, budget=Budget(Decimal(1)))

    with pytest.raises(CallError, match="never sent") as caught:
        await stack.caller.call(Request(0, b'[{"role":"user","content":[{"type":"input_audio"}]}]'))

    assert caught.value.kind == "bad_request"
