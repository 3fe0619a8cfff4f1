"""Runs that are killed at the n-th operation of their disk, each in a process of its own; and runs side by side.

`Killer` starts this file as a program. It imports batcher once, and then forks for each command it reads: a
child takes a tenth of a second instead of the second that an interpreter with all imports takes, so a test can
afford to die at every operation there is. The parent has no threads, so forking it is safe.
"""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Died:
    """How the child ended: the exit code, or minus the signal; and how many operations it began."""

    code: int
    operations: int
    stderr: str


class Killer:
    """Use as a context manager."""

    def __init__(self, folder: Path, *, log_bytes_max: int) -> None:
        self._folder = folder
        self._log_bytes_max = log_bytes_max

    def __enter__(self) -> "Killer":
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self._folder
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __call__(
        self, command: str, target: Path, runs: Path, *, kill_at: int, moment: str, env: dict[str, str]
    ) -> Died:
        """Run `command` (run, resume or retry) and kill it at that operation; beyond the last, it ends by itself."""
        return self._order(command, target, runs, {"kill_at": kill_at, "moment": moment, "env": env})[0]

    def together(self, times: int, command: str, target: Path, runs: Path, *, env: dict[str, str]) -> list[Died]:
        """The same command so many times, all let go by one signal."""
        return self._order(command, target, runs, {"times": times, "env": env})

    def limited(self, command: str, target: Path, runs: Path, *, file_bytes_max: int, env: dict[str, str]) -> Died:
        """The command in a process that the system forbids larger files."""
        return self._order(command, target, runs, {"file_bytes_max": file_bytes_max, "env": env})[0]

    def _order(self, command: str, target: Path, runs: Path, more: dict[str, Any]) -> list[Died]:
        base = self._folder / "child"
        order = {
            "command": command, "target": str(target), "runs": str(runs), "base": str(base),
            "log_bytes_max": self._log_bytes_max, **more,
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        statuses = json.loads(self._process.stdout.readline())
        return [
            Died(
                os.waitstatus_to_exitcode(status),
                base.with_suffix(f".{number}.count").stat().st_size,
                base.with_suffix(f".{number}.stderr").read_text(encoding="utf-8"),
            )
            for number, status in enumerate(statuses)
        ]


def main() -> None:
    import batcher.assemble.run  # the second that the children save
    import batcher.testing.killing  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        wait, go = os.pipe()
        children = [_child(order, number, wait, go) for number in range(order.get("times", 1))]
        os.close(wait)
        os.close(go)  # all of them see the end of the pipe at once
        print(json.dumps([os.waitpid(child, 0)[1] for child in children]), flush=True)


def _child(order: dict[str, Any], number: int, wait: int, go: int) -> int:
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(_run(order, Path(order["base"]).with_suffix(f".{number}")))
    return child


def _run(order: dict[str, Any], base: Path) -> int:
    from batcher.assemble.run import RunOptions, resume_run, run_job
    from batcher.errors import BatcherError
    from batcher.journal.journal import Journal
    from batcher.storage.durable import LocalDisk
    from batcher.testing.killing import KillingDisk

    os.dup2(os.open(f"{base}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    # One byte an operation: a file's size is there after a kill, too.
    count = os.open(f"{base}.count", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if file_bytes_max := order.get("file_bytes_max"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    Journal.open.__func__.__kwdefaults__["log_bytes_max"] = order["log_bytes_max"]  # type: ignore[attr-defined]
    disk = KillingDisk(
        LocalDisk(),
        kill_at=order.get("kill_at", 0),
        moment=order.get("moment", "before"),
        counted=lambda _: os.write(count, b"."),
    )
    options = RunOptions(
        runs=Path(order["runs"]), environ={**os.environ, **order["env"]}, disk=disk, log_format="plain",
        is_retry=order["command"] == "retry",
    )  # fmt: skip
    try:
        go = run_job if order["command"] == "run" else resume_run
        return go(Path(order["target"]), options)[1]
    except BatcherError as error:
        print(f"error: {error.message}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except BaseException:  # noqa: BLE001  # a fault: the parent must hear of it whatever it is
        import traceback

        traceback.print_exc()
        return 99


if __name__ == "__main__":
    main()
