"""What the documents say exists: links, options, paths, names and limits."""

import io
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

import receiver
from receiver.__main__ import main

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
HISTORY = ROOT / "CHANGELOG.md"
"""Names options and paths of its time: only its links are checked."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    HISTORY,
    ROOT / "bench" / "README.md",
    ROOT / "models" / "README.md",
    ROOT / "receiver" / "weights" / "lite.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
OF_TODAY = [page for page in PAGES if page != HISTORY]
LONGEST_README = 130

COMMANDS = ("demo", "enhance", "serve", "join", "send", "doctor")
ROOMS = ("receiver", "keyframes", "docs", "examples", "bench", "models", "tests", "docker", ".ci")
OF_OTHERS = {"--help", "--user", "--gpus", "--group-add"}
"""Options of argparse and Docker that the text names on their own."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, ROOMS))})/[\w./*-]*")
LIMIT = re.compile(r"`(\w+): (\w+(?:, \w+)*)`")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
each_page_of_today = pytest.mark.parametrize(
    "page", OF_TODAY, ids=lambda page: str(page.relative_to(ROOT))
)


@cache
def text_of(page: Path) -> str:
    """Returns a page as the site shows it: with the files that it includes."""
    return SNIPPET.sub(lambda found: text_of(ROOT / found[1]), page.read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def code(page: Path) -> Iterator[str]:
    """Yields every code span and every line of a code block, without comments."""
    yield from SPAN.findall(prose(page))
    for _, language, block in FENCE.findall(text_of(page)):
        if language != "python":
            yield from (line.split(" # ")[0] for line in block.splitlines())


def site_slug(heading: str) -> str:
    """Returns the anchor that Python-Markdown gives a heading."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def github_slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    """Returns the anchors that a page has both on the site and on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {site_slug(one) for one in headings} & {github_slug(one) for one in headings}


def relative_links(page: Path) -> list[str]:
    return [link for link in LINK.findall(SPAN.sub("", prose(page))) if "://" not in link]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README


@each_page
def test_every_relative_link_and_anchor_resolves(page):
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_pages_of_the_site_link_to_pages_of_the_site_alone(page):
    for link in relative_links(page):
        assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), link


@cache
def options_of(command: str) -> set[str]:
    """Returns the options in the help of a command."""
    help_text = io.StringIO()
    with (
        patch("sys.argv", ["receiver", command, "--help"]),
        patch.dict(os.environ, {"COLUMNS": "200"}),
        redirect_stdout(help_text),
        suppress(SystemExit),
    ):
        main()
    return set(OPTION.findall(help_text.getvalue()))


@cache
def options_in_sources() -> set[str]:
    """Returns every option that a program of this project, or a module of `bench`, defines."""
    sources = (
        source.read_text(encoding="utf-8")
        for room in ("receiver", "bench", "models")
        for source in (ROOT / room).rglob("*.py")
    )
    return {option for source in sources for option in re.findall(r'"(--[a-z][a-z-]*)"', source)}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_options(command):
    assert {"--help", "--json"} <= options_of(command)


@each_page_of_today
def test_documented_commands_take_the_options_that_are_shown(page):
    for line in code(page):
        for command, rest in re.findall(rf"receiver ({'|'.join(COMMANDS)})\b(.*)", line):
            assert set(OPTION.findall(rest)) <= options_of(command), line
        for room, name, rest in re.findall(r"-m (bench|models)[ .]([a-z_]\w*)(.*)", line):
            assert (ROOT / room / name).is_dir() or (ROOT / room / f"{name}.py").is_file(), line
            assert set(OPTION.findall(rest)) <= options_in_sources(), line


@each_page_of_today
def test_options_that_are_named_on_their_own_exist(page):
    for span in SPAN.findall(prose(page)):
        if span.startswith("--"):
            found = set(OPTION.findall(span))
            assert found <= options_in_sources() | OF_OTHERS, span


@each_page_of_today
def test_paths_that_are_named_exist(page):
    for line in code(page):
        for path in PATH.findall(line):
            assert list(ROOT.glob(path.rstrip("/."))), path


@each_page_of_today
def test_metrics_that_are_named_exist(page):
    calls = "".join(file.read_text() for file in (ROOT / "receiver" / "calls").rglob("*.py"))
    for metric in re.findall(r"`(receiver_\w+)`", prose(page)):
        assert f'"{metric}"' in calls, metric


@each_page_of_today
def test_python_in_the_documents_compiles_and_imports_public_names(page):
    for _, language, block in FENCE.findall(text_of(page)):
        if language == "python":
            compile(block, str(page), "exec")
            for names in re.findall(r"^from receiver import (.+)$", block, re.MULTILINE):
                assert set(names.split(", ")) <= set(receiver.__all__)


def test_documented_commands_use_the_virtual_environment():
    for page in OF_TODAY:
        for _, _, block in FENCE.findall(text_of(page)):
            assert not re.search(r"^(?:python3? -m (?!venv)|receiver )", block, re.MULTILINE), page


def test_limits_in_force_name_what_the_rooms_define():
    table = text_of(ROOT / "SECURITY.md").partition("## Limits in force")[2].partition("\n## ")[0]
    limits = LIMIT.findall(table)
    assert len(limits) > 40
    for room, names in limits:
        place = ROOT if room == "keyframes" else ROOT / "receiver"
        files = [place / f"{room}.py"] if not (place / room).is_dir() else (place / room).rglob("*")
        source = "\n".join(file.read_text() for file in files if file.suffix == ".py")
        for name in names.split(", "):
            definition = rf"^ *(class|(async )?def) {name}\b|^(\w+, )*{name}\b(, \w+)*(: .+)? ="
            assert re.search(definition, source, re.MULTILINE), f"{room}: {name}"
