"""`batcher doctor` from outside: what each kind of provider is found to be, the exit codes, and what is kept."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Asked, Loopback, Said, completion
from rig import Ended, Rig

from batcher.cli.main import main
from batcher.errors import JobError
from batcher.local import models

KEYS = ("sk-house-Zq8vT3mW7nR1yB5kD9xF2hJ6", "sk-house-Lp4cX6uE0sA8gV2tN7wQ9bM3")

PIECE_CHARS = 12

Cli = Callable[..., Ended]


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, in this process and in the test's folder."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "BATCHER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KEY_A", KEYS[0])
    monkeypatch.setenv("KEY_B", KEYS[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "สวัสดี"}\n{"text": "xin chào"}\n{"text": "你好"}\n', "utf-8")

    def call(*arguments: str) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err, said.err
        for key in KEYS:
            for at in range(len(key) - PIECE_CHARS + 1):
                assert key[at : at + PIECE_CHARS] not in said.out + said.err
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return call


def write_job(folder: Path, base_url: str, more: str = "", *, keys: str = '"${KEY_A}"') -> None:
    (folder / "ตั๋ว.yaml").write_text(
        f'input: rows.jsonl\nprompt: "{{{{ text }}}}"\nmodel: gpt-4.1-nano\n'
        f'provider: {{base_url: "{base_url}", api_key: [{keys}]}}\n{more}',
        encoding="utf-8",
    )


def diagnose(cli: Cli, *arguments: str) -> tuple[int, dict[str, Any]]:
    ended = cli("doctor", "ตั๋ว.yaml", "--json", *arguments)
    (line,) = ended.stdout.splitlines()
    said = json.loads(line)
    assert ended.code == said["exit_code"], ended.stderr
    return ended.code, said


def states(key: dict[str, Any], *names: str) -> list[str]:
    return [key[name]["state"] for name in names]


def listed(*names: str) -> Said:
    return Said(body={"object": "list", "data": [{"id": name} for name in names]})


def plain(asked: Asked) -> Said:
    """A provider without frills: a list, and a word to everything."""
    if asked.body is None:
        return listed("gpt-4.1-nano")
    return completion("được") if asked.path.endswith("/chat/completions") else Said(404, {"error": {"message": "no"}})


def simulate(folder: Path, **options: Any) -> Rig:
    """The simulator with these options, as a process of its own."""
    config = folder / "simulator.yaml"
    config.write_text(json.dumps(options), encoding="utf-8")
    return Rig(folder, "--config", str(config))


# ------------------------------------------------------------------------------------------------- the simulator


def test_a_good_provider_is_told_line_by_line_and_remembered(tmp_path: Path, cli: Cli) -> None:
    """Every word of the contract has its line, stdout holds nothing else, and no file holds a key."""
    with simulate(tmp_path, models=["gpt-4.1-nano"], limits={"requests_per_minute": 6000}) as rig:
        write_job(tmp_path, rig.base_url, "params: {temperature: 0, max_tokens: 16}\nanswer: {labels: [a, b]}\n")
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 0 == ended.code, ended.stderr
    for expected in (
        "key: accepted",
        "answers, in the list",
        "returned - tokens and costs are counted",
        "max_completion_tokens works; max_tokens works",
        "obeyed - answer.labels are sent as an enum",
        "logprobs            not returned",
        "prompt logprobs     not returned",
        "seed                repeatable",
        "system_fingerprint  fp_simulator",
        "x-ratelimit-limit-requests: 6000",
        "clock               agrees with ours",
        "latency",
        "job's parameters    taken",
        "input and",
        "the job can run",
    ):
        assert expected in ended.stdout
    kept = (tmp_path / "runs" / "ตั๋ว" / "doctor.json").read_text(encoding="utf-8")
    assert "1" == str(json.loads(kept)["version"])
    for key in KEYS:
        assert key[:PIECE_CHARS] not in kept
    assert "" == cli("status").stdout


@pytest.mark.parametrize(("structured", "expected"), [("refused", "refused"), ("ignored", "ignored"), ("crashes", "refused"), ("taken", "yes")])  # fmt: skip  # noqa: E501
def test_a_schema_is_obeyed_ignored_or_refused(tmp_path: Path, cli: Cli, structured: str, expected: str) -> None:
    with simulate(tmp_path, structured=structured) as rig:
        write_job(tmp_path, rig.base_url)
        code, said = diagnose(cli)

    assert (0, [expected]) == (code, states(said["keys"][0], "json_schema"))


def test_the_simulators_count_of_calls_is_the_doctors(tmp_path: Path, cli: Cli) -> None:
    """What it says it cost is what it cost."""
    with simulate(tmp_path, models=["gpt-4.1-nano"], usage=True) as rig:
        write_job(tmp_path, rig.base_url)
        _, said = diagnose(cli)
        served = [one for one in rig.served() if one.is_good]

    assert sum(one.prompt_tokens for one in served) == said["input_tokens"]
    assert sum(one.completion_tokens for one in served) == said["output_tokens"]


def test_one_of_two_keys_refused_is_a_warning(tmp_path: Path, cli: Cli) -> None:
    """The job can run: a run sets that key aside."""
    with simulate(tmp_path, keys=[KEYS[0]]) as rig:
        write_job(tmp_path, rig.base_url, keys='"${KEY_A}", "${KEY_B}"')
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 0 == ended.code
    assert "key 1 of 2: accepted" in ended.stdout
    assert "key 2 of 2: refused: HTTP 401" in ended.stdout
    assert "the job can run, with 1 of its 2 keys" in ended.stdout
    assert "warning: a key was refused" in ended.stderr


def test_no_usage_is_said_and_the_cost_is_unknown(tmp_path: Path, cli: Cli) -> None:
    with simulate(tmp_path, usage=False) as rig:
        write_job(tmp_path, rig.base_url)
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 0 == ended.code
    assert "not returned - costs are unknown, and a budget cannot be kept" in ended.stdout
    assert "that did not say" in ended.stdout


# ----------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize("options", [{"keys": ["sk-another-one-0123456789"]}, {"models": ["gpt-4.1-mini"]}])
def test_a_refused_key_or_model_is_6(tmp_path: Path, cli: Cli, options: dict[str, Any]) -> None:
    with simulate(tmp_path, **options) as rig:
        write_job(tmp_path, rig.base_url)
        code, said = diagnose(cli)

    assert 6 == code
    assert said["keys"][0]["failure"]["words"].startswith(("HTTP 401: Incorrect API key", "HTTP 404: The model"))
    assert said["keys"][0]["failure"]["hint"]


def test_max_tokens_refused_is_6_with_what_to_write(tmp_path: Path, cli: Cli) -> None:
    def answer(asked: Asked) -> Said:
        if asked.body is not None and "max_tokens" in asked.body:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return Said(400, {"error": {"message": words, "param": "max_tokens", "code": "unsupported_parameter"}})
        return plain(asked)

    with Loopback(answer) as provider:
        write_job(tmp_path, provider.base_url, "params: {max_tokens: 16}\n")
        ended = cli("doctor", "ตั๋ว.yaml")
        write_job(tmp_path, provider.base_url, "params: {max_completion_tokens: 16}\n")
        mended = cli("doctor", "ตั๋ว.yaml")

    assert (6, 0) == (ended.code, mended.code)
    assert "error: write params.max_completion_tokens instead of params.max_tokens" in ended.stderr
    assert "max_tokens is refused (HTTP 400: Unsupported parameter" in ended.stdout


def test_a_provider_that_is_away_is_4_and_what_was_known_stays(tmp_path: Path, cli: Cli) -> None:
    """An outage must not wipe out what was found on a good day."""
    with Loopback(plain) as provider:
        write_job(tmp_path, provider.base_url)
        assert 0 == cli("doctor", "ตั๋ว.yaml").code
        kept = (tmp_path / "runs" / "ตั๋ว" / "doctor.json").read_bytes()

    code, said = diagnose(cli)

    assert "a run would wait for it, and nothing was found out about the job" in cli("doctor", "ตั๋ว.yaml").stdout
    assert (4, "connection") == (code, said["keys"][0]["failure"]["kind"])
    assert kept == (tmp_path / "runs" / "ตั๋ว" / "doctor.json").read_bytes()


@pytest.mark.parametrize("more", ["params: {stream: true}\n", "limits: {rpm: 5}\n", "prompt: [\n"])
def test_a_wrong_job_is_2_and_nothing_is_sent(tmp_path: Path, cli: Cli, more: str) -> None:
    with Loopback(plain) as provider:
        write_job(tmp_path, provider.base_url, more)
        ended = cli("doctor", "ตั๋ว.yaml")

    assert (2, "", []) == (ended.code, ended.stdout, provider.asked)
    assert not (tmp_path / "runs").exists()


def test_logprobs_that_do_not_come_are_2_as_a_run_would_say(tmp_path: Path, cli: Cli) -> None:
    """The job asks for what the provider takes and does not give."""
    with Loopback(plain) as provider:
        write_job(tmp_path, provider.base_url, "params: {logprobs: true}\n")
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 2 == ended.code
    assert "error: params.logprobs asks for log-probabilities, which cannot be had from gpt-4.1-nano" in ended.stderr


def test_a_refused_value_is_6_with_what_to_do(tmp_path: Path, cli: Cli) -> None:
    """Reasoning models take the default temperature alone; the fix names the job's own line."""
    words = "Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) is supported."

    def answer(asked: Asked) -> Said:
        if asked.body is not None and asked.body.get("temperature") == 0.1:
            return Said(400, {"error": {"message": words, "param": "temperature", "code": "unsupported_value"}})
        return plain(asked)

    with Loopback(answer) as provider:
        write_job(tmp_path, provider.base_url, "params: {temperature: 0.1}\n")
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 6 == ended.code
    assert f"{words}; remove params.temperature or give the value it allows" in ended.stdout
    assert "warning: params were refused when doctor tried them" in ended.stderr


def test_check_live_and_doctor_agree_on_the_exit_code(tmp_path: Path, cli: Cli) -> None:
    """A page in place of an API is refused, a key among several is not missed, an outage is an outage."""
    page = Said(200, b"<html><body>Welcome</body></html>", {"content-type": "text/html"})
    busy = Said(503, {"error": {"message": "quá tải"}})

    def one_key(asked: Asked) -> Said:
        return Said(401, {"error": {"message": "no"}}) if KEYS[1] in (asked.authorization or "") else plain(asked)

    codes = []
    with Loopback(one_key) as provider:
        write_job(tmp_path, provider.base_url, keys='"${KEY_A}", "${KEY_B}"')
        for answer in (one_key, lambda _: page, lambda _: busy, lambda _: Said(402, {"error": {"message": "pay"}})):
            provider.answer = answer
            codes.append((cli("check", "ตั๋ว.yaml", "--live").code, cli("doctor", "ตั๋ว.yaml").code))

    assert [(0, 0), (6, 6), (4, 4), (6, 6)] == codes


# ------------------------------------------------------------------------------------------------- odd providers


def test_without_v1_the_right_address_is_named(tmp_path: Path, cli: Cli) -> None:
    page = Said(200, b"<html><body>Welcome</body></html>", {"content-type": "text/html"})
    with Loopback(lambda asked: plain(asked) if asked.path.startswith("/v1/") else page) as provider:
        write_job(tmp_path, provider.base_url.removesuffix("/v1"))
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 6 == ended.code
    assert "an HTML page, not JSON" in ended.stdout
    assert f"{provider.base_url} answers; write base_url: {provider.base_url}" in ended.stdout


def test_a_redirect_is_6_and_the_key_goes_nowhere_else(tmp_path: Path, cli: Cli) -> None:
    with Loopback() as other, Loopback(lambda _: Said(307, b"", {"location": f"{other.base_url}/x"})) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("doctor", "ตั๋ว.yaml")

    assert (6, []) == (ended.code, other.asked)
    assert f"the address redirects to {other.base_url}/x" in ended.stdout


def test_words_of_a_provider_repaint_nothing_and_hold_no_key(tmp_path: Path, cli: Cli) -> None:
    """A hostile provider quotes the key and sends escapes; `cli` looks for the key in all that is said."""

    def answer(asked: Asked) -> Said:
        words = f"\x1b]0;owned\x07\x1b[2J {asked.authorization} ลองใหม่"
        return Said(401, {"error": {"message": words}}, {"x-ratelimit-note": asked.authorization})

    with Loopback(answer) as provider:
        write_job(tmp_path, provider.base_url)
        ended = cli("doctor", "ตั๋ว.yaml")

    kept = (tmp_path / "runs" / "ตั๋ว" / "doctor.json").read_text(encoding="utf-8")
    assert 6 == ended.code
    assert "ลองใหม่" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr + kept
    assert KEYS[0][:PIECE_CHARS] not in kept


def test_a_broken_memory_is_written_anew(tmp_path: Path, cli: Cli) -> None:
    with Loopback(plain) as provider:
        write_job(tmp_path, provider.base_url)
        assert 0 == cli("doctor", "ตั๋ว.yaml").code
        kept = tmp_path / "runs" / "ตั๋ว" / "doctor.json"
        kept.write_bytes(b"{")
        ended = cli("doctor", "ตั๋ว.yaml")

    assert 0 == ended.code
    assert "is not what was written" in ended.stderr
    assert 1 == len(json.loads(kept.read_text(encoding="utf-8"))["entries"])


# ---------------------------------------------------------------------------------------------- the local model


@pytest.mark.slow
def test_the_local_model_is_started_and_probed(tmp_path: Path, cli: Cli) -> None:
    """A real server: schema, logprobs, seed and both limits work, and echo is not there."""
    pytest.importorskip("xllamacpp", reason="batcher[local] is not installed")
    try:
        models.pull("smollm2-135m")
    except JobError as error:
        pytest.skip(f"no model: {error.message}")
    (tmp_path / "ตั๋ว.yaml").write_text(
        'input: rows.jsonl\nprompt: "{{ text }}"\nprovider: {local: smollm2-135m}\n', encoding="utf-8"
    )

    code, said = diagnose(cli)

    key = said["keys"][0]
    assert (0, "local", "smollm2-135m", 0) == (code, said["base_url"], said["model"], Decimal(said["cost_usd"]))
    assert ["yes"] * 6 == states(key, "usage", "json_schema", "logprobs", "seed", "max_tokens", "max_completion_tokens")
    assert ["ignored"] == states(key, "prompt_logprobs")
