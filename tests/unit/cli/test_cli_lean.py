"""What is left out of a run is left out of that run only, and changes nothing that it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def said_by(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_pyarrow_is_loaded_without_numpy_and_both_work_afterwards() -> None:
    """numpy can still be imported by whoever wants it; Arrow has what batcher uses."""
    pytest.importorskip("numpy")
    program = """
from batcher.cli.lean import lean_imports
import gc, sys
with lean_imports():
    import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet, structlog
    print(gc.isenabled(), "numpy" in sys.modules, "rich" in sys.modules)
print(gc.isenabled(), pc.sum(pa.array([1, 2])).as_py())
import numpy, rich.text
print(numpy.arange(3).sum(), pa.array(["ก", "ế", "中"]).to_pylist())
"""
    assert "False False False\nTrue 3\n3 ['ก', 'ế', '中']" == said_by(program)


def test_what_was_loaded_before_stays_as_it_was() -> None:
    """A program that embeds batcher may have handed arrays to Arrow already."""
    pytest.importorskip("numpy")
    program = """
import numpy, gc
gc.disable()
from batcher.cli.lean import lean_imports
with lean_imports():
    import pyarrow as pa
print(pa.array(numpy.arange(2)).to_pylist(), gc.isenabled())
"""
    assert "[0, 1] False" == said_by(program)


def test_an_import_that_fails_leaves_nothing_behind() -> None:
    program = """
import sys
from batcher.cli import lean
lean._WITHOUT = {"no_such_package": "colorsys"}
try:
    with lean.lean_imports():
        pass
except ModuleNotFoundError as error:
    print(error.name)
import colorsys, gc
print(gc.isenabled())
"""
    assert "no_such_package\nTrue" == said_by(program)


def test_no_package_that_is_installed_is_loaded_for_being_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pydantic loads such packages when the first model is made."""
    (tmp_path / "watcher.py").write_text("raise SystemExit('the plugin was loaded')")
    facts = tmp_path / "watcher-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: watcher\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[pydantic]\nwatcher = watcher:plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)  # other tests load the command in this process
    read = "from batcher.config.load import load_job; print('read')"
    assert "read" == said_by(f"import batcher.cli.main; {read}")
    with pytest.raises(subprocess.CalledProcessError):  # so that the first half says something
        said_by(read)
