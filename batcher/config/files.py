"""Reading the small files of a job: the job itself and its examples.

A path from the command line may be anything: a folder, a device, a 10 GB table. Each is a sentence.
"""

import difflib
import os
import stat
from pathlib import Path

from batcher.config.tree import printable
from batcher.errors import JobError

BYTES_MAX = 1 << 20
_FILES_OF_A_RUN = frozenset({"run.json", "job.yaml", "log.jsonl", "report.html", "results.parquet"})
_YAML_SUFFIXES = {".yaml", ".yml"}


def shown(path: Path) -> str:
    """The path as a message may print it: on one line, also where the name is not UTF-8."""
    return printable(str(path).encode("utf-8", "backslashreplace").decode(), 300)


def read_text(path: Path, *, what: str, bytes_max: int = BYTES_MAX) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped.

    Args:
        path: The file.
        what: What it is to the user: "the job file", "the examples file".
        bytes_max: A longer file is refused before it is read.

    Raises:
        JobError: It cannot be read, is no regular file, is too long, or is not UTF-8.
    """
    name = shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise JobError(f"{name}: {what} is a directory; name a file in it{_files_of(path)}")
        if not stat.S_ISREG(mode):
            raise JobError(f"{name}: {what} is not a regular file; write it to disk first")
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise JobError(f"{name}: {what} does not exist{_nearest_to(path)}") from None
    except PermissionError:
        raise JobError(f"{name}: {what} may not be read by this user; change its permissions") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name holds a NUL byte"
        raise JobError(f"{name}: {what} cannot be read: {reason or type(error).__name__}") from None
    if len(content) > bytes_max:
        raise JobError(f"{name}: {what} is larger than {bytes_max >> 10} KiB; is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise JobError(f"{name}:{line}: {what} is not UTF-8; save it as UTF-8") from None


def target_fault(path: Path) -> str | None:
    """Why results may not be written to `path`, to follow its name; None where they may.

    Any place that the user may write to is allowed, but no device or pipe (a rename would take its place),
    and nothing that a run keeps for itself.
    """
    try:
        found = path.stat() if path.exists() else None
        there = next(above for above in path.absolute().parents if above.exists())
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name leads nowhere"
        return f"cannot be a file ({reason}); name another"
    if found is not None and stat.S_ISDIR(found.st_mode):
        return "is a directory; write the name of a file in it"
    if found is not None and not stat.S_ISREG(found.st_mode):
        return "is a pipe or device; results are written to a regular file, so name one"
    if not there.is_dir():
        return f"leads through {shown(there)}, which is no directory; name another"
    if found is None and not os.access(there, os.W_OK | os.X_OK):
        return f"lies in {shown(there)}, where this user may not write; name another place"
    for place in (path.absolute(), resolved):
        if _is_of_a_run(place):
            return "is a file that a run keeps for itself; write to another"
    return None


def _is_of_a_run(path: Path) -> bool:
    """Whether `path` is a run's own file, or lies in its journal."""
    if path.name in _FILES_OF_A_RUN and (path.parent / "run.json").is_file():
        return True
    return any(above.name == "journal" and (above.parent / "run.json").is_file() for above in path.parents)


def _nearest_to(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"; there is no directory {shown(parent)} either"
    names = _yaml_names(parent)
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {shown(parent / near[0])}?"
    return _files_of(parent) or f"; there is no .yaml file in {shown(parent)}"


def _files_of(directory: Path) -> str:
    names = _yaml_names(directory)
    more = ", …" if len(names) > 5 else ""
    return f"; there is {', '.join(shown(Path(name)) for name in names[:5])}{more}" if names else ""


def _yaml_names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir() if entry.suffix in _YAML_SUFFIXES)
    except OSError:
        return []
