"""How many places are kept free for critical requests: as many as they lately took, up to a share. Pure."""

WINDOW_NS = 60_000_000_000


class Reserve:
    """Remembers the most critical requests at one time, of the last one to two minutes.

    Where nobody sends critical requests nothing is kept free: the first one waits for the next place.
    """

    __slots__ = ("_before", "_now", "_share", "_until_ns")

    def __init__(self, share: float) -> None:
        """Take the part of an engine's places that may be kept free at most."""
        self._share = share
        self._now = self._before = 0
        self._until_ns = 0

    def came(self, critical: int, now_ns: int) -> None:
        """Note that so many critical requests run or wait."""
        self._turn(now_ns)
        self._now = max(self._now, critical)

    def size(self, limit: int, now_ns: int) -> int:
        """Return how many of `limit` places belong to critical requests; the last one never does."""
        if not self._now and not self._before:
            return 0
        self._turn(now_ns)
        wanted = max(self._now, self._before)
        return min(wanted, round(self._share * limit), limit - 1)

    def _turn(self, now_ns: int) -> None:
        if now_ns >= self._until_ns:
            self._before = self._now if now_ns < self._until_ns + WINDOW_NS else 0
            self._now, self._until_ns = 0, now_ns + WINDOW_NS
