"""How the rows of a request are stored."""

import json

from hypothesis import given
from hypothesis import strategies as st

from trivet.budgets.rows import RowKey, rows_as_text, rows_from_text
from trivet.domain.scopes import Scope, lineage

DAY = 1_790_000_000

keys = st.builds(
    RowKey,
    st.sampled_from([Scope("acme"), Scope("acme.web"), Scope("acme.web.\u00e9")]),
    st.sampled_from(["tokens", "usd_micros"]),
    st.sampled_from(["daily", "weekly", "task"]),
    st.sampled_from(["", 'a "task"']),
    st.integers(0, 3),
    st.integers(4, 6),
)


@given(rows=st.lists(keys, max_size=12).map(tuple))
def test_rows_come_back_in_their_order(rows: tuple[RowKey, ...]) -> None:
    """Whatever was stored is read again, as it was; the same rows make the same text."""
    text = rows_as_text(rows)
    assert rows_from_text(text) == rows
    assert rows_as_text(rows_from_text(text)) == text


@given(rows=st.lists(keys, max_size=12).map(tuple))
def test_what_was_stored_before_is_read(rows: tuple[RowKey, ...]) -> None:
    """Books of before tell each row by all of its fields."""
    assert rows_from_text(json.dumps(rows)) == rows


def test_a_window_is_told_once() -> None:
    """Three windows on four scopes take a third of the room."""
    windows = [(kind, DAY, DAY + 86_400) for kind in ("daily", "weekly", "monthly")]
    rows = tuple(
        RowKey(scope, "tokens", kind, "", *bounds)  # type: ignore[arg-type]
        for scope in lineage(Scope("acme.web.search.ann"))
        for kind, *bounds in windows
    )
    assert len(rows_as_text(rows)) < len(json.dumps(rows)) / 3
