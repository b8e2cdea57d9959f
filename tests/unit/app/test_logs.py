"""Log lines: those of libraries look like ours."""

import asyncio
import io
import json
import logging
from typing import Literal

import pytest
import structlog

from trivet.app.log_lines import HELD_S, HeldLines, PlainRenderer
from trivet.app.logs import libraries_handler
from trivet.config.settings import LoggingSettings


def line_of(
    capsys: pytest.CaptureFixture[str], form: Literal["console", "json"], *, fault: bool = False
) -> str:
    """Return what stands on standard error after a library warned."""
    error = ValueError("what happened")
    cause = (ValueError, error, None) if fault else None
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "f.py", 1, "bad %s", ("bytes",), cause)
    libraries_handler(LoggingSettings(format=form)).emit(record)
    return capsys.readouterr().err


@pytest.mark.parametrize("fault", [False, True])
def test_json_lines_are_json(capsys: pytest.CaptureFixture[str], fault: bool) -> None:
    """A library's line is one JSON object with our fields, its traceback within."""
    (line,) = line_of(capsys, "json", fault=fault).splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["logger"]) == ("bad bytes", "warning", "uvicorn.error")
    assert said["timestamp"].endswith("Z")
    assert ("what happened" in said.get("exception", "")) is fault


def test_console_lines_have_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    """For people it begins with the time, as our lines do."""
    line = line_of(capsys, "console")
    assert line.startswith("20")
    assert "bad bytes" in line


@pytest.mark.parametrize(
    "said",
    [
        {"event": "request.done", "latency_ms": 1.5, "code": None, "scope": "acme.search", "attempts": 1},
        {
            "event": "engine.failed",
            "error": 'it says "no"',
            "path": "C:\\x y",
            "empty": "",
            "many": ["a", "b"],
        },
        {"event": "an event whose name is longer than thirty letters", "text": "two\nlines", "ok": True},
        {"event": "bare"},
        {"event": "failed", "exception": "Traceback ...\nValueError: no", "n": 1},
        {"event": "named", "logger": "uvicorn.error"},
    ],
)
def test_plain_lines_are_structlogs(said: dict[str, object]) -> None:
    """Without colours the lines are what structlog's own renderer writes, to the letter."""
    stamped = {**said, "timestamp": "2026-01-01T00:00:00.000000Z", "level": "info"}
    theirs = structlog.dev.ConsoleRenderer(colors=False)(None, "info", dict(stamped))
    assert PlainRenderer()(None, "info", dict(stamped)) == theirs


async def test_lines_are_written_together() -> None:
    """What is no warning waits a moment; a warning waits for nobody, and all stand in their order."""
    file = io.StringIO()
    lines = HeldLines(file)
    lines.info("one")
    lines.info("two")
    assert file.getvalue() == ""
    await asyncio.sleep(2 * HELD_S)
    assert file.getvalue() == "one\ntwo\n"
    lines.info("three")
    lines.warning("four")
    assert file.getvalue() == "one\ntwo\nthree\nfour\n"
    lines.info("five")
    await asyncio.to_thread(lines.info, "six")
    await asyncio.sleep(2 * HELD_S)
    assert file.getvalue().endswith("four\nfive\nsix\n")


def test_lines_outside_a_loop_are_written_at_once() -> None:
    """Nobody would write them later."""
    file = io.StringIO()
    HeldLines(file).info("one")
    assert file.getvalue() == "one\n"
