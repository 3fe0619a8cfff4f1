"""The tail does not hang: stuck calls are answered by a copy, and copies stay a bounded share."""

import time
from pathlib import Path

from rig import Rig, assert_each_row_once, results


def test_calls_that_hang_are_answered_by_a_copy(tmp_path: Path) -> None:
    """1 % of the calls never get an answer and the timeout is a minute; the run ends in seconds all the same."""
    with Rig(tmp_path, "--latency", "20ms", "--fault", "hang=1%") as rig:
        rig.write_rows(1_000)
        rig.write_job("limits: {concurrency: 20}\ntimeout: 60s\n")
        job = tmp_path / "job.yaml"
        hedged = "retry: {min_wait: 20ms, hedge: {after: p95, max_extra: 5%}}"
        job.write_text(job.read_text(encoding="utf-8").replace("retry: {min_wait: 20ms}", hedged), encoding="utf-8")
        started_s = time.monotonic()
        ended = rig.run("run", "job.yaml", timeout_s=100)
        took_s = time.monotonic() - started_s
        served = rig.served()

    assert ended.code == 0, ended.stderr
    assert took_s < 40, "no call waited for its timeout"
    frame = results(tmp_path / ended.run)
    assert_each_row_once(frame, 1_000)
    assert frame["status"].unique().to_list() == ["ok"]
    # The hung ones and up to 5 % copies.
    assert len(served) <= 1_000 * 1.05 + 5
    hedged_rows = frame.filter(frame["attempts"] > 1)
    assert len(hedged_rows) >= 5
    assert hedged_rows["cost_usd"].null_count() == len(hedged_rows), "what a copy given up has cost nobody knows"
