"""Periods of reports: `24h`, `7d`, ISO instants."""

import re
from datetime import UTC, datetime, timedelta

from trivet.domain.errors import RequestMalformed

_SPAN = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_instant(text: str, now: datetime, *, param: str) -> datetime:
    """Read an instant: a span before `now` (`90m`, `24h`, `7d`), or ISO 8601 (UTC when it names no zone).

    Raises:
        RequestMalformed: it is neither.
    """
    if match := _SPAN.fullmatch(text.strip()):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        # A '+' of an ISO offset arrives as a blank where a client forgot to encode it.
        instant = datetime.fromisoformat(
            text.strip().replace(" ", "+") if text.count(" ") == 1 and "T" in text else text.strip()
        )
    except ValueError:
        raise RequestMalformed(
            f"{param}={text[:40]!r} is not a time.",
            hint="Use a span such as 24h or 7d, or an ISO instant such as 2026-11-01T00:00:00+00:00.",
            param=param,
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
