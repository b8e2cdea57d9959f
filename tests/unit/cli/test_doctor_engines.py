"""What doctor says of engines on the machine, with real servers that answer for them."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.calls import deployment_of
from trivet.cli import doctor, doctor_engines
from trivet.cli.findings import told
from trivet.config.settings import LaunchSettings
from trivet.domain.tiers import Deployment

NOBODY = "http://127.0.0.1:9"


class Versions(http.server.BaseHTTPRequestHandler):
    """Answers as both engines do when they are asked for their version."""

    def do_GET(self) -> None:
        """Answer."""
        known = self.path in ("/api/version", "/version")
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "0.99.1"}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Give the URL of a server that answers for engines."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Versions) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def vllm_of(url: str | None) -> Deployment:
    """Return a deployment of engine vllm."""
    return replace(deployment_of(url, "qwen", engine="vllm"), url=url)


def install(folder: Path, name: str) -> str:
    """Make a program that does nothing; return the PATH that finds it."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return str(folder / "bin")


def test_ollama(server: str, tmp_path: Path) -> None:
    """Running is ok; else it depends on whether it is needed, and the fix on whether it is installed."""
    running = doctor_engines.ollama(server, needed=True, path="")
    assert (running.state, "0.99.1" in running.detail) == ("ok", True)
    assert doctor_engines.ollama(NOBODY, needed=False, path="").state == "ok"
    absent = doctor_engines.ollama(NOBODY, needed=True, path="")
    assert (absent.state, "OLLAMA_HOST" in absent.fix) == ("error", True)
    stopped = doctor_engines.ollama(NOBODY, needed=True, path=install(tmp_path, "ollama"))
    assert (stopped.state, "ollama serve" in stopped.fix) == ("error", True)


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("0.12.5", "warning"),
        ("0.5.4-rc1", "warning"),
        ("0.12.6", "ok"),
        ("0.34.0", "ok"),
        ("dev", "ok"),
        ("1", "ok"),
    ],
)
def test_an_ollama_that_cuts_prompts(version: str, state: str) -> None:
    """An old one does not know how to refuse; a build without a number is taken for a new one."""
    assert doctor_engines.ollama_version(version, "http://x").state == state


def test_a_vllm_that_is_attached_to(server: str, tmp_path: Path) -> None:
    """It must answer; what is installed here is told beside it."""
    found = doctor_engines.vllm(server, [vllm_of(server)], [], path="")
    assert (found.state, "0.99.1" in found.detail) == ("ok", True)
    path = install(tmp_path, "vllm")
    package = tmp_path / "lib/python3.12/site-packages/vllm-0.32.0.dist-info"
    package.mkdir(parents=True)
    down = doctor_engines.vllm(NOBODY, [vllm_of(NOBODY)], [], path=path)
    assert (down.state, "0.32.0" in down.detail, "VLLM_BASE_URL" in down.fix) == ("error", True, True)
    elsewhere = doctor_engines.vllm(NOBODY, [vllm_of("http://127.0.0.1:8")], [], path="")
    assert elsewhere.state == "ok"


def test_a_vllm_that_trivet_launches(tmp_path: Path) -> None:
    """Its program must be there; a default that cannot work says how to make one."""
    launches = [LaunchSettings(command=(str(tmp_path / "bin/vllm"), "serve")), LaunchSettings()]
    words = doctor_engines.first_words(launches)
    assert words == [str(tmp_path / "bin/vllm"), ""]
    missing = doctor_engines.vllm(NOBODY, [vllm_of(None)], words, path="")
    assert (missing.state, "launch.command" in missing.fix) == ("error", True)
    path = install(tmp_path, "vllm")
    assert doctor_engines.vllm(NOBODY, [vllm_of(None)], words, path=path).state == "ok"
    package = tmp_path / "lib/python3.12/site-packages/vllm-0.8.5.dist-info"
    package.mkdir(parents=True)
    assert doctor_engines.vllm(NOBODY, [vllm_of(None)], [""], path=path).state == "warning"
    none = doctor_engines.vllm(NOBODY, [vllm_of(None)], [""], path="")
    assert (none.state, "setup-vllm" in none.fix) == ("error", True)


def test_llamacpp() -> None:
    """The tests' environment has it."""
    assert doctor_engines.llamacpp(needed=True).state == "ok"


@pytest.mark.parametrize(
    ("sentence", "detail", "fix"),
    [
        (
            "light, down: Nobody answers. Start it with `x`.",
            "light, down: Nobody answers.",
            "Start it with `x`.",
        ),
        ("u does not have m: run `ollama pull m`.", "u does not have m", "Run `ollama pull m`."),
        (
            "a.b: there is no such setting; did you mean a.c?",
            "a.b: there is no such setting",
            "Did you mean a.c?",
        ),
        ("got 'x'; allowed: a number.", "got 'x'", "Allowed: a number."),
        ("It died.", "It died.", "Look."),
        ("Restart.", "Restart.", "Look."),
    ],
)
def test_advice_is_taken_out_of_a_sentence(sentence: str, detail: str, fix: str) -> None:
    """What others say to do becomes the fix."""
    found = told("x", "error", sentence, otherwise="Look.")
    assert (found.detail, found.fix) == (detail, fix)


@pytest.mark.parametrize(
    ("breaker", "state", "words"),
    [
        (None, "ok", ""),
        ({"state": "closed", "retry_after_s": None}, "ok", ""),
        ({"state": "open", "retry_after_s": 4.2}, "warning", "circuit open: asked again in 4 s"),
        ({"state": "half_open", "retry_after_s": None}, "warning", "one request at a time"),
    ],
)
def test_an_engine_that_is_there_and_fails(breaker: dict[str, Any] | None, state: str, words: str) -> None:
    """A probe finds it ready, but requests failed: the refusal of a request sends people here."""
    shown = {"name": "a", "tier": "light", "state": "ready", "detail": "", "breaker": breaker}
    found = doctor.engine_found(shown)
    assert found.state == state
    assert words in found.detail
