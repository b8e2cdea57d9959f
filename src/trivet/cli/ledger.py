"""`trivet ledger`"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.exits import DIFFERENCES
from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(help="The ledger's proof.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """The ledger's proof."""


@app.command()
def verify(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Recompute every counter and the hash chain from the entries, and name each difference.

    Exits with 8 when there is any. Nothing is repaired.
    """

    async def post(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("POST", "/api/v1/ledger/verify"))

    answer = ask(Address(url, api_key, config), post)
    if as_json:
        print_json(answer)
    elif answer["ok"]:
        say(f"ok: {answer['rows']:,} counters agree with {answer['entries']:,} entries.")
    else:
        for difference in answer["differences"]:
            sys.stdout.write(_sentence(difference) + "\n")
        number = len(answer["differences"])
        say(f"{number} difference{'s' if number > 1 else ''}. Restore the store from a backup.")
    if not answer["ok"]:
        raise typer.Exit(DIFFERENCES)


def _sentence(difference: dict[str, Any]) -> str:
    """Write one difference on one line: each kind has other fields, which no table would hold."""
    facts = [
        f"{name} {value}"
        if not isinstance(value, dict)
        else f"{name}: " + ", ".join(map(_fact, value.items()))
        for name, value in difference.items()
        if name != "kind" and value != ""
    ]
    return f"{difference['kind']}: {'; '.join(facts)}"


def _fact(item: tuple[str, Any]) -> str:
    return f"{item[0]} {item[1]}"


@app.command()
def history(
    scope: Annotated[str, typer.Option(help="Whose entries, with all below: acme.search.")],
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=10_000)] = 50,
    before: Annotated[
        int | None, typer.Option(help="Only entries with lower numbers.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was held, charged, given back, corrected, limited and overridden.

    Example:
      trivet ledger history --scope acme.search --limit 20
    """
    asked = {"scope": scope, "limit": str(limit)}
    if before is not None:
        asked["before"] = str(before)

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/ledger/history", params=asked))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    if not answer["entries"]:
        say(f"{scope} has no entries.")
        return
    print_table(
        ("seq", "at", "kind", "scope", "reservation", "used", "held", "detail"),
        [
            (
                entry["seq"],
                entry["at"],
                entry["kind"],
                entry["scope"],
                entry["reservation_id"] or "",
                entry["used"]["tokens"],
                entry["held"]["tokens"],
                entry["note"] or ", ".join(f"{key}={value}" for key, value in entry["detail"].items()),
            )
            for entry in answer["entries"]
        ],
        spare=("reservation", "held"),
    )
