"""Job files that are right: what a `Job` holds, where keys go, and what a run directory keeps."""

import time
from decimal import Decimal
from pathlib import Path

from batcher.config.load import LoadedJob, load_job

KEY_A, KEY_B = "sk-live-aaaaaaaaaaaaaaaa0001", "sk-live-bbbbbbbbbbbbbbbb0002"
ENVIRON = {"OPENAI_API_KEY": KEY_A, "KEY_A": KEY_A, "KEY_B": KEY_B, "LANG_WANTED": "th"}

SHORTEST = """\
input: data/tickets.parquet
prompt: "Which team should handle this ticket?\\n{{ text }}"
model: gpt-4.1-nano
answer: {labels: [billing, technical, other]}
"""

WHOLE = """\
name: tickets
kind: chat
input:
  path: [data/tickets-*.parquet, more.jsonl.zst]
  key: ticket_id
  where: "lang = '${LANG_WANTED}'"
  limit: 1000
  carry: [text]
prompt:
  system: "You sort support tickets."
  examples:
    - {user: "I was charged twice", assistant: "billing"}
    - {user: "แอปเปิดไม่ได้", assistant: "technical"}
  user: "{{ text }} on {{ today }} costs $${5}"
  reasoning: "<think>"
model: gpt-4.1-nano
params: {temperature: 0.1, max_tokens: 16, stop: ["\\n", ไทย], logit_bias: {50256: -100}, seed: null}
answer:
  labels: [billing, technical, other, yes, no]
  structured: off
  attempts: 3
providers:
  - name: fast
    base_url: https://api.example.com/v1/
    api_key: ["${KEY_A}", "${KEY_B}"]
    model: gpt-4.1-mini
    weight: 2
    limits: {concurrency: 200, requests_per_minute: 3000, tokens_per_minute: 2_000_000}
    price: {input: 0.10, cached_input: 0.025, output: 0.40}
limits: {concurrency: 50, requests_per_minute: 600}
timeout: 30s
client: sdk
retry: {attempts: 7, min_wait: 50ms, max_wait: 2m}
circuit_breaker: {failure_threshold: 9, recovery_time: 10s, max_outage: 2h}
budget: {usd: 12.30}
success: {failed: 2.5%, invalid: 0.1, empty: 100%}
output: {path: out/ตั๋ว.parquet, format: parquet}
"""


def write(directory: Path, text: str, name: str = "label.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def load(directory: Path, text: str, **options: object) -> LoadedJob:
    return load_job(write(directory, text), environ=ENVIRON, **options)


def test_shortest_job_is_complete(tmp_path: Path) -> None:
    """Four lines and a key in the environment are a job; the contract shows it first."""
    loaded = load(tmp_path, SHORTEST)

    job = loaded.job
    assert job.name == "label"
    assert job.input.path == ("data/tickets.parquet",)
    assert job.prompt.user == "Which team should handle this ticket?\n{{ text }}"
    assert job.answer.labels == ("billing", "technical", "other")
    assert (job.answer.structured, job.answer.attempts) == ("auto", 2)
    provider = job.sole_provider
    assert (provider.name, provider.base_url) == ("main", "https://api.openai.com/v1")
    assert [key.get_secret_value() for key in provider.api_key] == [KEY_A]
    assert (job.effective_model, job.client, job.timeout_s) == ("gpt-4.1-nano", "fast", 60.0)
    assert (job.limits.concurrency, job.limits.requests_per_minute) == ("auto", None)
    assert (job.retry.attempts, job.retry.min_wait_s, job.retry.max_wait_s) == (5, 1.0, 60.0)
    breaker = job.circuit_breaker
    assert (breaker.failure_threshold, breaker.recovery_time_s, breaker.max_outage_s) == (5, 60.0, 1800.0)
    assert job.budget is None
    assert (job.success.failed, job.success.invalid, job.success.empty) == (
        Decimal("0.01"),
        Decimal("0.05"),
        Decimal("0.05"),
    )
    assert loaded.base == tmp_path
    assert loaded.secrets == {KEY_A}


def test_whole_job_is_read_as_people_write_it(tmp_path: Path) -> None:
    """Every field of this version, with its units, in one file."""
    loaded = load(tmp_path, WHOLE, variables={"today": "2026-11-21"})

    job = loaded.job
    assert job.input.path == ("data/tickets-*.parquet", "more.jsonl.zst")
    assert (job.input.key, job.input.where, job.input.limit) == ("ticket_id", "lang = 'th'", 1000)
    assert job.prompt.user == "{{ text }} on {{ today }} costs ${5}"
    assert [(e.user, e.assistant) for e in loaded.examples] == [
        ("I was charged twice", "billing"),
        ("แอปเปิดไม่ได้", "technical"),
    ]
    assert job.params == {
        "temperature": 0.1,
        "max_tokens": 16,
        "stop": ["\n", "ไทย"],
        "logit_bias": {"50256": -100},
        "seed": None,
    }
    assert job.answer.labels == ("billing", "technical", "other", "yes", "no")
    assert job.answer.structured == "off"
    provider = job.sole_provider
    assert (provider.name, provider.base_url, provider.weight) == ("fast", "https://api.example.com/v1", 2.0)
    assert provider.limits.tokens_per_minute == 2_000_000
    assert provider.price is not None
    assert (provider.price.input, provider.price.cached_input, provider.price.output) == (
        Decimal("0.1"),
        Decimal("0.025"),
        Decimal("0.4"),
    )
    assert job.effective_model == "gpt-4.1-mini"
    assert (job.retry.min_wait_s, job.retry.max_wait_s) == (0.05, 120.0)
    assert job.circuit_breaker.max_outage_s == 7200.0
    assert job.budget is not None
    assert Decimal("12.3") == job.budget.usd
    assert (job.success.failed, job.success.invalid, job.success.empty) == (
        Decimal("0.025"),
        Decimal("0.1"),
        Decimal(1),
    )
    assert loaded.secrets == {KEY_A, KEY_B}
    assert loaded.variables == {"today": "2026-11-21"}


def test_loading_takes_no_time(tmp_path: Path) -> None:
    """A command answers at once; the bound is many times what it takes."""
    path = write(tmp_path, WHOLE)
    started = time.process_time()

    load_job(path, environ=ENVIRON, variables={"today": "x"})

    assert time.process_time() - started < 0.5


def test_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    """Editors add them unasked."""
    path = tmp_path / "งาน.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SHORTEST.replace("\n", "\r\n").encode())

    job = load_job(path, environ=ENVIRON).job

    assert (job.name, job.model) == ("งาน", "gpt-4.1-nano")


def test_anchors_are_fine(tmp_path: Path) -> None:
    """Aliases are only refused where they explode."""
    text = "input: {path: a.csv, carry: &c [x, y]}\nprompt: p\nmodel: m\nparams: {stop: *c}\n"

    assert load(tmp_path, text).job.params == {"stop": ["x", "y"]}


def test_only_a_longer_wait_is_given(tmp_path: Path) -> None:
    """`max_wait: 100ms` alone lowers the first wait as well."""
    retry = load(tmp_path, SHORTEST + "retry: {max_wait: 100ms}\n").job.retry

    assert (retry.min_wait_s, retry.max_wait_s) == (0.1, 0.1)


# --- provider ------------------------------------------------------------------------------------


def test_environment_url_and_key_make_a_provider(tmp_path: Path) -> None:
    """As the openai package does it; the copy of the job keeps the URL that was used."""
    environ = {"OPENAI_API_KEY": KEY_A, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"}

    loaded = load_job(write(tmp_path, SHORTEST), environ=environ)

    assert loaded.job.sole_provider.base_url == "http://127.0.0.1:8000/v1"
    assert "http://127.0.0.1:8000/v1" in loaded.as_run


def test_environment_key_never_goes_to_a_url_of_the_job(tmp_path: Path) -> None:
    """A job from elsewhere may name any URL; the user's OpenAI key is not for it."""
    loaded = load(tmp_path, SHORTEST + "provider: {base_url: 'http://127.0.0.1:8000/v1'}\n")

    assert loaded.job.sole_provider.api_key == ()
    assert loaded.secrets == frozenset()


def test_local_model_needs_no_key_and_wins_over_the_jobs_model(tmp_path: Path) -> None:
    """The same job runs on this machine by changing its provider alone."""
    path = write(tmp_path, SHORTEST)

    job = load_job(path, sets=["provider={local: smollm2-135m}"], environ={}).job

    assert (job.sole_provider.local, job.effective_model) == ("smollm2-135m", "smollm2-135m")
    assert job.sole_provider.base_url is None
