"""Tables for people, JSON for programs."""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from textwrap import wrap
from typing import Any
from unicodedata import east_asian_width

GAP = 2
FOLDED_LEAST = 18
"""A column of text narrower than this is no pleasure to read."""
LONGEST = 100_000
UNLIMITED = "unlimited"
_NOTHING = ("", "-", "0", "0.000")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    spare: Sequence[str] = (),
    terse: bool = False,
    width: float | None = None,
) -> None:
    """Print a table on standard output; numbers align right.

    A terminal that is too narrow gets it without columns of `spare`, the first of them first; then with the
    longest texts folded; and where even that does not fit, each row as a block of lines. A pipe gets all of
    it, unfolded.

    Args:
        columns: their names.
        rows: a cell for each column.
        title: a line above.
        spare: what can be done without.
        terse: leave out every column in which nothing stands.
        width: for how many places; None: the terminal's, or COLUMNS.
    """
    names = list(columns)
    cells = [[_cell(value) for value in row] for row in rows]
    if terse:
        idle = [name for i, name in enumerate(names) if cells and all(row[i] in _NOTHING for row in cells)]
        names, cells = _without(names, cells, idle)
    width = _terminal_width() if width is None else width
    for name in spare:
        if _natural(names, cells) <= width:
            break
        names, cells = _without(names, cells, [name])
    if title:
        sys.stdout.write(title + "\n")
    widths = _fitted(names, cells, width)
    if widths is None:
        _print_blocks(names, cells)
    else:
        _print_lines(names, cells, widths)


def say(text: str) -> None:
    """Tell the user something that is not the data: on standard error."""
    sys.stderr.write(text + "\n")


def say_recovered(holds: int) -> None:
    """Tell that opening the store charged what a killed process had held; nothing if it was nothing."""
    if holds:
        say(f"Charged {holds} {'hold' if holds == 1 else 'holds'} that an earlier process left open.")


def grouped(number: int | None) -> str:
    """Write a whole number with separators; a dash for none."""
    return "-" if number is None else f"{number:,}"


def _without(
    names: list[str], cells: list[list[str]], dropped: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    kept = [index for index, name in enumerate(names) if name not in dropped]
    return [names[index] for index in kept], [[row[index] for index in kept] for row in cells]


def _terminal_width() -> float:
    if os.environ.get("COLUMNS", "").isdecimal():
        return float(os.environ["COLUMNS"])
    return float(os.get_terminal_size(sys.stdout.fileno()).columns) if sys.stdout.isatty() else math.inf


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_length, (name, *(row[i] for row in cells)))) for i, name in enumerate(names)]


def _length(text: str) -> int:
    """Return how many places a text takes; CJK characters take two."""
    return len(text) + (0 if text.isascii() else sum(east_asian_width(char) in "WF" for char in text))


def _natural(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    return sum(_widths(names, cells)) + GAP * (len(names) - 1)


def _fitted(names: list[str], cells: list[list[str]], width: float) -> list[int] | None:
    """Return how wide each column may be, the longest texts folded; None: no folding makes it fit."""
    widths = _widths(names, cells)
    excess = int(min(max(0.0, _natural(names, cells) - width), LONGEST))
    # Words first; then names at their dots. What is in pieces otherwise can be read by nobody.
    for separator in (" ", "."):
        foldable = [
            i
            for i in range(len(names))
            if any(separator in row[i] and not _is_number(row[i]) for row in cells)
        ]
        while excess and foldable:
            widest = max(foldable, key=lambda i: widths[i])
            if widths[widest] <= max(FOLDED_LEAST, _length(names[widest])):
                break
            widths[widest] -= 1
            excess -= 1
    return None if excess else widths


def _folded(cell: str, width: int) -> list[str]:
    """Return the lines of a cell: cut between words, or a dotted name at its dots."""
    if _length(cell) <= width:
        return [cell]
    if " " in cell:
        return wrap(cell, width)
    lines = [""]
    for part in re.findall(r"[^.]*\.?", cell):
        if lines[-1] and _length(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return [piece for line in lines for piece in wrap(line, width)]


def _print_lines(names: list[str], cells: list[list[str]], most: list[int]) -> None:
    right = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(names))]
    folded = [[_folded(cell, most[i]) for i, cell in enumerate(row)] for row in (names, *cells)]
    widths = [max(_length(piece) for row in folded for piece in row[i]) for i in range(len(names))]
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for number, row in enumerate(folded):
        for line in zip_longest(*row, fillvalue=""):
            padded = [_padded(piece, widths[i], right=right[i]) for i, piece in enumerate(line)]
            text = (" " * GAP).join(padded).rstrip()
            sys.stdout.write(f"\x1b[1m{text}\x1b[0m\n" if bold and number == 0 else text + "\n")


def _padded(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - _length(cell))
    return space + cell if right else cell + space


def _print_blocks(names: list[str], cells: list[list[str]]) -> None:
    width = max(map(_length, names)) + GAP
    for number, row in enumerate(cells):
        sys.stdout.write("\n" if number else "")
        for name, cell in zip(names, row, strict=True):
            sys.stdout.write(f"{name}{' ' * (width - _length(name))}{cell}".rstrip() + "\n")


def window_name(row: Mapping[str, Any]) -> str:
    """Return a window as limits are named: daily, usd_micros.monthly."""
    return str(row["window"] if row["meter"] == "tokens" else f"{row['meter']}.{row['window']}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    text = "".join(char if char.isprintable() else "?" for char in str(value))
    instant = _INSTANT.fullmatch(text)
    return instant_text(text) if instant else text


def instant_text(text: str) -> str:
    """Write an ISO instant for people: to the second, midnight without its seconds."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        return text
    day, time, zone = found.groups()
    return f"{day}T{'00:00' if time == '00:00:00' else time}{'Z' if zone in ('Z', '+00:00') else zone}"


def _is_number(cell: str) -> bool:
    return (
        cell in (*_NOTHING, UNLIMITED)
        or cell.replace(",", "").replace(".", "", 1).lstrip("-").rstrip("%").isdigit()
    )
