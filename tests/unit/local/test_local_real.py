"""The real model: slow, and skipped where xllamacpp is not installed or the model cannot be fetched."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batcher.errors import JobError
from batcher.local import lease, models

pytest.importorskip("xllamacpp", reason="batcher[local] is not installed")
pytestmark = pytest.mark.slow

LABELS = ["positive", "negative"]
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": LABELS}},
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served() -> Iterator[lease.Lease]:
    """One server for all tests here."""
    try:
        models.pull("smollm2-135m")
    except JobError as error:
        pytest.skip(f"no model: {error.message}")
    with lease.start("smollm2-135m", slots=8) as held:
        yield held


def ask(served: lease.Lease, text: str) -> dict[str, Any]:
    """One labelled question, as a job with labels sends it."""
    body = {
        "model": served.model,
        "messages": [
            {"role": "system", "content": "You sort product reviews. Answer with positive or negative."},
            {"role": "user", "content": f"Review: {text}"},
        ],
        "temperature": 0,
        "max_tokens": 32,
        "response_format": {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA, "strict": True}},
    }
    request = urllib.request.Request(f"{served.base_url}/chat/completions", json.dumps(body).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=100) as answer:
        return json.load(answer)


def label(reply: dict[str, Any]) -> str:
    return json.loads(reply["choices"][0]["message"]["content"])["label"]


def test_labels_come_back_as_the_enum_with_usage(served: lease.Lease) -> None:
    """Plain cases are right, and tokens are counted."""
    good, bad = ask(served, "i love it, works great!"), ask(served, "terrible, it broke after one day.")
    assert [label(good), label(bad)] == ["positive", "negative"]
    assert good["usage"]["prompt_tokens"] > 10
    assert good["usage"]["completion_tokens"] > 3
    assert good["model"] == "smollm2-135m"


def test_eight_in_flight_are_all_answered(served: lease.Lease) -> None:
    """And more than there are slots wait their turn."""
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda number: ask(served, f"number {number} is a fine camera"), range(12)))
    assert all(label(reply) in LABELS for reply in replies)


def test_prompt_longer_than_a_slot_is_refused_by_name(served: lease.Lease) -> None:
    """400 and the context length, not a hang and not a cut prompt."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(served, "word " * 5000)
    assert caught.value.code == 400
    assert "context" in caught.value.read().decode()


def test_damaged_gguf_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The magic is right, the rest is not: llama.cpp refuses, and the log's place is named."""
    monkeypatch.setenv("BATCHER_CACHE", str(tmp_path / "cache"))
    own = tmp_path / "damaged.gguf"
    own.write_bytes(b"GGUF" + os.urandom(4096))
    with pytest.raises(JobError, match=r"llama\.cpp cannot load damaged\.gguf") as caught:
        lease.start(str(own))
    assert "server.log" in (caught.value.hint or "")
