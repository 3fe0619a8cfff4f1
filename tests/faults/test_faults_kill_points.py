"""P1, P2, P3 against SIGKILL at every operation of the disk: start-up, sealing, results, resume and retry.

`test_faults_kill.py` kills at moments of the clock; here the moments are those at which something is half written.
"""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from killed_runs import Died, Killer
from rig import KEY, Rig
from whole import LOG_BYTES_MAX, Round

CONCURRENCY = 3
MOMENTS = ("before", "middle", "after")
ENV = {"RIG_KEY": KEY}

ONE_LABEL = 'answer: {labels: ["TEXT_3"], attempts: 0, structured: "off"}\nsuccess: {invalid: 100%}\n'
"""The answer is the question: row 3 is ok and all others are invalid."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig"), "--latency", "2ms") as made:
        yield made


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with Killer(tmp_path_factory.mktemp("killer"), log_bytes_max=LOG_BYTES_MAX) as made:
        yield made


def was_killed(died: Died) -> bool:
    assert died.code in (0, -signal.SIGKILL), died.stderr
    return died.code != 0


def kill_once(killer: Killer, job: Round, command: str, kill_at: int, moment: str) -> bool:
    """One process that is killed there, if it comes so far; and what must hold the moment after."""
    before, found_before = job.served(), job.journalled()
    died = killer(command, job.job, job.runs, kill_at=kill_at, moment=moment, env=ENV)
    if command != "retry":
        after = job.served()
        assert [] == [row for row in found_before if after[row] != before[row]]
    assert found_before <= job.journalled()
    job.assert_results_are_whole_or_absent()
    return was_killed(died)


def finish(job: Round, kills: int) -> None:
    """No answer in the journal is asked for again, and those that are asked twice were in flight."""
    found, before = job.journalled(), job.served()
    assert 0 == (job.resume() if job.directories() else job.run()).code
    after = job.served()
    assert [] == [row for row in found if after[row] != before[row]]
    assert set(range(job.rows)) == set(after)
    assert after.total() - job.rows <= 2 * CONCURRENCY * kills
    assert 1 == len(job.directories())
    job.assert_whole()
    job.assert_output_is_whole()


def survives(rig: Rig, killer: Killer, folder: Path, kill_at: int, moment: str) -> bool:
    """A run killed at one operation; whether it was reached."""
    job = Round(rig, folder / f"{moment}-{kill_at}", concurrency=CONCURRENCY)
    killed = kill_once(killer, job, "run", kill_at, moment)
    finish(job, 1)
    return killed


def test_a_run_may_be_killed_at_any_operation(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    """Every second operation, each with one of the three moments; the slow test has all three of each."""
    chance = random.Random(11)
    kill_at = 0
    while survives(rig, killer, tmp_path, kill_at := kill_at + 2, chance.choice(MOMENTS)):
        pass
    assert kill_at > 25


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_may_be_killed_at_any_moment_of_any_operation(
    rig: Rig, killer: Killer, tmp_path: Path, moment: str
) -> None:
    for attempt in range(3):
        kill_at = 0
        while survives(rig, killer, tmp_path / str(attempt), kill_at := kill_at + 1, moment):
            pass
        assert kill_at > 25


def killed_again_and_again(rig: Rig, killer: Killer, folder: Path, chance: random.Random) -> int:
    """Start and resume, killed a little further on each time, until one comes through; how many kills that took."""
    job = Round(rig, folder, rows=30, concurrency=CONCURRENCY)
    kills = 0
    # A kill at start-up makes no way, so it goes on a little later each time.
    while kill_once(killer, job, "run", chance.randrange(1, 12 + 2 * kills), chance.choice(MOMENTS)):
        kills += 1
        if job.is_finished:  # killed in its very last operation
            break
    finish(job, kills)
    return kills


def test_a_run_killed_at_every_start_gets_to_its_end(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    kills = [killed_again_and_again(rig, killer, tmp_path / str(seed), random.Random(seed)) for seed in range(2)]
    assert sum(kills) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_killed_at_every_start_get_to_their_ends(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    kills = [killed_again_and_again(rig, killer, tmp_path / str(seed), random.Random(seed)) for seed in range(60)]
    assert sum(kills) > 300


def retry_survives(rig: Rig, killer: Killer, folder: Path, kill_at: int, moment: str) -> bool:
    job = Round(rig, folder / f"{moment}-{kill_at}", concurrency=CONCURRENCY, more=ONE_LABEL)
    assert 0 == job.run().code
    killed = kill_once(killer, job, "retry", kill_at, moment)
    asked = job.served()
    assert 1 == asked[3]
    assert all(count <= 2 for count in asked.values())

    # Every row has its outcome, the old one or the new: there is nothing to ask, and the results are made again.
    assert 0 == job.resume().code
    assert asked == job.served()
    frame = pl.read_parquet(job.directories()[-1] / "results.parquet")
    assert list(range(job.rows)) == frame["row"].to_list()
    assert job.texts == frame["answer"].to_list()
    return killed


def test_a_retry_may_be_killed_at_any_operation(rig: Rig, killer: Killer, tmp_path: Path) -> None:
    chance = random.Random(5)
    kill_at = -1
    while retry_survives(rig, killer, tmp_path, kill_at := kill_at + 3, chance.choice(MOMENTS)):
        pass
    assert kill_at > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_retry_may_be_killed_at_any_moment_of_any_operation(
    rig: Rig, killer: Killer, tmp_path: Path, moment: str
) -> None:
    kill_at = 0
    while retry_survives(rig, killer, tmp_path, kill_at := kill_at + 1, moment):
        pass
    assert kill_at > 15
