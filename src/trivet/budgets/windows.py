"""Calendar windows in a time zone. Pure: no clock, no store."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from trivet.domain.budgets import NEVER_S, Window, WindowKind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def window_at(kind: WindowKind, now_utc: datetime, zone: ZoneInfo) -> Window:
    """Return the window that contains the aware instant `now_utc`.

    A window begins at the first instant that really exists of its local date (daily), of the Monday of
    its week or of the first date of its month, and ends where the next begins. So days of 23 and 25 hours
    are whole, and a date that a zone skipped altogether (Apia, 2011-12-30) has no window. `total` is not for
    this function: see `bounds_at`.
    """
    now_utc = now_utc.astimezone(UTC)
    day = _first_day(kind, now_utc.astimezone(zone).date())
    # The local date alone does not tell: a clock set back across midnight shows the old date again.
    while now_utc >= (end := first_instant(_next(kind, day), zone)):
        day = _next(kind, day)
    while now_utc < (start := first_instant(day, zone)):
        day, end = _previous(kind, day), start
    return Window(kind, start, end)


def bounds_at(kind: WindowKind, now_s: int, zone: ZoneInfo) -> tuple[int, int]:
    """Return the bounds of the window at `now_s`, all in seconds since 1970 in UTC."""
    if kind == "total":
        return 0, NEVER_S
    window = window_at(kind, _EPOCH + timedelta(seconds=now_s), zone)
    return int(window.start.timestamp()), int(window.end.timestamp())


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant, in UTC, at which the zone's clocks showed `day` (a later date if skipped)."""
    midnight = datetime.combine(day, time(), zone)
    before = midnight.astimezone(UTC)
    if before.astimezone(zone).replace(tzinfo=None) == midnight.replace(tzinfo=None):
        return before
    # Midnight was skipped. Read with the offset after the gap it is not later than the transition, with
    # the offset before the gap not earlier; between the two the offset changes once: there is the instant.
    offset_after = midnight.replace(fold=1).utcoffset()
    low = midnight.replace(fold=1).astimezone(UTC)
    seconds = int((before - low).total_seconds())
    first, last = 0, seconds
    while first < last:
        middle = (first + last) // 2
        if (low + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset_after:
            last = middle
        else:
            first = middle + 1
    return low + timedelta(seconds=first)


def _first_day(kind: WindowKind, day: date) -> date:
    if kind == "monthly":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if kind == "weekly" else day


def _next(kind: WindowKind, day: date) -> date:
    if kind == "daily":
        return day + timedelta(days=1)
    if kind == "weekly":
        return day + timedelta(days=7)
    return (day + timedelta(days=31)).replace(day=1)


def _previous(kind: WindowKind, day: date) -> date:
    if kind == "daily":
        return day - timedelta(days=1)
    if kind == "weekly":
        return day - timedelta(days=7)
    return (day - timedelta(days=1)).replace(day=1)
