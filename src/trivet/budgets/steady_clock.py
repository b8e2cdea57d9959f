"""A wall clock that is believed only as far as the monotonic one agrees, or once it has said so twice."""

from datetime import UTC, datetime, timedelta

import structlog

from trivet.domain.clock import Clock
from trivet.storage.instants import ns_of

log = structlog.get_logger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_S = 1_000_000_000
TOLERANCE_NS = 60 * _NS_PER_S
"""Wall and monotonic clock may differ by so much from one reading to the next: a correction, no jump."""
CONFIRMED_AFTER_NS = 30 * _NS_PER_S
"""A jump is believed once the wall clock has stood by it for so long."""


class SteadyClock:
    """Shows the wall clock's time; where that has jumped, the time that it should show, until it insists.

    A clock that is wrong for a moment (a virtual machine that wakes up, a time server that errs) opens no
    window before its time and, set right again, leaves the ledger's time nowhere ahead. A jump that lasts
    is believed: the machine slept, or somebody set the clock. A clock that was wrong already when the
    process started cannot be told from one that is right.

    Not for several threads at once: who reads it holds a lock (see `LedgerCalendar`).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall_ns, self._at_ns = ns_of(clock.now()), clock.monotonic_ns()
        self._jump: tuple[int, int] | None = None
        """What both clocks showed when the wall clock was first seen elsewhere."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return _EPOCH + timedelta(microseconds=self.now_ns() // 1000)

    def monotonic_ns(self) -> int:
        """Return the monotonic clock."""
        return self._clock.monotonic_ns()

    def now_ns(self) -> int:
        """Return the wall time in nanoseconds since 1970."""
        wall_ns, at_ns = ns_of(self._clock.now()), self._clock.monotonic_ns()
        expected_ns = self._wall_ns + at_ns - self._at_ns
        if abs(wall_ns - expected_ns) > TOLERANCE_NS and not self._insists(wall_ns, at_ns, expected_ns):
            return expected_ns
        self._wall_ns, self._at_ns, self._jump = wall_ns, at_ns, None
        return wall_ns

    def _insists(self, wall_ns: int, at_ns: int, expected_ns: int) -> bool:
        jump = self._jump
        by_s = round((wall_ns - expected_ns) / _NS_PER_S)
        if jump is None or abs(wall_ns - jump[0] - (at_ns - jump[1])) > TOLERANCE_NS:
            self._jump = (wall_ns, at_ns)
            log.warning("clock.jumped", by_s=by_s, believed_after_s=CONFIRMED_AFTER_NS // _NS_PER_S)
            return False
        if at_ns - jump[1] < CONFIRMED_AFTER_NS:
            return False
        log.warning("clock.jump_believed", by_s=by_s)
        return True
