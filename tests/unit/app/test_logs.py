"""Log lines: those of libraries look like ours."""

import asyncio
import io
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
import structlog

from tests.unit.metering.makers import deployment, outcome
from trivet.app.log_lines import HELD_S, HeldLines, PlainRenderer, Stamp
from trivet.app.logs import configure_logging, journal, libraries_handler
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


@pytest.mark.parametrize("name", ["debug", "info", "warn", "warning", "exception", "error", "critical"])
@pytest.mark.parametrize("fault", [None, ValueError("what happened")])
def test_the_stamp_is_structlogs(name: str, fault: ValueError | None) -> None:
    """Level, time and traceback are told as structlog's own processors tell them."""
    said = {"event": "e", "n": 1} | ({} if fault is None else {"exc_info": fault})
    theirs: structlog.typing.EventDict = dict(said)
    for processor in (
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ):
        theirs = processor(None, name, theirs)
    ours = Stamp()(None, name, dict(said))
    times = [datetime.fromisoformat(each.pop("timestamp")) for each in (theirs, ours)]
    assert ours == theirs
    assert timedelta() <= times[1] - times[0] < timedelta(minutes=1)


def lines_in(file: io.StringIO) -> HeldLines:
    """Return lines that are written as what they say, and nothing else."""
    return HeldLines(file, lambda _, __, said: str(said["event"]))


def said(event: str) -> dict[str, object]:
    """Return what a logger hands on."""
    return {"event": event, "level": "info"}


async def test_lines_are_written_together() -> None:
    """What is no warning waits a moment; a warning waits for nobody, and all stand in their order."""
    file = io.StringIO()
    lines = lines_in(file)
    lines.info(said("one"))
    lines.info(said("two"))
    assert file.getvalue() == ""
    await asyncio.sleep(2 * HELD_S)
    assert file.getvalue() == "one\ntwo\n"
    lines.info(said("three"))
    lines.warning(said("four"))
    assert file.getvalue() == "one\ntwo\nthree\nfour\n"
    lines.info(said("five"))
    await asyncio.to_thread(lines.info, said("six"))
    await asyncio.sleep(2 * HELD_S)
    assert file.getvalue().endswith("four\nfive\nsix\n")


async def test_lines_are_worded_when_they_are_written() -> None:
    """In their order, with the time at which they were said."""
    file = io.StringIO()
    lines = HeldLines(file, lambda _, __, said: f"{said['timestamp']} {said['level']} {said['event']}")
    before = datetime.now(UTC)
    lines.info({"event": "one", "level": "info", "timestamp": "-"})
    lines.later(said, "two")
    between = datetime.now(UTC)
    await asyncio.sleep(2 * HELD_S)
    one, two = file.getvalue().splitlines()
    assert one == "- info one"
    time, _, words = two.partition(" ")
    assert words == "info two"
    assert before <= datetime.fromisoformat(time) <= between


def test_requests_have_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """In the log that Trivet has set up, from the level `info` on; another program's is left alone."""
    ended = outcome("r1", [], started_ns=0, ended_ns=1_500_000, chosen=deployment("light"))
    try:
        assert journal() is None
        for level, expected in (("info", ["request.done"]), ("warning", [])):
            configure_logging(LoggingSettings(level=level, format="json"))
            write = journal()
            assert write is not None
            write(ended)
            lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
            assert [line["event"] for line in lines] == expected
            for line in lines:
                assert (line["request_id"], line["latency_ms"]) == ("r1", 1.5)
    finally:
        structlog.reset_defaults()


def test_lines_outside_a_loop_are_written_at_once() -> None:
    """Nobody would write them later."""
    file = io.StringIO()
    lines_in(file).info(said("one"))
    assert file.getvalue() == "one\n"
