"""The documentation: whole, linked, true. What exists is in docs/reference; what docs name exists."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from fastapi import FastAPI
from starlette.routing import Route

from trivet.api.errors import STATUS_BY_CODE
from trivet.app import open_trivet
from trivet.cli.exits import exit_status
from trivet.cli.main import app
from trivet.config.keys import all_keys, environment_name
from trivet.config.settings import Settings
from trivet.domain.errors import TrivetError
from trivet.routing.hints import HEADER_KEYS, HEADER_PREFIX, METADATA_KEYS
from trivet.sdk.in_process import InProcessTransport

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
SOURCES = ROOT / "src" / "trivet"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
README_LINES_MAX = 120
PAGE_LINES_MAX = 200
MADE_PAGES = (DOCS / "reference" / "cli.md", DOCS / "reference" / "config.md")
MADE_PAGE_LINES_MAX = 600
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INVOCATION = re.compile(
    r"(?:^|[\s;|`(]|bin/)trivet (?!trivet )((?:[a-z][a-z-]* ?){1,2})((?:[^`\n#|]|(?<=\\)\|)*)"
)
OPTION = re.compile(r"(?<!\S)(--?[a-z][a-z-]*)")
# Words that follow `trivet` in prose or as arguments of another program: an image, a unit, a service.
NOT_COMMANDS = {"journalctl", "systemctl", "docker", "pip"}


def name_of(path: Path) -> str:
    """Return a path's place in the repository."""
    return str(path.relative_to(ROOT))


def reference(name: str) -> str:
    """Return the text of one page of the reference."""
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


def commands() -> dict[str, set[str]]:
    """Return every command that does something, without the leading `trivet`, with its options."""
    return dict(_commands(typer.main.get_command(app), ""))


def _commands(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    children = getattr(command, "commands", None)
    if children is None:
        options = {o for p in command.params if p.param_type_name == "option" for o in p.opts}
        yield name, options | {"--help", "-h"}
        return
    for child_name, child in children.items():
        yield from _commands(child, f"{name} {child_name}".strip())


def error_codes() -> set[str]:
    """Return the code of every error that Trivet names."""
    found: set[str] = set()
    waiting: list[type[TrivetError]] = [TrivetError]
    while waiting:
        kind = waiting.pop()
        found.add(kind.code)
        waiting.extend(kind.__subclasses__())
    return found


def shell_lines(page: Path) -> Iterator[str]:
    """Yield what a page would have its reader type: the lines of shell blocks and code in backticks."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def invocations(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (first words, rest of the line) of every `trivet ...` that a page has its reader type."""
    for line in shell_lines(page):
        code = line.partition(" #")[0]
        if code.split(" ", 1)[0] in NOT_COMMANDS and " exec " not in code:
            continue
        for match in INVOCATION.finditer(code):
            yield match[1].strip(), match[2]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file of the repository."""
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    relative = [target for target in targets if target and not re.match(r"[a-z]+:", target)]
    assert [target for target in relative if not (page.parent / target).exists()] == []


def test_pages_are_short() -> None:
    """The README fits in 120 lines, any other page in 200; those made from the code are longer."""
    limits = dict.fromkeys(PAGES, PAGE_LINES_MAX) | dict.fromkeys(MADE_PAGES, MADE_PAGE_LINES_MAX)
    limits[README] = README_LINES_MAX
    long = [name_of(page) for page, limit in limits.items() if page.read_text().count("\n") > limit]
    assert long == []


def test_every_page_can_be_found() -> None:
    """Each guide and reference page is linked from some other page; decisions have their folder's link."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    folders = {path for path in linked if path.is_dir()}
    lost = [name_of(page) for page in PAGES[1:] if page not in linked and page.parent not in folders]
    assert lost == []


def test_made_pages_are_current() -> None:
    """config.md and cli.md say what the settings tree, the example and the commands say now."""
    script = ROOT / "scripts" / "reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_reference() -> None:
    """Each command has a heading in cli.md, and each of its options stands on the page."""
    text = reference("cli.md")
    missing = [name for name in commands() if not re.search(rf"^## `trivet {name}[ `]", text, re.MULTILINE)]
    options = {option for found in commands().values() for option in found} - {"-h"}
    assert missing == []
    assert sorted(option for option in options if f"`{option}`" not in text and option not in text) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_commands_exist(page: Path) -> None:
    """A page names only commands that exist, with options that they have."""
    known = commands()
    groups = {name.partition(" ")[0] for name in known}
    wrong = []
    for words, rest in invocations(page):
        first = words.split(" ")[0]
        name = words if words in known else first
        if name not in known:
            # A group by its own name (`trivet budgets`) may be spoken of.
            if not (first in groups and words == first and not rest.strip()):
                wrong.append(f"trivet {words}")
            continue
        wrong += [f"trivet {name} {o}" for o in OPTION.findall(rest) if o not in known[name]]
    assert wrong == []


def test_every_setting_is_in_the_reference() -> None:
    """Each key stands in config.md, with its environment variable where it has one."""
    text = reference("config.md")
    names = {key: environment_name(key) for key in all_keys()}
    missing = [key for key, variable in names.items() if f"`{key}`" not in text]
    unnamed = [variable for variable in names.values() if variable and f"`{variable}`" not in text]
    assert (missing, unnamed) == ([], [])


def test_every_error_is_in_the_reference() -> None:
    """Each code has its row in errors.md, with the HTTP and exit status that the doors give it."""
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (\d+ \| \d+) \|", reference("errors.md"), re.MULTILINE))
    expected = {code: f"{STATUS_BY_CODE[code]} | {exit_status(code)}" for code in error_codes()}
    assert expected == rows


async def test_every_route_and_metric_is_in_the_reference(tmp_path: Path) -> None:
    """Each route of the application stands in http.md, each family of /metrics in metrics.md."""
    settings = Settings.model_validate({"store": {"path": tmp_path / "trivet.db"}})
    async with open_trivet(settings, with_engines=False) as trivet:
        transport = InProcessTransport(trivet.application)
        async with httpx.AsyncClient(base_url="http://trivet", transport=transport) as http:
            families = re.findall(r"^# TYPE (\S+)", (await http.get("/metrics")).text, re.MULTILINE)
        routes = set(_routes(trivet.application))
    written = re.findall(r"^\| `([A-Z]+ [^`]+)` \|", reference("http.md"), re.MULTILINE)
    named = re.findall(r"^\| `(trivet_\w+)` \|", reference("metrics.md"), re.MULTILINE)
    assert sorted(routes) == sorted(written)
    assert sorted(families) == sorted(named)


def _routes(application: FastAPI) -> Iterator[str]:
    """Yield the plain ASGI routes of the table, then the framework's own."""
    for route in application.routes:
        if isinstance(route, Route):
            yield from (f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"})
    for path, operations in application.openapi()["paths"].items():
        yield from (f"{method.upper()} {path}" for method in operations)


def test_every_hint_is_in_the_reference() -> None:
    """Each hint stands in http.md, as a metadata key and, where there is one, as a header."""
    page = reference("http.md")
    headers = [HEADER_PREFIX + key.replace("_", "-") for key in HEADER_KEYS]
    assert [name for name in [*sorted(METADATA_KEYS), *headers] if f"`{name}`" not in page] == []


def test_every_response_header_is_in_the_reference() -> None:
    """Each header that the doors write stands in http.md; those of HTTP itself need no word."""
    written = {
        name
        for path in (SOURCES / "api").glob("*.py")
        for name in re.findall(
            r'"((?:x-[a-z-]+)|retry-after|www-authenticate)"', path.read_text(encoding="utf-8")
        )
    }
    page = reference("http.md")
    assert {"x-trivet-tier", "x-request-id", "retry-after"} <= written
    assert sorted(name for name in written if f"`{name}`" not in page and name not in page) == []
