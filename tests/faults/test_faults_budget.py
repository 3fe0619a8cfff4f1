"""P5: the wall, seen from the server's side, to the last nano-dollar."""

import json
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loopback import Asked, Loopback, Said, completion
from rig import Ended, Rig, assert_each_row_once, results

PRICE = "price: {input: 0.10, cached_input: 0.025, output: 0.40}\ncached_share: 25%\nreasoning_tokens: 7\n"
"""What gpt-4.1-nano costs by the price list, with input from the cache and answers that were reasoned about."""

PARAMS = "params: {max_tokens: 64}\n"


def rig_of(tmp_path: Path, more: str = "latency: 50ms\n") -> Rig:
    config = tmp_path / "simulator.yaml"
    config.write_text(PRICE + more, encoding="utf-8")
    return Rig(tmp_path, "--config", str(config))


def billed(rig: Rig) -> Decimal:
    return sum((record.cost_usd or Decimal(0) for record in rig.served()), Decimal(0))


def run_file(tmp_path: Path, ended: Ended) -> Any:
    return json.loads((tmp_path / ended.run / "run.json").read_text(encoding="utf-8"))


def booked(tmp_path: Path, ended: Ended) -> Decimal:
    return Decimal(run_file(tmp_path, ended)["totals"]["cost_usd"])


@pytest.mark.parametrize(
    ("rows", "in_flight", "cap"),
    [(1_500, 300, Decimal("0.012")), pytest.param(5_000, 1_000, Decimal("0.04"), marks=pytest.mark.slow)],
)
def test_a_run_stops_at_the_wall_and_goes_on_when_it_is_raised(
    tmp_path: Path, rows: int, in_flight: int, cap: Decimal
) -> None:
    """Exit 5 with at least 95 % used; raised by --set the same run goes on to its end. Both witnesses agree."""
    with rig_of(tmp_path) as rig:
        rig.write_rows(rows)
        rig.write_job(f"params: {{max_tokens: 32}}\nbudget: {{usd: {cap}}}\nlimits: {{concurrency: {in_flight}}}\n")
        stopped = rig.run("run", "job.yaml")
        assert stopped.code == 5, stopped.stderr
        assert f"the budget of ${cap} is used up" in stopped.stderr
        assert 1 == stopped.stderr.count("hint: ")
        assert "hint: raise budget.usd in job.yaml, then `batcher run job.yaml` goes on" in stopped.stderr
        assert cap * Decimal("0.95") <= billed(rig) <= cap
        assert billed(rig) == booked(tmp_path, stopped)
        assert len(rig.served()) < rows

        again = rig.run("run", "job.yaml")
        assert again.code == 5, again.stderr
        assert billed(rig) <= cap

        ended = rig.run("run", "job.yaml", "--set", "budget.usd=20")
        assert ended.code == 0, ended.stderr
        assert ended.run == stopped.run
        assert billed(rig) == booked(tmp_path, ended)
        assert len(rig.served()) == rows
    assert_each_row_once(results(tmp_path / ended.run), rows)


def test_failures_that_were_billed_count_and_stay_exact(tmp_path: Path) -> None:
    """Null content, no choices, cut answers and answers asked again; some rows are in the middle of it at the wall."""
    faults = (
        "faults: {null_content: 5%, empty_choices: 5%, off_answer: 5%, length: 5%, '500': 2%}\nanswer: label:yes,no\n"
    )
    rows, cap = 1_000, Decimal("0.007")
    with rig_of(tmp_path, faults + "latency: 10ms\n") as rig:
        rig.write_rows(rows)
        job = f"{PARAMS}answer: {{labels: [yes, no], attempts: 1}}\nsuccess: {{failed: 100%, invalid: 100%}}\n"
        rig.write_job(f"{job}budget: {{usd: {cap}}}\nlimits: {{concurrency: 50}}\n")
        stopped = rig.run("run", "job.yaml")
        assert stopped.code == 5, stopped.stderr
        assert cap * Decimal("0.95") <= billed(rig) <= cap
        assert billed(rig) == booked(tmp_path, stopped)

        path = tmp_path / "job.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace(f"usd: {cap}", "usd: 20"), encoding="utf-8")
        ended = rig.run("run", "job.yaml")
        assert ended.code == 0, ended.stderr
        assert billed(rig) == booked(tmp_path, ended)


CALL = Decimal("0.000044")
"""200 tokens in and 60 out."""


def billing(asked: Asked) -> Said:
    """Bills each request as it comes, whether its client is still there for the answer or not."""
    time.sleep(0.1)
    return completion(asked.text, usage={"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260})


def kill_after(rig: Rig, server: Loopback, calls: int) -> None:
    """Kill a run in the midst of its calls: when so many more have come."""
    before = len(server.asked)
    process = rig.start("run", "job.yaml")
    deadline_s = time.monotonic() + 60
    while len(server.asked) < before + calls:
        assert process.poll() is None, "the run ended before its kill"
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)


def test_a_run_that_is_killed_does_not_pass_the_cap(tmp_path: Path) -> None:
    """Calls in flight at a kill are billed and in no journal; their pledge is."""
    cap = Decimal("0.035")
    with rig_of(tmp_path) as rig, Loopback(billing) as server:
        rig.base_url = server.base_url
        rig.write_rows(3_000)
        rig.write_job(f"{PARAMS}budget: {{usd: {cap}}}\nlimits: {{concurrency: 20}}\n")
        for calls in (150, 1, 310):
            kill_after(rig, server, calls)
        ended = rig.run("run", "job.yaml")
        assert ended.code == 5, ended.stderr
        assert "the run was killed: calls that were in flight may have cost up to" in ended.stderr
        spent = CALL * len(server.asked)

    lost = Decimal(run_file(tmp_path, ended)["budget"]["lost_usd"])
    assert booked(tmp_path, ended) < spent <= cap
    # What three kills took from the budget is bounded, and all the rest was used.
    assert Decimal(0) < lost <= cap * Decimal("0.15")
    assert booked(tmp_path, ended) + lost >= cap * Decimal("0.95")


@pytest.mark.parametrize("budget", ["", "budget: {usd: 10}\n"])
def test_calls_for_rows_that_ctrl_c_left_unfinished_are_on_the_books(tmp_path: Path, budget: str) -> None:
    """Every second answer is no answer and asked again; calls, tokens and dollars equal the provider's all the same."""

    def wrong_first(asked: Asked) -> Said:
        time.sleep(0.05)
        usage = {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260}
        return completion("ไม่รู้" if asked.number % 2 else "yes", usage=usage)

    with rig_of(tmp_path) as rig, Loopback(wrong_first) as server:
        rig.base_url = server.base_url
        rig.write_rows(300)
        rig.write_job(
            f"{PARAMS}{budget}answer: {{labels: [yes, no], attempts: 9}}\nlimits: {{concurrency: 20}}\n"
            "success: {same: 100%}\n"
        )
        process = rig.start("run", "job.yaml")
        deadline_s = time.monotonic() + 60
        while len(server.asked) < 150:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 4, stderr
        (stopped,) = (tmp_path / "runs" / "job").glob("20*")
        totals = json.loads((stopped / "run.json").read_text(encoding="utf-8"))["totals"]
        assert 0 < totals["unfinished"]["calls"]
        assert_same_books(totals, len(server.asked))

        ended = rig.run("resume", str(stopped))
        assert ended.code == 0, ended.stderr
        assert_same_books(run_file(tmp_path, ended)["totals"], len(server.asked))


def assert_same_books(totals: Any, calls: int) -> None:
    assert (calls, 200 * calls, 60 * calls) == (totals["calls"], totals["input_tokens"], totals["output_tokens"])
    assert CALL * calls == Decimal(totals["cost_usd"])


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_a_price_nothing_is_sent_or_written(tmp_path: Path, command: str) -> None:
    """A model that nobody knows is never booked at zero."""
    with rig_of(tmp_path) as rig:
        rig.write_rows(10)
        job = rig.write_job("budget: {usd: 10}\n")
        job.write_text(job.read_text(encoding="utf-8").replace("gpt-4.1-nano", "โมเดล-x"), encoding="utf-8")
        ended = rig.run(command, "job.yaml")
        assert rig.served() == []
    assert ended.code == 2
    assert "the model โมเดล-x has no known price, so budget.usd cannot hold: give provider.price" in ended.stderr
    assert not (tmp_path / "runs").exists()


def test_a_budget_that_holds_no_call_says_so(tmp_path: Path) -> None:
    """Without max_tokens one answer may cost more than the whole budget: the run has not spent it, and says why."""
    with rig_of(tmp_path) as rig:
        rig.write_rows(10)
        rig.write_job("budget: {usd: 0.01}\n")
        ended = rig.run("run", "job.yaml")
        assert ended.code == 5, ended.stderr
        assert rig.served() == []
        assert "the budget of $0.01 cannot hold one call, which may cost up to $0.0131" in ended.stderr
        assert "32,768 tokens, as the job sets no params.max_tokens" in ended.stderr

        rig.write_job(f"{PARAMS}budget: {{usd: 0.01}}\n")
        ended = rig.run("run", "job.yaml")
        assert ended.code == 0, ended.stderr


@pytest.mark.parametrize(
    ("usage", "code"),
    [
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 5, id="zeros"),
        pytest.param({"prompt_tokens": 200, "completion_tokens": 2, "total_tokens": 260}, 5, id="gemini"),
    ],
)
def test_a_usage_that_tells_less_than_was_billed_does_not_open_the_wall(
    tmp_path: Path, usage: dict[str, int], code: int
) -> None:
    """A gateway that counts nothing, and a provider that leaves its reasoning out of completion_tokens."""
    cap = Decimal("0.002")
    with rig_of(tmp_path) as rig, Loopback(lambda asked: completion(asked.text, usage=usage)) as server:
        rig.base_url = server.base_url
        rig.write_rows(200)
        rig.write_job(f"{PARAMS}budget: {{usd: {cap}}}\nlimits: {{concurrency: 20}}\n")
        ended = rig.run("run", "job.yaml")
        assert ended.code == code, ended.stderr
        assert 0 < CALL * len(server.asked) <= cap
