"""What a job asks, as hashes by field: two jobs may share a run when none of them differs.

Only what can change an answer takes part. How fast, through which address, with which key, at what
price and into which file it goes does not: those may change between a run and its resume.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batcher.config.model import Example, Job
from batcher.errors import JournalError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Field path to the hash of what the field holds; a field that is not given is not there."""

    fields: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One hash over all of it, 16 hex digits."""
        return _hash(sorted(self.fields.items()))

    def to_json(self) -> dict[str, Any]:
        """As `run.json` keeps it."""
        return {"version": VERSION, "fields": dict(self.fields)}

    @classmethod
    def from_json(cls, kept: Any) -> "Fingerprint":
        """What `to_json` gave.

        Raises:
            JournalError: It is something else, or of a version that this program does not know.
        """
        if not isinstance(kept, dict) or kept.get("version") != VERSION:
            version = kept.get("version") if isinstance(kept, dict) else None
            raise JournalError(
                f"the run's job fingerprint has version {version}, and this batcher reads version {VERSION}; "
                "go on with the batcher that began the run, or start a new one with --fresh"
            )
        fields = kept.get("fields")
        if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
            raise JournalError("the run's job fingerprint is damaged; start a new run with --fresh")
        return cls({str(path): digest for path, digest in fields.items()})


def fingerprint_of(job: Job, examples: Sequence[Example], variables: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of a job.

    Args:
        job: A complete job.
        examples: Its examples, read from their file where they have one.
        variables: Those that its templates name.
    """
    asked: dict[str, Any] = {
        "kind": job.kind,
        "input.path": job.input.path,
        "input.key": job.input.key,
        "input.where": job.input.where,
        "input.limit": job.input.limit,
        "prompt.system": job.prompt.system,
        "prompt.examples": [(example.user, example.assistant) for example in examples] or None,
        "prompt.user": job.prompt.user,
        "prompt.messages": job.prompt.messages,
        "prompt.reasoning": job.prompt.reasoning,
        "model": job.effective_model,
        "provider.local": job.sole_provider.local,
        "answer.labels": job.answer.labels,
        "answer.structured": job.answer.structured,
        **{f"params.{name}": [value] for name, value in job.params.items()},
        **{f"--var {name}": value for name, value in variables.items()},
    }
    return Fingerprint({path: _hash(value) for path, value in asked.items() if value is not None})


def describe_change(earlier: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, a few words a field, in the order of the fields: `prompt.user changed`."""
    changes = []
    for path in dict.fromkeys([*earlier.fields, *now.fields]):
        before, after = earlier.fields.get(path), now.fields.get(path)
        if before != after:
            word = "added" if before is None else "removed" if after is None else "changed"
            changes.append(f"{path} {word}")
    return changes


def _hash(value: Any) -> str:
    """16 hex digits of SHA-256: enough that no two prompts are ever taken for each other by chance."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
