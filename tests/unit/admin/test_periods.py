"""Reading instants: spans before now, ISO instants, and the years that can be kept."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from trivet.admin.periods import EARLIEST, LATEST, parse_instant
from trivet.domain.errors import RequestMalformed

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        (" 7d ", NOW - timedelta(days=7)),
        ("2900w", NOW - timedelta(weeks=2900)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        (
            "2026-11-01T00:00:00 02:00",
            datetime(2026, 11, 1, tzinfo=timezone(timedelta(hours=2))),
        ),
        ("1970-01-01", EARLIEST),
        ("2262-01-01", LATEST),
    ],
)
def test_spans_and_instants_are_read(text: str, expected: datetime) -> None:
    """A span lies before now, an instant without a zone is UTC, a blank stands for a lost plus."""
    assert expected == parse_instant(text, NOW, param="since")


@pytest.mark.parametrize(
    "text",
    [
        "999999w",
        "999999d",
        "3000w",
        "0001-01-01",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59",
        "2262-01-01T00:00:01",
        "9999-12-31",
        "9999-12-31T23:59:59-12:00",
    ],
)
def test_an_instant_that_cannot_be_kept_is_refused(text: str) -> None:
    """What lies before 1970 or after 2261 is malformed, and the bounds are told."""
    with pytest.raises(RequestMalformed, match="1970-01-01 to 2262-01-01") as caught:
        parse_instant(text, NOW, param="until")
    assert caught.value.param == "until"


@pytest.mark.parametrize("text", ["", "yesterday", "24", "-1d", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Anything else is malformed, with an example."""
    with pytest.raises(RequestMalformed, match="is not a time"):
        parse_instant(text, NOW, param="since")
