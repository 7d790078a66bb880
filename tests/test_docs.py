"""The pages of the documentation: each is listed, says who it is for, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
from committed import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL = [
    *PAGES,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "LOG.md", "CHANGELOG.md", "benchmarks/README.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_at_its_top_who_it_is_for_and_is_in_the_index(page: Path) -> None:
    title, empty, first = page.read_text(encoding="utf-8").splitlines()[:3]
    assert title.startswith("# ") and empty == "" and first.startswith("For ")
    if page.name != "README.md":
        assert f"({page.name})" in (ROOT / "docs/README.md").read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings: lower case, spaces to dashes, other signs gone."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^) ]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        aim = (page.parent / path) if path else page
        assert aim.exists(), link
        if anchor:
            assert anchor in anchors(aim.read_text(encoding="utf-8")), link
