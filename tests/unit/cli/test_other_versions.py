"""Commands that meet a server of another version: every one that reads an answer explains what is missing."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from trivet.cli import doctor, main
from trivet.cli.exits import ENGINE
from trivet.cli.session import Address
from trivet.domain.errors import ServerDiffers

READ_NOTHING = {
    *("alerts test", "batch results", "budgets clear", "budgets time-zone", "keys revoke", "rates clear")
}
"""Commands that only look whether it was done, or pass on what they get."""
OPTIONS = {"daily": ["--daily", "1"], "requests_per_minute": ["--rpm", "1"]}


class _Older(BaseHTTPRequestHandler):
    """Answers everything with an object in which nothing stands."""

    def do_GET(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are the library's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def older() -> Iterator[str]:
    """Give the URL of a server that knows none of today's fields."""
    with HTTPServer(("127.0.0.1", 0), _Older) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def commands() -> dict[str, Any]:
    """Return every command that can be told the URL of a server, by its name."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        for below, one in getattr(command, "commands", {}).items():
            walk(f"{name} {below}".strip(), one)
        if {"url", "api_key"} <= {parameter.name for parameter in command.params}:
            found[name] = command

    walk("", typer.main.get_command(main.app))
    return found


def arguments(command: Any, file: Path) -> list[str]:
    """Return what a command has to be told beside the URL."""
    told: list[str] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument" and parameter.required:
            told.append(str(file) if parameter.name == "file" else "acme")
        elif parameter.required:
            told += [parameter.opts[0], "acme"]
        elif parameter.name in OPTIONS:
            told += OPTIONS[parameter.name]
    return told


COMMANDS = commands()
DOCTOR = COMMANDS.pop("doctor")
"""It looks at the machine first; see below."""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_missing_field_is_explained(name: str, older: str, tmp_path: Path) -> None:
    """No command ends in a traceback because a server tells less."""
    file = tmp_path / "requests.jsonl"
    file.write_text("{}\n")
    told = [*name.split(), *arguments(COMMANDS[name], file), "--url", older]
    if name in READ_NOTHING:
        main.app(told, standalone_mode=False)
        return
    with pytest.raises(ServerDiffers, match="another version") as error:
        main.app(told, standalone_mode=False)
    assert error.value.details["missing"] in str(error.value)


def test_such_an_error_has_the_status_of_a_server_that_cannot_be_used(older: str) -> None:
    """One sentence, and the exit status as where no Trivet answers at all."""
    command = [sys.executable, "-m", "trivet", "budgets", "status", "acme", "--url", older]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (ENGINE, "")
    assert done.stderr.startswith("trivet: The server's answer has no 'time_zone'")
    assert done.stderr.count("\n") == 1


def test_the_doctor_finds_it(older: str) -> None:
    """A server that cannot be understood is a finding like others, with what to do."""
    (finding,) = doctor._service(Address(older, None, None))
    assert (finding.check, finding.state) == ("service", "error")
    assert "'deployments'" in finding.detail
    assert "same version" in finding.fix
