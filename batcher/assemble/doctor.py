"""`batcher doctor`: probes the job's provider with each of its keys, shows the findings and remembers them."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from batcher.assemble.doctor_lines import cost_line, key_lines, verdict_line
from batcher.assemble.findings import KINDS_REFUSED, Applied, address_of, apply_findings, keys_of
from batcher.assemble.prepare import local_model, network_of
from batcher.assemble.stack import Endpoint, endpoint_of, price_of
from batcher.clock import Clock, SystemClock
from batcher.config.load import LoadedJob, load_job
from batcher.errors import ExitCode, JobError
from batcher.ledger.prices import AnyPrice, cost_usd
from batcher.local import lease
from batcher.observe.text import Masker, clean
from batcher.providers.probe import Probed, Target, probe_provider
from batcher.runs.directory import job_directory
from batcher.runs.findings import FRESH_FOR, Findings, KeyFindings, findings_path, read_findings, write_findings
from batcher.storage.durable import Disk, LocalDisk

Echo = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What the command line says beside the job; `disk` and `clock` are the machine's, and others in tests."""

    runs: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    sets: Sequence[str] = ()
    is_json: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    disk: Disk = field(default_factory=LocalDisk)
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class _Diagnosis:
    """All that was found out, and what it means."""

    loaded: LoadedJob
    probed: Probed
    applied: Applied
    price: AnyPrice | None
    code: ExitCode

    @property
    def cost_usd(self) -> Decimal | None:
        return cost_usd(self.probed.tally.usage, self.price)


def doctor_job(path: Path, options: DoctorOptions, *, echo: Echo, tell: Echo) -> int:
    """Probe the job's provider, show what was found, remember it, and give the exit code.

    0: the job can run, with at least one key. 6: key, model or a parameter is refused. 4: the provider cannot be
    reached. 2: the job asks for what the provider lacks.

    Args:
        path: The job file.
        options: Of the command line.
        echo: Is given the findings, line by line, or the one JSON object.
        tell: Is given what goes to stderr.

    Raises:
        UsageError: The job is wrong; nothing was sent.
        StorageError: The findings were shown and could not be remembered.
    """
    loaded = load_job(path, variables=options.variables, sets=options.sets, environ=options.environ)
    target = findings_path(job_directory(options.runs, loaded.job.name))
    findings = _remembered(target, tell)
    diagnosis = _diagnose(loaded, findings, options.clock, tell)
    file = os.path.relpath(target)
    if options.is_json:
        echo(msgspec.json.encode(_as_json(diagnosis, file)).decode())
    else:
        for line in _lines(diagnosis):
            echo(line)
    for warning in diagnosis.applied.warnings:
        tell(f"warning: {clean(warning)}")
    for complaint in diagnosis.applied.complaints:
        tell(f"error: {clean(complaint)}")
    lasting = [entry for entry in diagnosis.probed.entries if not _is_weather(entry)]
    if lasting:
        now = datetime.fromtimestamp(options.clock.now(), UTC)
        write_findings(target, findings.with_entries(lasting, now=now), options.disk)
        tell(f"remembered in {file} for {FRESH_FOR.days} days; `batcher run` uses it")
    return int(diagnosis.code)


def _is_weather(entry: KeyFindings) -> bool:
    """Whether nothing was found out but that the provider could not be asked now: what was known before stays."""
    return entry.failure is not None and entry.failure.kind not in KINDS_REFUSED


def _remembered(path: Path, tell: Echo) -> Findings:
    try:
        return read_findings(path) or Findings.empty()
    except JobError as error:
        tell(f"warning: {clean(error.message)}; it is written anew")
        return Findings.empty()


def _diagnose(loaded: LoadedJob, findings: Findings, clock: Clock, tell: Echo) -> _Diagnosis:
    job, local = loaded.job, local_model(loaded)
    mask = Masker(loaded.secrets).mask
    with contextlib.nullcontext() if local is None else lease.start(local, tell=tell) as held:
        endpoint = (
            endpoint_of(job.sole_provider, job, network_of(loaded, os.environ))
            if held is None
            else Endpoint(base_url=held.base_url, model=held.model, keys=(None,))
        )
        tell(f"probing {endpoint.base_url} with a dozen small calls a key")
        target = Target(endpoint.base_url, endpoint.model, job.params, job.timeout_s, endpoint.network)
        probed = asyncio.run(probe_provider(target, endpoint.keys, digest=findings.digest, clock=clock, mask=mask))
    price = price_of(job.sole_provider, endpoint, at=datetime.fromtimestamp(clock.now(), UTC))
    entries = tuple(
        msgspec.structs.replace(entry, base_url=address_of(job), model=job.effective_model) for entry in probed.entries
    )
    applied = apply_findings(entries, job)
    return _Diagnosis(loaded, Probed(entries, probed.tally), applied, price, _exit_code(entries, applied))


def _exit_code(entries: Sequence[KeyFindings], applied: Applied) -> ExitCode:
    working = [entry for entry in entries if entry.is_working]
    if working:
        if all(entry.params.state == "refused" for entry in working):
            return ExitCode.REFUSED
        return ExitCode.USAGE if applied.complaints else ExitCode.OK
    is_refused = any(entry.failure is not None and entry.failure.kind in KINDS_REFUSED for entry in entries)
    return ExitCode.REFUSED if is_refused else ExitCode.STOPPED


def _lines(diagnosis: _Diagnosis) -> list[str]:
    job, entries = diagnosis.loaded.job, diagnosis.probed.entries
    server = next((f" ({clean(entry.server)})" for entry in entries if entry.server), "")
    lines = [f"provider {job.sole_provider.name}: {address_of(job)}, model {job.effective_model}{server}"]
    for number, entry in enumerate(entries, start=1):
        lines += key_lines(entry, number, len(entries))
    lines.append(cost_line(diagnosis.probed.tally, diagnosis.cost_usd, diagnosis.price))
    lines.append(verdict_line(entries, diagnosis.code))
    return lines


def _as_json(diagnosis: _Diagnosis, file: str) -> dict[str, Any]:
    job, tally, price = diagnosis.loaded.job, diagnosis.probed.tally, diagnosis.price
    count = len(keys_of(job))
    return {
        "job": job.name,
        "provider": job.sole_provider.name,
        "base_url": address_of(job),
        "model": job.effective_model,
        "keys": [
            {"number": number, "of": count, "is_working": entry.is_working, **msgspec.to_builtins(entry)}
            for number, entry in enumerate(diagnosis.probed.entries, start=1)
        ],
        "complaints": list(diagnosis.applied.complaints),
        "warnings": list(diagnosis.applied.warnings),
        "calls": tally.calls,
        "input_tokens": tally.usage.input,
        "output_tokens": tally.usage.output,
        "answers_without_usage": tally.unreported,
        "cost_usd": None if diagnosis.cost_usd is None else format(diagnosis.cost_usd, "f"),
        "price_source": None if price is None else price.source,
        "findings_file": file,
        "exit_code": int(diagnosis.code),
    }
