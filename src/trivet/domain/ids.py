"""Names for what has none: 128 bits in hex, first the time in milliseconds, then 80 random ones.

They are drawn many at once, for asking the kernel and the clock costs the most, and given in their order. So
names that were given one after the other lie beside each other in a table's index, which grows at its end: a
commit changes its last page instead of one for each row. Nothing may be concluded from the time in a name: it
was drawn before it was given, and clocks are set.
"""

import os
import time
from functools import cache

_RANDOM_BYTES = 10
_AT_ONCE = 256

_drawn: list[str] = []
"""The next one is the last."""


def new_id() -> str:
    """Return a name that nobody can guess and that no other call, nor any other process, will ever return."""
    try:
        return _drawn.pop()
    except IndexError:
        return _draw()


def _draw() -> str:
    """Draw names, and return the first."""
    _forget_in_children()
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    digits = os.urandom(_RANDOM_BYTES * _AT_ONCE).hex(" ", _RANDOM_BYTES)
    names = f"{stamp}{digits.replace(' ', f' {stamp}')}".split(" ")
    names.sort(reverse=True)
    first = names.pop()
    _drawn.extend(names)
    return first


@cache
def _forget_in_children() -> None:
    """Let a forked process, which has got a copy of what was drawn, draw its own."""
    os.register_at_fork(after_in_child=_drawn.clear)
