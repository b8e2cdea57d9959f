"""The section of admission: how many requests an engine gets at once, and who waits how long."""

from typing import Annotated

from pydantic import Field

from trivet.config.section import PositiveFloat, PositiveInt, Section


class AdmissionSettings(Section):
    """The gates before the engines."""

    enabled: bool = True
    """False: every request goes to its engine at once, however many it has."""
    growth: PositiveInt = 4
    """Where `slots` is only a default, an engine may be given up to so many times it at once."""
    ttft_tolerance: Annotated[float, Field(gt=1)] = 2.0
    """How many times the ordinary value the time to first token may be before an engine is given less."""
    critical_reserve: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """The part of an engine's places that is kept free for critical requests, where there are such."""
    max_wait_s: PositiveFloat = 30.0
    """Requests that would wait longer for their turn are refused at once, with the time in retry-after."""
    batch_max_wait_s: PositiveFloat = 120.0
    """The same for requests of priority batch."""
    max_queued: PositiveInt = 1000
    """Requests that may wait for one engine; memory's bound, the waits above are usually narrower."""
