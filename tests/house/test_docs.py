"""What the documentation says twice must be said the same: interfaces, links, the parameter table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen3vl_ros import config

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted([*(ROOT / "msg").glob("*.msg"), *(ROOT / "srv").glob("*.srv"), *(ROOT / "action").glob("*.action")])
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def declared_fields(path: Path) -> list[tuple[str, str]]:
    """(name, type) of every field of a .msg, .srv or .action, in order."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    fields = [line.split()[:2] for line in lines if line and line != "---" and "=" not in line]
    return [(name, kind) for kind, name in fields]


def documented_fields(path: Path) -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "interfaces.md").read_text()
    heading = f"### qwen3vl_ros/{path.parent.name}/{path.stem}\n"
    assert heading in page, f"docs/interfaces.md has no section {heading.strip()!r}"
    section = page.split(heading, 1)[1].split("\n## ")[0].split("\n### ")[0]
    return re.findall(r"^\| (?:→ )?`(\w+)` \| `([^`]+)`", section, re.MULTILINE)


@pytest.mark.parametrize("path", INTERFACES, ids=lambda p: p.name)
def test_every_field_is_documented_with_its_type_and_order(path):
    assert documented_fields(path) == declared_fields(path)


def test_the_readme_has_the_parameters_as_declared():
    readme = (ROOT / "README.md").read_text()
    table = readme.split("<!-- parameters -->\n", 1)[1].split("<!-- /parameters -->", 1)[0]
    assert table == config.to_markdown(), "run python -m qwen3vl_ros.config"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    anchors = {
        re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-")
        for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in anchors, f"{page.name} links to {target}, which is no heading of it"
        elif "://" not in target:
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}, which is not there"


def test_what_the_page_on_reliability_names_is_there():
    page = (ROOT / "docs" / "reliability.md").read_text()
    tests, modules = re.findall(r"`(tests/[\w/]+\.py)`", page), re.findall(r"`((?!tests/)[\w/]+/[\w/]+\.py)`", page)
    assert len(tests) > 30 and len(modules) > 10
    for path in tests:
        assert (ROOT / path).is_file(), path
    for path in modules:
        assert (ROOT / "qwen3vl_ros" / path).is_file(), path
