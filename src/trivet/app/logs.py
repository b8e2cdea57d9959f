"""Log lines: structlog on standard error, for people or as JSON. Prompts and keys never enter them."""

import contextlib
import logging
import sys
from typing import TextIO, cast

import structlog

from trivet.config.settings import LoggingSettings


class SteadyStream:
    """Standard error as it is now; a line that cannot be written (disk full, pipe closed) is dropped.

    A log line is never worth a request, nor the settlement that comes after it.
    """

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def configure_logging(settings: LoggingSettings) -> None:
    """Set up structlog, and keep the libraries' own loggers to warnings."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", SteadyStream())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def quiet_unless_configured() -> None:
    """In a program that has set up no logging of its own, let only warnings through, on standard error."""
    if not structlog.is_configured():
        configure_logging(LoggingSettings(level="warning"))
