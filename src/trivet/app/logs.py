"""Log lines: structlog on standard error, for people or as JSON. Prompts and keys never enter them."""

import logging
import sys

import structlog

from trivet.config.settings import LoggingSettings


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def quiet_unless_configured() -> None:
    """In a program that has set up no logging of its own, let only warnings through, on standard error."""
    if not structlog.is_configured():
        configure_logging(LoggingSettings(level="warning"))
