"""What a run needs, imported fast: without optional companions that it does not use, and without collections.

pyarrow loads numpy where that is installed, and structlog loads rich's tracebacks: 150 ms of CPU before the first
request, and 25 MB for as long as the run lasts. Both packages support that the other is not there, and batcher hands
neither an array nor a traceback. A program that has them loaded already keeps them.
"""

import contextlib
import ctypes
import gc
import importlib
import sys
from collections.abc import Iterator

# Rows make no cycles while all goes well, but with 10,000 in flight Python's own thresholds (700, 10, 10) looked for
# them 2,300 times in a run of ten seconds: a quarter of the CPU. With 20,000 it was still 4 %, and 125 ms at a stretch.
_GC_THRESHOLDS = (100_000, 20, 50)

_M_ARENA_MAX = -8  # of glibc's malloc.h

_WITHOUT = {"pyarrow": "numpy", "pyarrow.compute": "numpy", "structlog": "rich"}


@contextlib.contextmanager
def lean_imports() -> Iterator[None]:
    """Import what is heavy inside this block, before threads begin."""
    _share_one_heap()
    is_collecting = gc.isenabled()
    # A hundred thousand functions and classes are made, and none of them is garbage: 30 ms of looking.
    gc.disable()
    try:
        for package, companion in _WITHOUT.items():
            _import_without(companion, package)
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        if is_collecting:
            gc.enable()


def _share_one_heap() -> None:
    """Where glibc is: each thread would keep a heap of its own, of which hardly anything is ever given back."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _import_without(companion: str, package: str) -> None:
    if package in sys.modules or companion in sys.modules:
        return
    # The import system's own word for "not there"; see the documentation of `sys.modules`.
    sys.modules[companion] = None  # type: ignore[assignment]
    try:
        importlib.import_module(package)
    finally:
        del sys.modules[companion]
