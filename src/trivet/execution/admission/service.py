"""How fast a gate's engine works, as measured by its tickets. Pure."""

REMEMBERED = 0.95
"""How much of what is known is kept at each new measurement: some twenty of them count."""


class ServiceRate:
    """Time that tickets were held, and the work they were held for; recent ones count most."""

    __slots__ = ("_count", "_held_ns", "_work")

    def __init__(self) -> None:
        self._held_ns = 0.0
        self._work = 0.0
        self._count = 0.0

    def ended(self, held_ns: int, work: int) -> None:
        """Take in a ticket that was answered."""
        self._held_ns = self._held_ns * REMEMBERED + held_ns
        self._work = self._work * REMEMBERED + work
        self._count = self._count * REMEMBERED + 1.0

    def wait_ns(self, work_ahead: int, places: int) -> int | None:
        """Return how long it takes until so much work has begun and one more place is free.

        `places` requests run side by side. None: nothing was measured yet.
        """
        if not self._count:
            return None
        per_work_ns = self._held_ns / max(1.0, self._work)
        return int((work_ahead * per_work_ns + self._held_ns / self._count) / max(1, places))
