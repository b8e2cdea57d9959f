"""Log lines: structlog on standard error, for people or as JSON. Prompts and keys never enter them."""

import contextlib
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import TextIO, cast

import structlog

from trivet.app.log_lines import HeldLines, PlainRenderer, Stamp, held
from trivet.config.settings import LoggingSettings
from trivet.domain.outcomes import Outcome


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
    lines = HeldLines(cast("TextIO", SteadyStream()), _renderer(settings), shows_info=level <= logging.INFO)
    structlog.configure(
        processors=[Stamp(), held],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    # Leaves a program alone that has handlers of its own.
    logging.basicConfig(level=logging.WARNING, handlers=[libraries_handler(settings)])


def libraries_handler(settings: LoggingSettings) -> logging.Handler:
    """Return what writes the libraries' lines in our form: whoever reads JSON must find nothing else."""
    handler = logging.StreamHandler(cast("TextIO", SteadyStream()))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[Stamp(), structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(settings)],
        )
    )
    return handler


def _renderer(settings: LoggingSettings) -> structlog.typing.Processor:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(colors=True)
    return PlainRenderer()


def journal() -> Callable[[Outcome], None] | None:
    """Return what writes a line for each request that ends; None in a program whose log is its own.

    Every request comes here: its line is worded and rendered when it is written, and not by structlog.
    """
    lines = structlog.get_config()["logger_factory"]()
    if not isinstance(lines, HeldLines):
        return None
    return partial(lines.later, Outcome.words) if lines.shows_info else _write_nothing


def _write_nothing(_: Outcome) -> None:
    """Leave a request without a line."""


def quiet_unless_configured() -> None:
    """In a program that has set up no logging of its own, let only warnings through, on standard error."""
    if not structlog.is_configured():
        configure_logging(LoggingSettings(level="warning"))
