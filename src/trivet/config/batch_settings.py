"""Batches: files of requests that are worked off in the background."""

from typing import Annotated

from pydantic import Field

from trivet.config.section import PositiveFloat, PositiveInt, Section


class BatchSettings(Section):
    """How much a batch may hold, how fast it is worked off, how long its results are kept."""

    concurrency: Annotated[int, Field(ge=0)] = 4
    """Requests of all batches together that run at once; 0: this process works off none."""
    max_lines: PositiveInt = 10_000
    max_bytes: PositiveInt = 32 * 1024 * 1024
    """Of a whole file; each request in it is bounded by `server.body_limit_bytes`."""
    open_per_scope: PositiveInt = 20
    """Batches of one scope that may wait or run at once."""
    window_hours: PositiveFloat = 24.0
    """What has not begun so long after it was submitted is given up; a batch may ask for less."""
    retention_hours: PositiveFloat = 72.0
    """How long results are kept after a batch has ended."""
    max_tries: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a request is run that an engine fails, or that is interrupted by the end of Trivet."""
