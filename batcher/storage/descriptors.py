"""How many files and connections the process may have open at once."""

import contextlib
import resource

# Where the system says "any number" and means fewer (macOS), the largest of these that it takes.
_TRIED = (1 << 20, 65_536, 10_240)
_KEPT_FOR_FILES = 64
# A client opens a few more than there are calls: one that was on its way when another fell idle.
_SPARE_SHARE = 0.1


def raise_open_files_limit() -> None:
    """Take what the system allows: a thousand connections need as many descriptors, and the usual limit is 1,024.

    Where the system allows no more, `connections_max` says how many connections there is room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, *_TRIED):
        if soft == resource.RLIM_INFINITY or (wanted != resource.RLIM_INFINITY and wanted <= soft):
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def open_files_max() -> int | None:
    """How many files this process can have open, once its limit is raised; None for any number."""
    raise_open_files_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections_max() -> int | None:
    """How many calls can be in flight beside the files of a run, each with a connection; None for any number."""
    files = open_files_max()
    return None if files is None else max(1, int((files - _KEPT_FOR_FILES) * (1 - _SPARE_SHARE)))
