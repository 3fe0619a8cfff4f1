"""How many files and connections there is room for. In a process of their own: a limit once lowered stays so."""

import subprocess
import sys

import pytest

_ASK = """
import resource, sys
soft, hard = (int(word) if word != "any" else resource.RLIM_INFINITY for word in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from batcher.storage.descriptors import connections_max, open_files_max
print(open_files_max(), connections_max(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def asked(soft: int, hard: int) -> list[int]:
    said = subprocess.run(
        [sys.executable, "-c", _ASK, str(soft), str(hard)], capture_output=True, text=True, timeout=60, check=True
    )
    return [int(word) for word in said.stdout.split()]


@pytest.mark.parametrize(
    ("soft", "hard", "connections"),
    [(256, 1024, 864), (1024, 1024, 864), (128, 4096, 3628), (70, 70, 5), (40, 40, 1)],
)
def test_the_limit_is_raised_and_room_is_kept_for_the_files_of_a_run(soft: int, hard: int, connections: int) -> None:
    """Every connection is a file, and so are the journal, the log, the input and the results."""
    assert [hard, connections, hard, hard] == asked(soft, hard)
