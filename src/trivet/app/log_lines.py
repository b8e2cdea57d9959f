"""Log lines at little cost: rendered without columns' formatters, written many at a time.

A served request writes one line. Written one by one, with structlog's own renderer, they cost as much as the
routing decision and more.
"""

import asyncio
import atexit
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TextIO, TypeVar

import structlog

HELD_S = 0.05
"""How long a line waits for others at most. Warnings do not wait, nor what stands before them."""
HELD_MAX = 1000

T = TypeVar("T")
_Unworded = tuple[int, Callable[[Any], structlog.typing.EventDict], Any]
"""When it was said, in nanoseconds since 1970; what words it; of what."""

_LEVELS = {"warn": "warning", "exception": "error"}
_COLUMNS = frozenset({"timestamp", "level", "event"})
_SPECIAL = frozenset({"stack", "exception", "exc_info", "logger", "logger_name"})
_QUOTED = re.compile(r"""[ \t=\r\n"']""")


class Stamp:
    """Adds level, time and a fault's traceback, as three of structlog's processors do, at less cost."""

    def __init__(self) -> None:
        self._second = (-1, "")
        """The last second that was asked for, and how it is written."""

    def __call__(
        self, logger: structlog.typing.WrappedLogger, name: str, said: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """Return what was said, stamped."""
        if "exc_info" in said:
            said = structlog.processors.format_exc_info(logger, name, said)
        said["level"] = _LEVELS.get(name, name)
        said["timestamp"] = self.written(time.time_ns())
        return said

    def written(self, at_ns: int) -> str:
        """Return an instant, in nanoseconds since 1970, as lines have it."""
        second, ns = divmod(at_ns, 1_000_000_000)
        known, written = self._second
        if second != known:
            written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, written)
        return f"{written}.{ns // 1000:06}Z"


class PlainRenderer:
    """Lines as structlog's ConsoleRenderer makes them without colours, at a tenth of its cost.

    What has more than one line, a traceback, is left to structlog.
    """

    def __init__(self) -> None:
        self._console = structlog.dev.ConsoleRenderer(colors=False)

    def __call__(
        self, logger: structlog.typing.WrappedLogger, name: str, said: structlog.typing.EventDict
    ) -> str | bytes:
        """Return the line of what was said."""
        order = _order_of(tuple(said))
        if order is None:
            return self._console(logger, name, said)
        line = f"{said['timestamp']} [{said['level']:<9}] {said['event']!s:<30}"
        for key in order:
            value = said[key]
            # The first question is the cheaper one, and answers for most.
            if type(value) is str and (value.isalnum() or not _QUOTED.search(value)):
                line += f" {key}={value}"
            else:
                line += f" {key}={value!r}"
        return line.rstrip(" ")


@lru_cache(maxsize=1024)
def _order_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the order of what stands behind the columns; None: structlog must render it."""
    if not _SPECIAL.isdisjoint(names) or not _COLUMNS.issubset(names):
        return None
    return tuple(sorted(_COLUMNS.symmetric_difference(names)))


class HeldLines:
    """structlog's innermost logger: holds back what was said for a moment, to render and write it together.

    Rendered one after the other, lines cost half of what they cost each among a request's other work. Only
    inside a running event loop, whose timer writes them; elsewhere they are written at once. Usable from any
    thread; the order is kept.
    """

    def __init__(
        self, file: TextIO, renderer: structlog.typing.Processor, *, shows_info: bool = True
    ) -> None:
        self.shows_info = shows_info
        """Whether there is a place for what is no warning."""
        self._file = file
        self._renderer = renderer
        self._stamp = Stamp()
        self._said: list[structlog.typing.EventDict | _Unworded] = []
        self._due = False
        self._lock = threading.Lock()
        atexit.register(self.flush)

    def info(self, said: structlog.typing.EventDict) -> None:
        """Write a line soon."""
        self._hold(said)

    def later(self, words: Callable[[T], structlog.typing.EventDict], subject: T) -> None:
        """Write a line soon that is not even worded before; its time is that of now."""
        self._hold((time.time_ns(), words, subject))

    def warning(self, said: structlog.typing.EventDict) -> None:
        """Write a line now, after those that wait."""
        self._said.append(said)
        self.flush()

    msg = debug = log = info
    warn = error = err = critical = fatal = exception = failure = warning

    def flush(self) -> None:
        """Write all lines that wait."""
        self._due = False
        with self._lock:
            waiting, self._said = self._said, []
            if waiting:
                self._file.write("".join([self._line(said) for said in waiting]))
                self._file.flush()

    def _hold(self, said: "structlog.typing.EventDict | _Unworded") -> None:
        self._said.append(said)
        if self._due:
            if len(self._said) >= HELD_MAX:
                self.flush()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._due = True
        loop.call_later(HELD_S, self.flush)

    def _line(self, said: "structlog.typing.EventDict | _Unworded") -> str:
        if isinstance(said, tuple):
            at_ns, words, subject = said
            said = words(subject)
            said["level"] = "info"
            said["timestamp"] = self._stamp.written(at_ns)
        return f"{self._renderer(None, said['level'], said)!s}\n"


def held(
    logger: structlog.typing.WrappedLogger, name: str, said: structlog.typing.EventDict
) -> tuple[tuple[structlog.typing.EventDict], dict[str, str]]:
    """Hand what was said to `HeldLines` as it is: the last of structlog's processors."""
    return (said,), {}
