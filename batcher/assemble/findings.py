"""What a run makes of what `batcher doctor` found out: complaints first, then what it need not find out again.

A complaint is about something the job asks for and the provider was seen to lack. What is not known, what only
one of several keys lacks, and what a refused key could not show is no reason to refuse a job.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batcher.assemble.books import shown
from batcher.config.load import LoadedJob
from batcher.config.model import Job
from batcher.errors import JobError
from batcher.runs.directory import job_directory
from batcher.runs.findings import LOCAL_ADDRESS, KeyFindings, findings_path, plain_address, read_findings

_LIMITS = ("max_completion_tokens", "max_tokens")
_LACKING = frozenset({"refused", "ignored", "missing"})
_WORKING = frozenset({"yes", "accepted"})
_KEY_REFUSALS = frozenset({"auth", "quota"})
KINDS_REFUSED = _KEY_REFUSALS | {"bad_request", "too_long", "refused"}
"""Failures of a plain little question that speak of key or job, and of no outage."""
_SKEW_TOLD_S = 2.0


@dataclass(frozen=True, slots=True)
class Applied:
    """What findings mean for a job.

    Args:
        token_limit_param: The parameter by which this provider limits the tokens of an answer; the job's own where
            that works, None where it is not known.
        is_structured_refused: Whether `response_format` with a schema is known to be refused, so that no row tries.
        complaints: What the job asks for and the provider lacks, a sentence with the fix each; a run refuses the job.
        warnings: What a run should say and go on.
        job_path: The job's file as it can be typed.
    """

    token_limit_param: str | None = None
    is_structured_refused: bool = False
    complaints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    job_path: str = "JOB"

    def refuse(self) -> None:
        """Refuse the job where there are complaints.

        Raises:
            JobError: All of them; nothing was sent.
        """
        if self.complaints:
            raise JobError(
                "; ".join(self.complaints),
                hint=f"`batcher doctor {self.job_path}` probes the provider again, should it have learned this since",
            )


def address_of(job: Job) -> str:
    """The address by which findings about the job's provider are kept."""
    provider = job.sole_provider
    return LOCAL_ADDRESS if provider.local is not None else plain_address(provider.base_url or "")


def keys_of(job: Job) -> tuple[str | None, ...]:
    """The keys that the job gives its provider; (None,) where it gives none."""
    return tuple(key.get_secret_value() for key in job.sole_provider.api_key) or (None,)


def recall(loaded: LoadedJob, runs: Path, *, now_s: float) -> Applied:
    """What the remembered findings mean for this job; nothing where there are none, or none that are fresh.

    A file that cannot be read is a warning: it was made to help a run, and must not keep one from starting.
    """
    job = loaded.job
    try:
        findings = read_findings(findings_path(job_directory(runs, job.name)))
    except JobError as error:
        return Applied(warnings=(f"{error.message}; {error.hint}",))
    if findings is None:
        return Applied()
    now = datetime.fromtimestamp(now_s, UTC)
    fresh = findings.fresh(address_of(job), job.effective_model, keys_of(job), now=now)
    if not fresh:
        return Applied()
    return replace(apply_findings(fresh, job), job_path=shlex.quote(shown(loaded.path)))


def apply_findings(findings: Sequence[KeyFindings], job: Job) -> Applied:
    """What findings about the job's keys mean for it.

    Args:
        findings: One entry for each key that was probed; fresh ones, for the job's address and model.
        job: The job.
    """
    working = [entry for entry in findings if entry.is_working]
    warnings = [
        f"{'a key' if entry.failure.kind in _KEY_REFUSALS else 'the job'} was refused when doctor tried it "
        f"on {entry.probed_at:%Y-%m-%d}: {entry.failure.words}"
        for entry in findings
        if entry.failure is not None and entry.failure.kind in KINDS_REFUSED
    ]
    if not working:
        return Applied(warnings=tuple(warnings))
    facts = _Facts(working)
    return Applied(
        token_limit_param=_token_limit_param(facts, job),
        is_structured_refused=facts.all_are("json_schema", "refused"),
        complaints=tuple(_complaints(facts, job)),
        warnings=(*warnings, *_warnings(facts, job)),
    )


class _Facts:
    """What all working keys have in common."""

    def __init__(self, working: Sequence[KeyFindings]) -> None:
        self._working = working
        self.entry = working[0]

    def all_are(self, name: str, *states: str) -> bool:
        """Whether every key was seen in one of these states."""
        return all(getattr(entry, name).state in states for entry in self._working)

    def words(self, name: str) -> str:
        """The provider's words about it, in brackets, where it said any."""
        said = next((getattr(entry, name).words for entry in self._working if getattr(entry, name).words), None)
        return "" if said is None else f" ({said})"


def _token_limit_param(facts: _Facts, job: Job) -> str | None:
    named = [name for name in _LIMITS if name in job.params]
    return next((name for name in (*named, *_LIMITS) if facts.all_are(name, *_WORKING)), None)


def _complaints(facts: _Facts, job: Job) -> list[str]:
    entry, params = facts.entry, job.params
    seen = f"{entry.model} at {_host(entry)}, as doctor found on {entry.probed_at:%Y-%m-%d}"
    complaints = []
    for name, other in (_LIMITS, _LIMITS[::-1]):
        if name in params and facts.all_are(name, "refused"):
            # A provider that names the other one knows it, also where a short answer did not show its limit at work.
            is_other = facts.all_are(other, *_WORKING) or f"'{other}'" in facts.words(name)
            instead = f"write params.{other} instead of params.{name}" if is_other else ""
            complaints.append(
                f"{instead or f'remove params.{name}'}: it is refused by {seen}{'' if instead else facts.words(name)}"
            )
    for name, is_asked, ability, noun in _ASKED:
        if name in params and is_asked(params[name]) and facts.all_are(ability, *_LACKING):
            complaints.append(f"params.{name} asks for {noun}, which cannot be had from {seen}; remove it")
    if "seed" in params and facts.all_are("seed", "refused"):
        complaints.append(f"params.seed is refused by {seen}; remove it")
    if _is_schema(params.get("response_format")) and facts.all_are("json_schema", "refused"):
        complaints.append(
            f"params.response_format has a JSON schema, which is refused by {seen}{facts.words('json_schema')}; "
            "remove it, and ask for the form in the prompt"
        )
    if _has_budget(job) and facts.all_are("usage", "missing", "implausible"):
        complaints.append(
            f"budget cannot be kept: answers do not say how many tokens they took ({seen}); "
            "remove budget, and set a limit at the provider"
        )
    return complaints


def _warnings(facts: _Facts, job: Job) -> list[str]:
    entry, host, warnings = facts.entry, _host(facts.entry), []
    if facts.all_are("usage", "missing", "implausible") and not _has_budget(job):
        warnings.append(f"{host} does not say how many tokens an answer took: costs will be unknown")
    warnings += [
        f"params.{name} is ignored by {host}{facts.words(name)}; answers may be longer, and cost more"
        for name in _LIMITS
        if name in job.params and facts.all_are(name, "ignored")
    ]
    sends_labels = job.answer.labels is not None and job.answer.structured == "auto"
    if facts.all_are("json_schema", "ignored") and (sends_labels or _is_schema(job.params.get("response_format"))):
        warnings.append(f"{host} takes a JSON schema and does not keep it; expect more invalid answers")
    said = facts.words("params")
    if facts.all_are("params", "refused") and any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said) for name in job.params
    ):
        # No complaint: the value may be another one by now.
        warnings.append(f"params were refused when doctor tried them on {entry.probed_at:%Y-%m-%d}{said}")
    skew_s, error_s = entry.clock_skew_s, entry.clock_error_s or 0.0
    if skew_s is not None and abs(skew_s) > _SKEW_TOLD_S + error_s:
        warnings.append(f"the clocks of {host} and this machine differ by {abs(skew_s):,.0f} s")
    return warnings


def _host(entry: KeyFindings) -> str:
    """Where a provider is, without the path: some put keys there."""
    return urlsplit(entry.base_url).netloc or "this machine"


def _is_schema(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") == "json_schema"


def _has_budget(job: Job) -> bool:
    return job.budget is not None


def _is_on(value: Any) -> bool:
    return value is not False and value is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_ASKED: tuple[tuple[str, Callable[[Any], bool], str, str], ...] = (
    ("logprobs", _is_on, "logprobs", "log-probabilities"),
    ("top_logprobs", _is_number, "logprobs", "log-probabilities"),
    ("prompt_logprobs", _is_number, "prompt_logprobs", "log-probabilities of the prompt"),
)
"""Parameter, whether its value asks for anything, the ability it needs, and what that is."""
