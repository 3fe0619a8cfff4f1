"""How many files and connections the process may have open at once."""

import contextlib
import resource


def raise_open_files_limit() -> None:
    """Take what the system allows: a thousand connections need as many descriptors, and the usual limit is 1,024.

    Where the system allows no more, connections beyond the limit fail and are tried again.
    """
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
