"""What `run.json` says of a run, made from its parts."""

import os
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from batcher import __version__
from batcher.assemble.prepare import Prepared
from batcher.core.progress import Progress
from batcher.ledger.budget import Budget
from batcher.ledger.ledger import Ledger
from batcher.ledger.prices import AnyPrice
from batcher.runs.runfile import RunFile, RunState, utc
from batcher.sources.source import InputFingerprint

_PACKAGES = ("openai", "pyarrow", "polars", "pyreqwest", "msgspec", "jinja2", "tenacity", "aiolimiter", "genai-prices")


def begin_run_file(prepared: Prepared, *, now_s: float) -> RunFile:
    """The state of a run that is about to begin."""
    loaded = prepared.loaded
    now = utc(now_s)
    return RunFile(
        job=loaded.job.name,
        state="running",
        started_at=now,
        updated_at=now,
        job_path=str(loaded.path.absolute()),
        base_directory=str(loaded.base),
        pid=os.getpid(),
        host=socket.gethostname(),
        versions=_versions(),
        variables=dict(loaded.variables),
        fingerprints={
            "job": loaded.fingerprint.to_json(),
            "input": prepared.source.fingerprint().to_json(),
            "journal": loaded.fingerprint.digest,
        },
    )


def updated_run_file(
    run: RunFile,
    *,
    state: RunState,
    progress: Progress,
    ledger: Ledger,
    now_s: float,
    exit_code: int | None = None,
    reason: str | None = None,
    price: AnyPrice | None = None,
    judged: Mapping[str, Any] | None = None,
    input_fingerprint: InputFingerprint | None = None,
    budget: Budget | None = None,
) -> RunFile:
    """The state now: counts and sums of the whole run, earlier processes included.

    `judged` are the totals that are known once the results are written; see `verdict.Judged`.
    """
    booked = ledger.to_json()
    fingerprints = dict(run.fingerprints)
    if input_fingerprint is not None:
        fingerprints["input"] = input_fingerprint.to_json()
    return msgspec.structs.replace(
        run,
        state=state,
        updated_at=utc(now_s),
        # The clock may have been set back since; a run does not end before it began.
        finished_at=max(utc(now_s), run.started_at) if state == "finished" else None,
        exit_code=exit_code,
        reason=reason,
        counts=_counts(progress),
        totals={
            **booked["total"],
            "failures": dict(progress.failures),
            "price": None if price is None else price.to_json(),
            "latency_ms": None,
            **(judged or {}),
        },
        ledger=booked["accounts"],
        # A run whose job has no budget any more keeps what it knew: one may be set again.
        budget=run.budget if budget is None else budget.state.to_json(),
        fingerprints=fingerprints,
    )


def _counts(progress: Progress) -> dict[str, int]:
    return {
        "rows": progress.rows_total if progress.rows_total is not None else progress.done,
        "done": progress.done,
        "ok": progress.ok,
        "invalid": progress.invalid,
        "failed": progress.failed,
        "empty": progress.empty,
    }


def _versions() -> dict[str, str]:
    versions = {"batcher": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
