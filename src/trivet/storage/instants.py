"""How instants are stored: integer nanoseconds since 1970 in UTC."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ns_of(instant: datetime) -> int:
    """Return an aware instant as nanoseconds since 1970, without rounding."""
    since = instant - _EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000


def instant_of(at_ns: int) -> datetime:
    """Return nanoseconds since 1970 as an instant in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=at_ns // 1000)
