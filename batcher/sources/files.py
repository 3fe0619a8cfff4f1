"""Which files an input is made of.

Paths, lists and globs become a tuple of `InputFile` in a stable order: as listed, a glob's matches sorted,
no file twice. Everything that can be wrong with a path is said here, before a byte of it is read.
"""

import difflib
import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batcher.errors import InputError
from batcher.sources.table import shown

Format = Literal["parquet", "jsonl", "csv"]
Compression = Literal["gzip", "zstd"]

_FORMATS: dict[str, Format] = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_GLOB = re.compile(r"[*?\[]")
_NAMES_SHOWN_MAX = 40
_COMPARED_MAX = 200


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the job says about its input. Paths may be globs; relative ones start at `base`."""

    paths: tuple[str, ...]
    base: Path
    key: str | None = None
    where: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file that is there and can be read. `name` is what messages call it: the path as given."""

    path: Path
    name: str
    format: Format
    compression: Compression | None
    size_bytes: int


def resolve_files(paths: Sequence[str], base: Path) -> tuple[InputFile, ...]:
    """The files behind `paths`, in order, none twice.

    Raises:
        InputError: Nothing matches, or a file is missing, unreadable, no file, of an unknown or another format.
    """
    files: dict[str, InputFile] = {}
    for given in paths:
        for name in _names(given, base):
            file = _input_file(name, base)
            files.setdefault(os.path.realpath(file.path), file)
    if not files:
        raise InputError("the input names no file; give input.path a file, a glob or a list of them")
    first = next(iter(files.values()))
    for file in files.values():
        if file.format != first.format:
            raise InputError(
                f"{file.name}: is {file.format}, but {first.name} is {first.format}; one input has files of one format"
            )
    return tuple(files.values())


def unknown_column(where: str, column: str, columns: Iterable[str]) -> InputError:
    """The error for a column that the input does not have, with the nearest name and those there are."""
    names = [shown(name) for name in columns]
    there_are = ", ".join(names[:_NAMES_SHOWN_MAX])
    # Comparing long names takes the square of their length.
    near = difflib.get_close_matches(column, names, n=1) if len(column) <= _COMPARED_MAX else []
    guess = f"; did you mean {near[0]!r}?" if near else ""
    more = f" and {len(names) - _NAMES_SHOWN_MAX} more" if len(names) > _NAMES_SHOWN_MAX else ""
    return InputError(f"{where}: the input has no column {shown(column)!r}{guess} (it has: {there_are}{more})")


def _names(given: str, base: Path) -> list[str]:
    """The path itself, or what its glob matches. A file whose name holds brackets wins over the glob."""
    if _URL.match(given):
        scheme = given.partition("://")[0]
        raise InputError(f"{given}: {scheme}:// paths are not supported yet; copy the files to a local disk")
    if not given.strip():
        raise InputError("input.path is empty; give a file, a glob or a list of them")
    if not _GLOB.search(given) or os.path.lexists(base / given):
        return [given]
    matches = glob.glob(given, root_dir=base, recursive=True)  # noqa: PTH207  # takes absolute patterns too
    found = [name for name in matches if not (base / name).is_dir()]
    if not found:
        raise InputError(f"{given}: no file matches, looked from {base}")
    return sorted(found)


def _input_file(name: str, base: Path) -> InputFile:
    path = base / name
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file, looked in {base}{_near_file(path)}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {_reason(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(
            f"{name}: is a directory; write {name.rstrip('/')}/*.parquet (or *.jsonl, *.csv) for its files"
        )
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: is a pipe or device; an input is read more than once, so write it to a file first")
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    form = _FORMATS.get(inner.suffix.lower())
    if form is None:
        raise InputError(
            f"{name}: unknown kind of file {inner.suffix or inner.name!r}; "
            f"batcher reads {' '.join(_FORMATS)}, also with {' or '.join(_COMPRESSIONS)} behind"
        )
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {_reason(error)}") from None
    return InputFile(path, name, form, compression, status.st_size)


def _near_file(path: Path) -> str:
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
