"""Tables must be readable where they are shown: in a terminal of 80 columns, and in a pipe."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trivet.cli.output import print_table

COLUMNS = ("scope", "used", "limit", "why")
ROWS = [
    ("acme.search.ana", 1469, 3000, "a limit that was set on Monday"),
    ("acme", 4205, "unlimited", ""),
]
Show = Callable[..., list[str]]


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Give a function that prints rows at a width and returns the lines."""

    def at(
        width: float,
        rows: Sequence[Sequence[Any]] = ROWS,
        columns: Sequence[str] = COLUMNS,
        **more: Any,
    ) -> list[str]:
        print_table(columns, rows, width=width, **more)
        return capsys.readouterr().out.splitlines()

    return at


def test_what_fits_is_a_table_with_figures_to_the_right(show: Show) -> None:
    """A word among figures does not change how they stand."""
    assert show(80) == [
        "scope             used      limit  why",
        "acme.search.ana  1,469      3,000  a limit that was set on Monday",
        "acme             4,205  unlimited",
    ]


def test_words_are_folded_and_figures_are_not(show: Show) -> None:
    """The longest text gives way first, between its words."""
    assert show(58) == [
        "scope             used      limit  why",
        "acme.search.ana  1,469      3,000  a limit that was set on",
        "                                   Monday",
        "acme             4,205  unlimited",
    ]


def test_columns_that_can_be_spared_go_before_anything_is_folded(show: Show) -> None:
    """In their order, and only as many as must."""
    assert show(58, spare=("used", "limit"))[0] == "scope                limit  why"
    assert show(80, spare=("used", "limit"))[0] == "scope             used      limit  why"


def test_long_names_are_cut_at_their_dots(show: Show) -> None:
    """A scope that is deep is still one that can be read."""
    rows = [("acme.search.ana.key-5f3b0d7a", 1, 2)]
    assert show(34, rows, ("scope", "used", "limit")) == [
        "scope             used  limit",
        "acme.search.ana.     1      2",
        "key-5f3b0d7a",
    ]


def test_rows_that_fit_no_line_are_blocks(show: Show) -> None:
    """Nothing is ever cut off, or put into pieces that nobody can read."""
    assert show(20) == [
        "scope  acme.search.ana",
        "used   1,469",
        "limit  3,000",
        "why    a limit that was set on Monday",
        "",
        "scope  acme",
        "used   4,205",
        "limit  unlimited",
        "why",
    ]


def test_a_pipe_gets_one_line_for_each_row(show: Show) -> None:
    """Whatever its length: programs cut lines by columns."""
    assert show(math.inf, [("a", "word " * 200)], ("x", "y"), spare=("y",))[1].count("word") == 200


def test_a_terse_table_has_no_idle_columns(show: Show) -> None:
    """Where nothing failed, nobody wants a column of zeros; without rows all names stand."""
    assert show(80, [("a", 3, 0, None), ("b", 4, 0, "")], ("tier", "ok", "failed", "usd"), terse=True) == [
        "tier  ok",
        "a      3",
        "b      4",
    ]
    assert show(80, [], ("tier", "ok"), terse=True) == ["tier  ok"]


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        ("2026-11-26T16:44:20.547113+00:00", "2026-11-26T16:44:20Z"),
        ("2026-11-27T00:00:00+00:00", "2026-11-27T00:00Z"),
        ("2026-11-27T17:22:00.988820+00:00", "2026-11-27T17:22:00Z"),
        ("2026-11-27T00:00:00+01:00", "2026-11-27T00:00+01:00"),
        ("not 2026-11-27T00:00:00+01:00", "not 2026-11-27T00:00:00+01:00"),
    ],
)
def test_instants_are_written_to_the_second(show: Show, instant: str, text: str) -> None:
    """As short as they can be read back; --json has the rest."""
    assert show(80, [(instant,)], ("at",)) == ["at", text]


def test_nothing_that_is_printed_moves_the_cursor(show: Show) -> None:
    """What an engine or a tenant wrote is shown, not obeyed."""
    assert show(80, [("a\x1b[2Jb\n",)], ("x",)) == ["x", "a?[2Jb?"]
