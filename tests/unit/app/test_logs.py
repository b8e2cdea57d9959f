"""Log lines: those of libraries look like ours."""

import json
import logging
from typing import Literal

import pytest

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
