"""Named places where a process can be told to die, as by kill -9: for proofs of what survives that.

`TRIVET_FAILPOINT=before_settle:7` kills the process when it comes to that place for the seventh time.
Without the variable, as in production, a place costs one comparison. The names are in FAILPOINTS.
"""

import os
import signal

from trivet.domain.errors import ConfigError

VARIABLE = "TRIVET_FAILPOINT"
FAILPOINTS = (
    "after_reserve",
    "after_dispatch",
    "mid_stream",
    "before_settle",
    "inside_commit",
    "after_commit",
    "during_sweep",
)
"""A hold is on disk, no engine was asked; an engine has answered, no byte was passed on; an event was passed
on; the request has ended, its settlement was not begun; all is written, nothing committed; committed, nobody
was told; some holds of the dead are charged, others not yet."""


class _Armed:
    """The one place that kills, and how often it is still passed."""

    def __init__(self, told: str) -> None:
        name, _, passes = told.partition(":")
        if name not in FAILPOINTS:
            raise ConfigError(
                f"There is no failpoint {name[:40]!r}.",
                hint=f"{VARIABLE} is for tests of crashes; it takes one of {', '.join(FAILPOINTS)}.",
                param=VARIABLE,
            )
        self.name = name
        self.left = int(passes) if passes.isdecimal() else 1


_armed: _Armed | None = None


def arm(told: str | None) -> None:
    """Choose the place by the text of the variable; None or nothing: none.

    Raises:
        ConfigError: there is no such place.
    """
    global _armed  # noqa: PLW0603 - a process dies once, in one place
    _armed = _Armed(told) if told else None


def reach(name: str) -> None:
    """Come to a place; die there if so told."""
    if _armed is not None and _armed.name == name:
        _armed.left -= 1
        if _armed.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
