"""Tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table on standard output; numbers align right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(
        title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))


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


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).lstrip("-").rstrip("%").isdigit()
