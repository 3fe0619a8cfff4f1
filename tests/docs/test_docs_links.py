"""Relative links lead somewhere, anchors included."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, name_of, prose

_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_ELSEWHERE = ("http://", "https://", "mailto:")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    """A reader who follows a link at night should land on a page."""
    broken = []
    for link in _LINK.findall(prose(page)):
        if link.startswith(_ELSEWHERE):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or ROOT not in file.parents or (anchor and anchor not in anchors(file)):
            broken.append(link)

    assert [] == broken


def test_every_page_is_reached_from_the_index() -> None:
    """A page that nothing leads to is not read."""
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(index))}

    assert {*ROOT.glob("docs/**/*.md")} - {index} <= linked


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}
