"""From monotonic instants to wall time, by one pair of readings that all records of a process share."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trivet.domain.clock import Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def epoch_ns_of(instant: datetime) -> int:
    """Return an aware instant as nanoseconds since 1970 in UTC, exact to its microseconds."""
    return (instant - _EPOCH) // _MICROSECOND * 1000


@dataclass(frozen=True, slots=True)
class WallAnchor:
    """What to add to a monotonic instant of this process to get nanoseconds since 1970 in UTC.

    The anchor is fixed, so that durations and orders survive whatever happens to the wall clock; a step
    of the wall clock after the start is therefore not seen in the records until the next start.
    """

    offset_ns: int

    @classmethod
    def taken(cls, clock: Clock) -> "WallAnchor":
        """Read both clocks now."""
        return cls(epoch_ns_of(clock.now()) - clock.monotonic_ns())

    def epoch_ns(self, monotonic_ns: int) -> int:
        """Return a monotonic instant as nanoseconds since 1970 in UTC."""
        return monotonic_ns + self.offset_ns
