"""The pages in Markdown: their links lead somewhere, and their figure shows what its file says."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
INDEX = "docs/index.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not link.startswith("https://") and (not target.exists() or (anchor and anchor not in anchors(target))):
            lost.append(link)
    assert not lost


def test_the_readme_leads_to_every_page() -> None:
    """By itself, or by the index of the documentation, whose tables of contents name pages without a suffix."""
    readme = PAGES[0].read_text(encoding="utf-8")
    index = {
        (REPOSITORY / "docs" / line).resolve() for line in PAGES[0].parent.joinpath(INDEX).read_text().splitlines()
    }
    lost = [
        page
        for page in PAGES[1:]
        if f"({page.relative_to(REPOSITORY).as_posix()})" not in readme and page.with_suffix("") not in index
    ]
    assert f"({INDEX})" in readme and lost == [REPOSITORY / "docs" / "examples" / "programs.md"]


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 120
