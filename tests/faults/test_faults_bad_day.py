"""A provider on a bad day: no row is lost, and none is answered twice."""

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
