"""Names for what has none: 128 bits in hex, first the time in milliseconds, then 80 random ones.

Names that were given one after the other lie beside each other in a table's index, so a commit changes its
last page instead of one for each row. Nothing may be concluded from the time in a name: clocks are set.
"""

import os
import time

_RANDOM_BYTES = 10
_AT_ONCE = 256

_drawn: list[str] = []


def new_id() -> str:
    """Return a name that nobody can guess and that no other call, nor any other process, will ever return."""
    try:
        random = _drawn.pop()
    except IndexError:
        random = _draw()
    return f"{time.time_ns() // 1_000_000:012x}{random}"


def _draw() -> str:
    """Return the random part of a name. The kernel is asked for many at once: asking costs the most."""
    digits = os.urandom(_RANDOM_BYTES * _AT_ONCE).hex()
    size = 2 * _RANDOM_BYTES
    drawn = [digits[start : start + size] for start in range(0, len(digits), size)]
    first = drawn.pop()
    _drawn.extend(drawn)
    return first
