"""`benchmarks/run.py` from its command to tables and plots, with few rows."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RUN = ROOT / "benchmarks" / "run.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of the smallest workload."""
    output = tmp_path_factory.mktemp("bench")
    done = run("--rows", 10, "--runs", 1, "--workload", "huge rows", "--program", "batcher", "--output", output)
    return output, done


def test_a_small_benchmark_ends_with_its_tables(measured) -> None:
    """The smoke test of `make bench`: server, contenders, measurement, tables."""
    output, done = measured

    assert (0, []) == (done.returncode, [line for line in done.stderr.splitlines() if line.startswith("error")])
    written = (output / "results.md").read_text(encoding="utf-8")
    assert done.stdout.rstrip() == written.rstrip()
    for words in ("### huge rows", "| rawest client | 256 |", "| batcher | 256 |", "first request of a job of one row"):
        assert words in written


def test_documents_come_from_results_without_measuring(measured, tmp_path) -> None:
    """The page can be laid out anew, and says only what was measured."""
    output, _ = measured
    document = tmp_path / "benchmarks.md"
    before = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    document.write_text(before, encoding="utf-8")

    done = run("--from", output / "results.json", "--docs", "--document", document)

    assert 0 == done.returncode, done.stderr
    text = document.read_text(encoding="utf-8")
    assert "### huge rows" in text
    assert "## Run them" in text
    image = (tmp_path / "img" / "benchmark-rates.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(image)
    assert "prefers-color-scheme: dark" in image
    assert "url(http" not in image
    assert "#01020" not in image
    # A second time gives the same bytes.
    run("--from", output / "results.json", "--docs", "--document", document)
    assert image == (tmp_path / "img" / "benchmark-rates.svg").read_text(encoding="utf-8")


def test_results_that_are_none_are_refused(tmp_path) -> None:
    """Not a traceback, and no empty page."""
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")

    done = run("--from", tmp_path / "results.json")

    assert 1 == done.returncode
    assert "holds no results of this program" in done.stderr
