"""What `batcher doctor` found out about a provider, remembered in `runs/<job>/doctor.json`.

One entry for each address, model and key. Keys are never written: an entry carries a short digest of its
key, salted with a number that was drawn for this file, which tells the job's keys apart and nothing else.
Findings grow stale: after a week, or for another address, model or key, they are not used.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from batcher.errors import JobError
from batcher.runs.runfile import write_bytes
from batcher.storage.durable import Disk

FINDINGS_VERSION = 1
FINDINGS_FILE_NAME = "doctor.json"
FRESH_FOR = timedelta(days=7)

LOCAL_ADDRESS = "local"
"""Stands for the address of a model on this machine, whose port changes with every start."""

# A clock that was set back must not keep an entry fresh for ever.
_FUTURE_MAX = timedelta(hours=1)
_SALT_BYTES = 16
_DIGEST_BYTES = 6

State = Literal["yes", "accepted", "ignored", "refused", "missing", "implausible", "unverified", "untrustworthy", "unknown"]  # fmt: skip  # noqa: E501
"""`yes`: it works, seen in an answer. `accepted`: taken, and the answer does not show whether it works.
`ignored`: taken, and the answer shows that it does nothing. `refused`: the provider says no. `missing`: the
answer has none of it. `implausible`, `untrustworthy`: there, and wrong by its own check; `unverified`: there,
and could not be checked. `unknown`: not found out (no time, no clear answer)."""


class Finding(msgspec.Struct, frozen=True):
    """What is known of one ability; `words` are the provider's, masked, or what the check saw."""

    state: State = "unknown"
    words: str | None = None


UNKNOWN = Finding()


class KeyFailure(msgspec.Struct, frozen=True):
    """Why nothing could be found out by a key: the failure kind, the provider's words, and what to do."""

    kind: str
    words: str
    hint: str | None = None


class KeyFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What one key of one provider can do.

    `key` is the salted digest, empty without a key. `listed` says whether the model stands in the list of models
    (`missing`: there is a list without it), `params` whether the job's own parameters were taken. `clock_skew_s` is
    how far the provider's clock is ahead of ours, known to `clock_error_s` either way. `latency_ms` is the median of
    the small calls. `failure` is None where the key and the model work.
    """

    base_url: str
    model: str
    key: str
    probed_at: datetime
    failure: KeyFailure | None = None
    listed: Finding = UNKNOWN
    models_count: int | None = None
    served_model: str | None = None
    usage: Finding = UNKNOWN
    max_tokens: Finding = UNKNOWN
    max_completion_tokens: Finding = UNKNOWN
    json_schema: Finding = UNKNOWN
    logprobs: Finding = UNKNOWN
    prompt_logprobs: Finding = UNKNOWN
    seed: Finding = UNKNOWN
    params: Finding = UNKNOWN
    system_fingerprint: str | None = None
    rate_headers: dict[str, str] = {}
    clock_skew_s: float | None = None
    clock_error_s: float | None = None
    latency_ms: float | None = None
    server: str | None = None

    @property
    def is_working(self) -> bool:
        """Whether the key was accepted and the model answered."""
        return self.failure is None


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The file: its version, its salt, and an entry for each address, model and key."""

    salt: str
    version: int = FINDINGS_VERSION
    entries: tuple[KeyFindings, ...] = ()

    @classmethod
    def empty(cls) -> "Findings":
        """No entries, and a salt of its own."""
        return cls(salt=secrets.token_hex(_SALT_BYTES))

    def digest(self, key: str | None) -> str:
        """How this file names a key; 12 hex digits, or nothing where the provider wants no key."""
        if key is None:
            return ""
        salted = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, salt=self._salt())
        return salted.hexdigest()

    def fresh(self, base_url: str, model: str, keys: Iterable[str | None], *, now: datetime) -> list[KeyFindings]:
        """The entries of these keys at this address for this model that are not older than a week."""
        digests = {self.digest(key) for key in keys}
        return [
            entry
            for entry in self.entries
            if entry.base_url == plain_address(base_url)
            and entry.model == model
            and entry.key in digests
            and _is_fresh(entry, now)
        ]

    def with_entries(self, new: Sequence[KeyFindings], *, now: datetime) -> "Findings":
        """The same with these entries in the place of what they say anew, and without what is stale."""
        replaced = {_identity(entry) for entry in new}
        kept = [entry for entry in self.entries if _identity(entry) not in replaced and _is_fresh(entry, now)]
        return msgspec.structs.replace(self, entries=(*kept, *new))

    def _salt(self) -> bytes:
        return bytes.fromhex(self.salt)[:_SALT_BYTES]


def plain_address(base_url: str) -> str:
    """An address as entries hold it: without the slash at its end, which makes no difference."""
    return base_url.rstrip("/")


def findings_path(job_path: Path) -> Path:
    """Where the findings of a job are, beside its runs."""
    return job_path / FINDINGS_FILE_NAME


class _Version(msgspec.Struct):
    version: int


_decode_version = msgspec.json.Decoder(_Version).decode
_decode = msgspec.json.Decoder(Findings).decode


def read_findings(path: Path) -> Findings | None:
    """What was remembered, or None where nothing ever was.

    Raises:
        JobError: The file cannot be read, is not what was written, or is of a version that this program does not know.
    """
    hint = "`batcher doctor` writes it anew"
    try:
        encoded = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror or type(error).__name__}", hint=hint) from error
    try:
        version = _decode_version(encoded).version
        if version == FINDINGS_VERSION:
            findings = _decode(encoded)
            bytes.fromhex(findings.salt)
            return findings
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path} is not what was written; what it held is not used", hint=hint) from error
    raise JobError(f"{path} has version {version}, and this batcher knows only version {FINDINGS_VERSION}", hint=hint)


def write_findings(path: Path, findings: Findings, disk: Disk) -> None:
    """Replace the file, whole or not at all; its directory is made where it is missing.

    Raises:
        JobError: The directory cannot be made.
        StorageError: The disk refused; what stood there before still does.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise JobError(f"cannot make {path.parent}: {reason}; choose another with --runs") from error
    write_bytes(path, msgspec.json.format(msgspec.json.encode(findings), indent=2) + b"\n", disk)


def _identity(entry: KeyFindings) -> tuple[str, str, str]:
    return entry.base_url, entry.model, entry.key


def _is_fresh(entry: KeyFindings, now: datetime) -> bool:
    probed_at = entry.probed_at if entry.probed_at.tzinfo else entry.probed_at.replace(tzinfo=UTC)
    return -_FUTURE_MAX <= now - probed_at <= FRESH_FOR
