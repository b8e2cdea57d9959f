"""`trivet ledger`"""

import sys
from typing import TYPE_CHECKING, Any

import typer

from trivet.cli.exits import DIFFERENCES
from trivet.cli.output import print_json, say
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
        if name != "kind"
    ]
    return f"{difference['kind']}: {'; '.join(facts)}"


def _fact(item: tuple[str, Any]) -> str:
    return f"{item[0]} {item[1]}"
