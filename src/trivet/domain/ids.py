"""Names for what has none: 128 random bits in hex."""

import os
from collections.abc import Iterator

_BYTES = 16
_AT_ONCE = 256


def _drawn() -> Iterator[str]:
    while True:
        # The kernel is asked for many at once: asking costs more than the bits.
        pool = os.urandom(_BYTES * _AT_ONCE).hex()
        for start in range(0, len(pool), 2 * _BYTES):
            yield pool[start : start + 2 * _BYTES]


new_id = _drawn().__next__
"""Return a name that nobody can guess and that no other call, nor any other process, will ever return."""
