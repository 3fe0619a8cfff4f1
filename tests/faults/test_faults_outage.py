"""P7: an outage costs no row its tries, and a poisoned row on a healthy provider is set aside."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from rig import Rig, assert_each_row_once, results

QUICK = "circuit_breaker: {recovery_time: 200ms}\nretry: {attempts: 2, min_wait: 20ms}\nlimits: {concurrency: 8}\n"


def change(rig: Rig, **fields: object) -> None:
    url = rig.base_url.removesuffix("/v1") + "/simulator/config"
    request = urllib.request.Request(url, json.dumps(fields).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def good_answers(rig: Rig) -> int:
    with urllib.request.urlopen(rig.base_url.removesuffix("/v1") + "/simulator/witness", timeout=10) as totals:
        return int(json.load(totals)["good"])


def write_job(rig: Rig, more: str) -> None:
    rig.write_job()
    job = rig.folder / "job.yaml"
    job.write_text(job.read_text(encoding="utf-8").replace("retry: {min_wait: 20ms}\n", "") + more, encoding="utf-8")


def test_an_outage_costs_no_row_its_tries(tmp_path: Path) -> None:
    """Five seconds of 503 with two tries a row: every row waits, is asked when the provider is back, and is ok."""
    with Rig(tmp_path, "--latency", "20ms") as rig:
        rig.write_rows(1_000)
        write_job(rig, QUICK)
        process = rig.start("run", "job.yaml")
        while good_answers(rig) < 100:
            assert process.poll() is None, "the run ended before the outage"
            time.sleep(0.02)
        change(rig, faults={"503": 1.0})
        time.sleep(5.0)
        change(rig, faults={})
        stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 0, stderr
    assert "is down" in stderr
    assert "is back" in stderr
    frame = results(tmp_path / stdout.strip().splitlines()[-1])
    assert_each_row_once(frame, 1_000)
    assert frame["status"].unique().to_list() == ["ok"]


def test_a_provider_that_is_gone_stops_the_run_resumable(tmp_path: Path) -> None:
    """Refused connections: nothing fails, exit code 4 past max_outage, and a resume asks only what is missing."""
    with Rig(tmp_path, "--latency", "20ms") as rig:
        rig.write_rows(300)
        write_job(rig, QUICK.replace("200ms}", "200ms, max_outage: 2s}"))
        job = (tmp_path / "job.yaml").read_text(encoding="utf-8")
        with subprocess.Popen([sys.executable, "-c", FREE_PORT], stdout=subprocess.PIPE, text=True) as free:
            assert free.stdout is not None
            port = free.stdout.read().strip()
        gone = job.replace(rig.base_url, f"http://127.0.0.1:{port}/v1")
        (tmp_path / "job.yaml").write_text(gone, encoding="utf-8")
        ended = rig.run("run", "job.yaml")
        assert ended.code == 4, ended.stderr
        assert "max_outage" in ended.stderr

        (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
        ended = rig.run("run", "job.yaml")
        assert ended.code == 0, ended.stderr
        assert len(rig.served()) == 300
    assert_each_row_once(results(tmp_path / ended.run), 300)


FREE_PORT = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"


def test_poisoned_rows_are_set_aside_and_the_rest_is_answered(tmp_path: Path) -> None:
    """Six rows that always meet a 500, the last one among them; the breaker must not take them for an outage."""
    config = tmp_path / "faults.yaml"
    config.write_text('rules: [{contains: "POISON", fault: 500}]\nlatency: 20ms\n', encoding="utf-8")
    with Rig(tmp_path, "--config", str(config)) as rig:
        poisoned = {5, 6, 7, 100, 150, 299}
        with (tmp_path / "rows.jsonl").open("w", encoding="utf-8") as file:
            for index in range(300):
                text = f"POISON {index}" if index in poisoned else f"row {index}"
                file.write(json.dumps({"id": f"r{index}", "text": text}) + "\n")
        write_job(rig, QUICK.replace("recovery_time: 200ms", "recovery_time: 30s") + "success: {failed: 5%}\n")
        ended = rig.run("run", "job.yaml", timeout_s=60)

    assert ended.code == 0, ended.stderr
    frame = results(tmp_path / ended.run)
    assert_each_row_once(frame, 300)
    failed = frame.filter(frame["status"] == "failed")
    assert set(failed["row"].to_list()) == poisoned
    assert set(failed["error_kind"].to_list()) == {"server"}
