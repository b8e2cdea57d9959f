"""Calendar windows, with every oddity of local time that budgets meet."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.budgets.windows import window_at
from trivet.domain.budgets import Window, WindowKind


def utc(text: str) -> datetime:
    """Return an ISO date and time as an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "zone", "now", "start", "end"),
    [
        pytest.param(
            "daily", "UTC", "2026-03-01T12:00", "2026-03-01T00:00", "2026-03-02T00:00", id="plain day"
        ),
        pytest.param(
            "daily", "UTC", "2026-03-01T00:00", "2026-03-01T00:00", "2026-03-02T00:00", id="its first"
        ),
        pytest.param(
            "daily",
            "UTC",
            "2026-03-01T23:59:59.999999",
            "2026-03-01T00:00",
            "2026-03-02T00:00",
            id="its last",
        ),
        pytest.param(
            "monthly", "UTC", "2026-02-10T00:00", "2026-02-01T00:00", "2026-03-01T00:00", id="month"
        ),
        pytest.param(
            "monthly", "UTC", "2025-12-31T23:00", "2025-12-01T00:00", "2026-01-01T00:00", id="december"
        ),
        pytest.param(
            "monthly",
            "Asia/Tokyo",
            "2026-01-31T15:00",
            "2026-01-31T15:00",
            "2026-02-28T15:00",
            id="Tokyo's february",
        ),
        pytest.param(
            "daily",
            "Europe/Berlin",
            "2026-03-29T12:00",
            "2026-03-28T23:00",
            "2026-03-29T22:00",
            id="23 hours",
        ),
        pytest.param(
            "daily",
            "Europe/Berlin",
            "2026-10-25T12:00",
            "2026-10-24T22:00",
            "2026-10-25T23:00",
            id="25 hours",
        ),
        pytest.param(
            "monthly",
            "Europe/Berlin",
            "2026-03-30T12:00",
            "2026-02-28T23:00",
            "2026-03-31T22:00",
            id="with a change",
        ),
        pytest.param(
            "daily",
            "Asia/Beirut",
            "2026-03-29T12:00",
            "2026-03-28T22:00",
            "2026-03-29T21:00",
            id="no midnight",
        ),
        pytest.param(
            "daily",
            "Asia/Beirut",
            "2026-03-28T21:59",
            "2026-03-27T22:00",
            "2026-03-28T22:00",
            id="day before it",
        ),
        pytest.param(
            "daily",
            "America/Santiago",
            "2026-09-06T04:00",
            "2026-09-06T04:00",
            "2026-09-07T03:00",
            id="Santiago",
        ),
        pytest.param(
            "daily",
            "Pacific/Apia",
            "2011-12-30T09:59",
            "2011-12-29T10:00",
            "2011-12-30T10:00",
            id="before the skip",
        ),
        pytest.param(
            "daily",
            "Pacific/Apia",
            "2011-12-30T10:00",
            "2011-12-30T10:00",
            "2011-12-31T10:00",
            id="after the skip",
        ),
        pytest.param(
            "monthly",
            "Pacific/Apia",
            "2011-12-30T10:00",
            "2011-12-01T10:00",
            "2011-12-31T10:00",
            id="month of the skip",
        ),
        # The clock went from 00:01 back to 23:01: the date had begun, for a minute, and began again.
        pytest.param(
            "daily",
            "America/St_Johns",
            "2006-10-29T02:45",
            "2006-10-29T02:30",
            "2006-10-30T03:30",
            id="date twice",
        ),
        # The clock went from 24:00 back to 23:00: the date begins only at the second midnight.
        pytest.param(
            "daily",
            "Asia/Beirut",
            "2026-10-24T21:30",
            "2026-10-23T21:00",
            "2026-10-24T22:00",
            id="hour twice",
        ),
    ],
)
def test_bounds(kind: WindowKind, zone: str, now: str, start: str, end: str) -> None:
    """A window runs from the first real instant of its first date to that of the next window's."""
    assert Window(kind, utc(start), utc(end)) == window_at(kind, utc(now), ZoneInfo(zone))


ZONES = (
    "UTC",
    "Europe/Berlin",
    "Asia/Beirut",
    "America/Santiago",
    "Pacific/Apia",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Pacific/Kwajalein",
    "America/Sao_Paulo",
)
KINDS: tuple[WindowKind, ...] = ("daily", "monthly")


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    now=st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_windows_tile_time(kind: WindowKind, zone: ZoneInfo, now: datetime) -> None:
    """A window contains the instant it was asked for, every instant of it gives it, and windows join."""
    window = window_at(kind, now, zone)
    instant = timedelta(microseconds=1)
    assert window.start <= now < window.end
    assert window_at(kind, window.start, zone) == window
    assert window_at(kind, window.end - instant, zone) == window
    assert window_at(kind, window.end, zone).start == window.end
    assert window_at(kind, window.start - instant, zone).end == window.start
