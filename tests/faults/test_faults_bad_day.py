"""A provider on a bad day, and one that enforces its limits: the figures that the guarantees page states."""

import time
from pathlib import Path

import pytest
from rig import Rig, assert_each_row_once, results


@pytest.mark.parametrize("client", ["fast", "sdk"])
def test_every_row_is_ok_on_a_bad_day(tmp_path: Path, client: str) -> None:
    """5 % 500s, 2 % 429s, 1 % dropped connections, 1 % cut bodies: no row is lost, and none answered twice."""
    rows = 2_000 if client == "fast" else 300
    faults = ("--fault", "500=5%", "--fault", "429_ms=2%", "--fault", "reset=1%", "--fault", "cut=1%")
    config = tmp_path / "faults.yaml"
    config.write_text("retry_after: 20ms\nlatency: 10ms\n", encoding="utf-8")
    with Rig(tmp_path, "--config", str(config), *faults) as rig:
        rig.write_rows(rows)
        rig.write_job(f"client: {client}\nlimits: {{concurrency: 50}}\n")
        ended = rig.run("run", "job.yaml")
        served = rig.served()

    assert ended.code == 0, ended.stderr
    frame = results(tmp_path / ended.run)
    assert_each_row_once(frame, rows)
    assert frame["status"].unique().to_list() == ["ok"]
    assert sum(record.is_good for record in served) == rows
    assert frame["attempts"].sum() == len(served)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
def test_limits_hold_and_are_used(tmp_path: Path, window: str) -> None:
    """600 requests and 60,000 tokens a minute at a server that enforces them: 1 % refused at most, 95 % used."""
    words = "word " * 60
    with Rig(tmp_path, "--rpm", "600", "--tpm", "60000", "--window", window, "--latency", "200ms") as rig:
        rig.write_rows(4_000)
        rig.write_job(
            "limits: {requests_per_minute: 600, tokens_per_minute: 60000}\n", prompt=f"{words} {{{{ text }}}}"
        )
        started_s = time.time()
        rig.run_and_kill(130.0, "run", "job.yaml")
        served = rig.served()

    minute = [record for record in served if 62.0 <= record.arrived_s - served[0].arrived_s < 122.0]
    refused = sum(record.refused_by is not None for record in served)
    tokens = sum(record.prompt_tokens + record.completion_tokens for record in minute if record.is_good)
    requests = sum(record.is_good for record in minute)
    assert time.time() - started_s > 120
    assert refused <= 0.01 * len(served)
    assert tokens >= 0.95 * 60_000 or requests >= 0.95 * 600
