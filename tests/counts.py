"""How much the long tests do: one environment variable multiplies every count."""

import os


def scaled(count: int) -> int:
    """Return a count times TRIVET_TEST_SCALE (1 by default; `scripts/test --long` uses 20)."""
    return count * int(os.environ.get("TRIVET_TEST_SCALE", "1"))
