"""P1, P2, P3 against `kill -9`: every row once, and no answer that was received is asked for again."""

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest
from rig import Rig, asked_again, assert_each_row_once, kill_moments, results


def survive(tmp_path: Path, *, rows: int, moments: list[float], options: tuple[str, ...], in_flight: int = 64) -> None:
    with Rig(tmp_path, *options) as rig:
        rig.write_rows(rows)
        rig.write_job(f"limits: {{concurrency: {in_flight}}}\n")
        kills_s = []
        for after_s in moments:
            killed_s = rig.run_and_kill(after_s, "run", "job.yaml")
            assert killed_s is not None, "the run ended before its last kill; a new one would begin"
            kills_s.append(killed_s)
        ended = rig.run("run", "job.yaml", timeout_s=300)
        served = rig.served()

    assert ended.code == 0, ended.stderr
    frame = results(tmp_path / ended.run)
    assert_each_row_once(frame, rows)
    assert frame["status"].unique().to_list() == ["ok"]
    assert (frame["answer"] == frame["text"]).all()
    assert asked_again(served, kills_s) == []
    answered_twice = sum(record.is_good for record in served) - rows
    # What was on the wire at a kill may be paid twice, and nothing else: at most the calls in flight.
    assert answered_twice <= in_flight * len(kills_s)
    runs = [path for path in (tmp_path / "runs" / "job").iterdir() if path.is_dir()]
    assert len(runs) == 1, "one run, gone on with each time"


def test_a_run_survives_three_kills(tmp_path: Path) -> None:
    survive(tmp_path, rows=3_000, moments=kill_moments(3, 3, 3.0), options=("--latency", "100ms"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_of_40000_rows_survives_20_kills(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, rows=40_000, moments=kill_moments(seed, 20, 4.0), options=("--latency", "80ms"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_at_full_speed_survives_10_kills(tmp_path: Path) -> None:
    """Nothing between two answers but the CPU: what was made fast must not have been made late for the journal."""
    survive(tmp_path, rows=150_000, moments=kill_moments(4, 10, 3.0), options=("--latency", "0ms"), in_flight=256)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_answers_on_the_wire(tmp_path: Path, by: signal.Signals) -> None:
    """Exit code 4, nothing that was asked is asked again: the calls in flight are waited for."""
    with Rig(tmp_path, "--latency", "300ms") as rig:
        rig.write_rows(600)
        rig.write_job("limits: {concurrency: 20}\n")
        process = rig.start("run", "job.yaml")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(4.0)
        process.send_signal(by)
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 4, stderr
        assert f"stopped by {by.name}" in stderr
        ended = rig.run("resume", stdout.strip().splitlines()[-1])
        served = rig.served()

    assert ended.code == 0, ended.stderr
    assert_each_row_once(results(tmp_path / ended.run), 600)
    assert len(served) == 600
