"""Jobs that cannot succeed stop at once, with the provider's words and the fix; billed failures are booked."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Asked, Loopback, Said, echo
from rig import KEY, Ended, Rig, results

from batcher.cli.main import main

Cli = Callable[..., Ended]

UNSUPPORTED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
LONG = "This model's maximum context length is 512 tokens. However, your messages resulted in 9000 tokens."


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, in this process and in the test's folder."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RIG_KEY", KEY)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err, said.err
        assert KEY not in said.err
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def write(folder: Path, base_url: str, more: str = "", *, rows: int = 200) -> None:
    lines = [json.dumps({"text": f"แถว {at} dòng 行"}, ensure_ascii=False) + "\n" for at in range(rows)]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "job.yaml").write_text(
        f'input: rows.jsonl\nprompt: "{{{{ text }}}}"\nmodel: gpt-9\nlimits: {{concurrency: 5}}\n'
        f'provider: {{base_url: "{base_url}", api_key: "${{RIG_KEY}}"}}\nretry: {{min_wait: 50ms}}\n{more}',
        encoding="utf-8",
    )


def error(status: int, message: str, **fields: Any) -> Said:
    return Said(status, {"error": {"message": message, **fields}})


def page(status: int) -> Said:
    return Said(status, b"<!DOCTYPE html><html><title>Log in</title></html>", {"content-type": "text/html"})


REFUSED = {
    "max_tokens": (
        error(400, UNSUPPORTED, param="max_tokens", code="unsupported_parameter"), "params: {max_tokens: 9}\n",
        [UNSUPPORTED, "write params.max_completion_tokens instead of params.max_tokens"],
    ),
    "model": (
        error(404, "The model `gpt-9` does not exist.", type="NotFoundError", code=404), "",
        ["does not exist", "check `model`: the provider has no model 'gpt-9'"],
    ),
    "context": (
        error(400, LONG, code="context_length_exceeded"), "",
        [LONG, "a model with a longer context", "shorten the prompt", "fewer examples"],
    ),
    "purse": (error(429, "余额不足或无可用资源包,请充值。", code="1113"), "", ["余额不足", "add credit"]),
    "key": (error(401, f"Incorrect API key provided: {KEY}."), "", ["Incorrect API key", "check the key in `api_key`"]),
    "no api": (Said(404, {"detail": "Not Found"}), "", ["Not Found", "most APIs want it to end in /v1"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_doomed_job_stops_with_the_providers_words_and_the_fix(what: str, tmp_path: Path, cli: Cli) -> None:
    """Exit code 6 after a few dozen calls, no row marked, and the same run goes on once it is mended."""
    said, more, words = REFUSED[what]
    with Loopback(lambda asked: said) as provider:
        write(tmp_path, provider.base_url.removesuffix("/v1"), more)
        ended = cli("run", "job.yaml")
        asked = len(provider.asked)
        provider.answer = echo
        gone_on = cli("run", "job.yaml")

    assert 6 == ended.code, ended.stderr
    for word in words:
        assert word in ended.stderr
    assert asked <= 45
    assert (0, ended.run) == (gone_on.code, gone_on.run)


@pytest.mark.parametrize("client", ["fast", "sdk"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_web_page_in_place_of_an_api_stops_the_run_at_once(
    client: str, status: int, tmp_path: Path, cli: Cli
) -> None:
    """A base_url without its /v1, or a login page: nobody waits out an outage that is none."""
    with Loopback(lambda asked: page(status)) as provider:
        base_url = provider.base_url.removesuffix("/v1")
        write(tmp_path, base_url, f"client: {client}\ncircuit_breaker: {{max_outage: 5s}}\n")
        ended = cli("run", "job.yaml")

    assert 6 == ended.code, ended.stderr
    assert f'(HTTP {status}, "Log in")' in ended.stderr
    assert f"base_url is {base_url}; most APIs want it to end in /v1" in ended.stderr
    assert len(provider.asked) <= 10


def test_pages_after_an_answer_are_an_outage_that_is_waited_out(tmp_path: Path, cli: Cli) -> None:
    """A gateway that shows a page for a while costs no row its tries."""

    def answer(asked: Asked) -> Said:
        return page(200) if 20 < asked.number <= 40 else echo(asked)

    with Loopback(answer) as provider:
        write(tmp_path, provider.base_url, "circuit_breaker: {failure_threshold: 3, recovery_time: 20ms}\n")
        ended = cli("run", "job.yaml")

    assert 0 == ended.code, ended.stderr
    assert 200 == results(ended.run)["status"].to_list().count("ok")


KNOWN = ("invalid_json", "null_content", "empty_choices", "no_choices", "empty_content", "length", "content_filter",
         "refusal", "off_answer", "drip")  # fmt: skip
"""Faults that are billed and whose usage comes with them. `cut` and `cut_chunked` lose it, `no_usage` never had it."""


@pytest.mark.parametrize("client", ["fast", "sdk"])
def test_failures_that_were_billed_are_in_the_ledger_to_the_last_token(tmp_path: Path, client: str) -> None:
    """The run's totals against the simulator's own: whatever is billed and told is booked, once."""
    (tmp_path / "faults.yaml").write_text("drip: 20ms\nfaults: {" + ", ".join(f"{name}: 4%" for name in KNOWN) + "}\n")
    with Rig(tmp_path, "--config", str(tmp_path / "faults.yaml")) as rig:
        rig.write_rows(300)
        rig.write_job(f"client: {client}\nsuccess: {{failed: 100%, invalid: 100%, empty: 100%}}\n")
        ended = rig.run("run", "job.yaml")
        served = rig.served()

    assert 0 == ended.code, ended.stderr
    assert set(KNOWN) == {record.fault for record in served if record.fault}
    totals = json.loads((tmp_path / ended.run / "run.json").read_text())["totals"]
    tokens = [(record.prompt_tokens, record.completion_tokens) for record in served if record.is_billed]
    assert sum(one for one, _ in tokens) == totals["input_tokens"]
    assert sum(two for _, two in tokens) == totals["output_tokens"]
    # gpt-4.1-nano: 0.10 and 0.40 dollars a million.
    cost_usd = sum(Decimal(one) * Decimal("0.10") + Decimal(two) * Decimal("0.40") for one, two in tokens) / 10**6
    assert cost_usd == Decimal(str(totals["cost_usd"]))
