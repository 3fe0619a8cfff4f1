"""Jobs and simulator files, in `jobs/` and on the pages, are what the program takes.

A block marked `yaml` is a whole job, `yaml fragment` a part of one, `yaml simulator` a simulator's file.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from networks import Pki
from pages import JOBS, ROOT, Block, blocks
from ruamel.yaml import YAML

from batcher.assemble.check import check_job
from batcher.config.load import load_job
from batcher.errors import JobError
from batcher.simulator.config import load_config

KEYS = {
    "OPENAI_API_KEY": "sk-documents-0123456789",
    "HOLYSHEEP_API_KEY": "sk-documents-0123456789",
    "HOLYSHEEP_BASE_URL": "http://127.0.0.1:9/v1",
    "EXAMPLE_API_KEY": "sk-documents-0123456789",
    "KEY_A": "sk-documents-a-0123456789",
    "KEY_B": "sk-documents-b-0123456789",
    "HOUSE_KEY": "sk-documents-c-0123456789",
}

REST = {
    "input": "rows.jsonl",
    "prompt": "{{ text }}",
    "model": "gpt-4.1-nano",
    "provider": {"base_url": "http://127.0.0.1:9/v1"},
}
"""What makes a job of a fragment."""

FETCHED = {"demo.yaml"}
"""Jobs whose rows are fetched, and not in the repository."""

RUNNABLE = [job for job in JOBS if job.name not in FETCHED]


def name_of_job(job: Path) -> str:
    return job.name


@pytest.mark.parametrize("job", JOBS, ids=name_of_job)
def test_example_jobs_load(job: Path) -> None:
    load_job(job, environ=KEYS)


@pytest.mark.parametrize("job", RUNNABLE, ids=name_of_job)
def test_example_jobs_pass_the_check(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their data is there, and their prompts go with it."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []

    code = check_job(job, variables={}, sets=(), limit=None, is_live=False, echo=said.append)

    assert 0 == code
    assert "the job is right" in said[-1]


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    """The base URL of a simulator."""
    process = subprocess.Popen(
        [sys.executable, "-m", "batcher", "simulate", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.mark.parametrize("job", RUNNABLE, ids=name_of_job)
def test_example_jobs_run_against_the_simulator(job: Path, simulator: str, tmp_path: Path) -> None:
    """As their headers say: the address and any key from the environment, nothing else."""
    jobs = shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("demo", "out"))
    environ = {**os.environ, **KEYS, "OPENAI_BASE_URL": simulator, "HOLYSHEEP_BASE_URL": simulator}

    ended = subprocess.run(
        [sys.executable, "-m", "batcher", "run", str(jobs / job.name), "--limit", "4"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert 0 == ended.returncode, ended.stderr
    assert (tmp_path / ended.stdout.strip() / "results.parquet").is_file()


@pytest.mark.parametrize("path", sorted(ROOT.glob("jobs/simulator/*.yaml")), ids=name_of_job)
def test_example_simulators_load(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_jobs_on_pages_load(block: Block, tmp_path: Path) -> None:
    """Who copies a job from a page can run it."""
    assert load_text(block.text, tmp_path).job.input.path


@pytest.mark.parametrize("block", blocks("yaml fragment"), ids=str)
def test_fragments_on_pages_load_in_a_job(block: Block, tmp_path: Path) -> None:
    fields = YAML(typ="safe", pure=True).load(block.text)
    rest = "".join(f"{name}: {json.dumps(value)}\n" for name, value in REST.items() if name not in fields)
    if "tls" in block.text:
        write_certificates(tmp_path / "certs")

    load_text(rest + block.text, tmp_path)


def write_certificates(folder: Path) -> None:
    """The files that the pages name; they are looked at when a job is loaded."""
    pki = Pki(folder)
    for name, made in {"house-ca.pem": pki.ca, "me.pem": pki.client.cert, "me.key": pki.client.key}.items():
        shutil.copy(made, folder / name)


@pytest.mark.parametrize("block", blocks("yaml simulator"), ids=str)
def test_simulators_on_pages_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "simulator.yaml"
    path.write_text(block.text, encoding="utf-8")

    load_config(path)


def test_a_wrong_example_would_be_found(tmp_path: Path) -> None:
    """The tests above would be worth nothing if anything loaded."""
    with pytest.raises(JobError):
        load_text("input: rows.jsonl\nprompt: x\nmodle: y\n", tmp_path)


def test_the_shortest_job_of_the_readme_is_the_one_in_jobs() -> None:
    shown = next(block for block in blocks("yaml") if block.page.name == "README.md" and block.page.parent == ROOT)

    assert shown.text in (ROOT / "jobs" / "shortest.yaml").read_text(encoding="utf-8")


def load_text(text: str, folder: Path):
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, environ=KEYS)
