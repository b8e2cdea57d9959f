"""Periods of reports: `24h`, `7d`, ISO instants."""

import re
from datetime import UTC, datetime, timedelta

from trivet.domain.errors import RequestMalformed

_SPAN = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_ISO = "an ISO instant such as 2026-11-01T00:00:00+00:00"

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2262, 1, 1, tzinfo=UTC)
"""Instants are stored as 64-bit nanoseconds since 1970, which end in April 2262."""


def parse_instant(text: str, now: datetime, *, param: str) -> datetime:
    """Read an instant: a span before `now` (`90m`, `24h`, `7d`), or ISO 8601 (UTC when it names no zone).

    Raises:
        RequestMalformed: it is neither, or does not lie between EARLIEST and LATEST.
    """
    if match := _SPAN.fullmatch(text.strip()):
        span = timedelta(**{_UNITS[match[2]]: int(match[1])})
        # Compared before it is subtracted: six digits of weeks lead out of the calendar.
        if span > now - EARLIEST:
            raise _out_of_bounds(text, param)
        return now - span
    return _kept(_iso_instant(text, param, f"a span such as 24h or 7d, or {_ISO}"), text, param)


def parse_future(text: str, *, param: str) -> datetime:
    """Read an instant that may lie ahead: ISO 8601 only, since a span would mean one before now.

    Raises:
        RequestMalformed: it is none, or does not lie between EARLIEST and LATEST.
    """
    return _kept(_iso_instant(text, param, _ISO), text, param)


def _kept(instant: datetime, text: str, param: str) -> datetime:
    if not EARLIEST <= instant <= LATEST:
        raise _out_of_bounds(text, param)
    return instant


def _iso_instant(text: str, param: str, usable: str) -> datetime:
    try:
        # A '+' of an ISO offset arrives as a blank where a client forgot to encode it.
        instant = datetime.fromisoformat(
            text.strip().replace(" ", "+") if text.count(" ") == 1 and "T" in text else text.strip()
        )
    except ValueError:
        raise RequestMalformed(
            f"{param}={text[:40]!r} is not a time.",
            hint=f"Use {usable}.",
            param=param,
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _out_of_bounds(text: str, param: str) -> RequestMalformed:
    return RequestMalformed(
        f"{param}={text[:40]!r} lies outside of what can be kept.",
        hint=f"Use a time from {EARLIEST:%Y-%m-%d} to {LATEST:%Y-%m-%d}.",
        param=param,
    )
