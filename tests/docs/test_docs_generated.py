"""The reference pages are the code's."""

import importlib.util
from types import ModuleType

import pytest
from pages import ROOT


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_equal_the_code(make_docs: ModuleType) -> None:
    """A field, option, column or kind that changes takes its page along: `make docs` writes it."""
    stale = [
        name
        for name, make in make_docs.PAGES.items()
        if (make_docs.FOLDER / name).read_text(encoding="utf-8") != make()
    ]

    assert [] == stale


def test_generating_twice_gives_the_same(make_docs: ModuleType) -> None:
    """A page that differs by the order of a set would fail at random."""
    assert {name: make() for name, make in make_docs.PAGES.items()} == {
        name: make() for name, make in make_docs.PAGES.items()
    }


def test_every_page_of_the_reference_is_generated(make_docs: ModuleType) -> None:
    """A page written by hand among them would be forgotten."""
    assert {*make_docs.PAGES} == {page.name for page in make_docs.FOLDER.iterdir()}


def test_check_names_a_page_that_differs_and_writes_nothing(
    make_docs: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What CI relies on."""
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    monkeypatch.setattr(make_docs, "FOLDER", tmp_path)

    assert 1 == make_docs.main(["--check"])
    assert "exit-codes.md: differs; run `make docs`" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())
    assert 0 == make_docs.main([])
    assert 0 == make_docs.main(["--check"])
