"""The pages that people write: the index names each, links lead somewhere, and named code is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from redstreamd.settings.definitions import DEFINITIONS

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
LISTED = subprocess.run(
    ["git", "-C", REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard"],
    check=True,
    capture_output=True,
    text=True,
).stdout.splitlines()
FILES = [name for name in LISTED if (REPOSITORY / name).exists()]
PAGES = [REPOSITORY / name for name in FILES if name.endswith(".md")]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def prose(page: Path) -> str:
    """Return a page without its blocks of code, which are indented or fenced, and without code in lines."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Return the names by which GitHub lets the headings of a page be linked."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@each_page
def test_no_link_of_a_page_leads_nowhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](#one-two) [b](page.md#one-two) [c](https://c.example)\n[d](d.md) [e](#three)"
    )
    assert broken_links(page) == ["d.md", "#three"]


def test_the_index_names_every_page_once_and_each_decision_by_its_title() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    lines = dict(re.findall(r"^- \[.+?\]\(([^)#]+)\): (.+)$", index, flags=re.MULTILINE))
    pages = {str(page.relative_to(DOCS)): page for page in DOCS.rglob("*.md")}
    assert lines.keys() == pages.keys() - {"README.md"}
    for name in (name for name in lines if name.startswith("decisions/")):
        number = Path(name).name[:4]
        assert pages[name].read_text("utf-8").startswith(f"# {number} {lines[name]}\n")


def test_every_decision_says_why_what_was_rejected_and_when_it_would_be_wrong() -> None:
    records = sorted((DOCS / "decisions").iterdir())
    assert [record.name[:4] for record in records] == [
        f"{number:04}" for number in range(1, len(records) + 1)
    ]
    for record in records:
        parts = re.findall(r"^\*\*(\w+(?: if)?)\.?\*\*", record.read_text("utf-8"), flags=re.MULTILINE)
        assert parts == ["Context", "Decision", "Rejected", "Wrong if"], record.name


#: A file of code, by its name or the end of its path, and what it defines: `leases.py::Leases`.
NAMED = re.compile(r"`([\w./@-]+\.(?:py|lua|service|socket))(?:::(\w+))?`")


def is_in_code(name: str, defined: str) -> bool:
    """Tell whether there is a file of that name that defines what is named, if anything is."""
    definition = re.compile(rf"^ *(?:class |def |async def |local function )?{defined}\b", re.MULTILINE)
    files = (REPOSITORY / file for file in FILES if f"/{file}".endswith(f"/{name}"))
    return any(not defined or definition.search(file.read_text("utf-8")) for file in files)


@each_page
def test_the_code_that_a_page_names_is_there(page: Path) -> None:
    named = NAMED.findall(page.read_text("utf-8"))
    assert [place for place in named if not is_in_code(*place)] == []


@pytest.mark.parametrize(
    "text", ["`redisio/gone.py`", "`streams/leases.py::Gone`", "`redstreamd.service::GoneSec`", "`ases.py`"]
)
def test_code_that_is_not_there_is_noticed(text: str) -> None:
    assert [is_in_code(*place) for place in NAMED.findall(text)] == [False]


def test_each_term_of_the_glossary_says_where_it_is_in_the_code() -> None:
    glossary = (DOCS / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", glossary, flags=re.MULTILINE)
    terms = {term: re.findall(r"`[^`]+`", where) for term, _, where in rows if term not in ("term", "---")}
    assert len(terms) > 60
    unknown = {
        (term, place)
        for term, places in terms.items()
        for place in places or [""]
        if not NAMED.fullmatch(place) and place.strip("`") not in DEFINITIONS
    }
    assert unknown == set()
