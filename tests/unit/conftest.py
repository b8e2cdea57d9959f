"""What all unit tests share."""

import sys
from collections.abc import Iterator

import pytest
import structlog
from structlog._config import BoundLoggerLazyProxy


@pytest.fixture(autouse=True)
def unconfigured_logs() -> Iterator[None]:
    """Let each test find logging as a new process does, whatever ran before it."""
    configuration = structlog.get_config()
    structlog.reset_defaults()
    # A logger that a server in this process has used remembers that server's configuration.
    for name, module in list(sys.modules.items()):
        logger = vars(module).get("log") if name.startswith("trivet.") else None
        if isinstance(logger, BoundLoggerLazyProxy):
            vars(logger).pop("bind", None)
    yield
    structlog.configure(**configuration)
