"""Log lines at little cost: rendered without columns' formatters, written many at a time.

A served request writes one line. Written one by one, with structlog's own renderer, they cost as much as the
routing decision and more.
"""

import asyncio
import atexit
import re
import threading
from typing import TextIO

import structlog

HELD_S = 0.05
"""How long a line waits for others at most. Warnings do not wait, nor what stands before them."""
HELD_MAX = 1000

_COLUMNS = frozenset({"timestamp", "level", "event"})
_SPECIAL = frozenset({"stack", "exception", "exc_info", "logger", "logger_name"})
_QUOTED = re.compile(r"""[ \t=\r\n"']""")


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
        if not said.keys().isdisjoint(_SPECIAL) or not said.keys() >= _COLUMNS:
            return self._console(logger, name, said)
        values = " ".join(
            [
                f"{key}={value if type(value) is str and not _QUOTED.search(value) else repr(value)}"
                for key, value in sorted(said.items())
                if key not in _COLUMNS
            ]
        )
        line = f"{said['timestamp']} [{said['level']:<9}] {said['event']!s:<30} {values}"
        return line.rstrip(" ")


class HeldLines:
    """structlog's innermost logger: holds lines back for a moment, to write several at once.

    Only inside a running event loop, whose timer writes them; elsewhere they are written at once. Usable from
    any thread; the order is kept.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: list[str] = []
        self._due = False
        self._lock = threading.Lock()
        atexit.register(self.flush)

    def info(self, line: str) -> None:
        """Write a line soon."""
        self._lines.append(line)
        if self._due:
            if len(self._lines) >= HELD_MAX:
                self.flush()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        self._due = True
        loop.call_later(HELD_S, self.flush)

    def warning(self, line: str) -> None:
        """Write a line now, after those that wait."""
        self._lines.append(line)
        self.flush()

    msg = debug = log = info
    warn = error = err = critical = fatal = exception = failure = warning

    def flush(self) -> None:
        """Write all lines that wait."""
        self._due = False
        with self._lock:
            lines, self._lines = self._lines, []
            if lines:
                lines.append("")
                self._file.write("\n".join(lines))
                self._file.flush()
