"""`trivet keys`"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(help="API keys.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_keys(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List all keys; their text is not stored and cannot be shown again."""

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/keys"))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    if not answer["keys"]:
        say("There are no keys yet. Make one: trivet keys create acme.search.ana")
        return
    columns = list(answer["keys"][0])
    print_table(
        columns, [[_shown(column, record[column]) for column in columns] for record in answer["keys"]]
    )


@app.command()
def create(
    scope: Annotated[str, typer.Argument(help="Whom the key's requests are charged to: acme.search.ana.")],
    role: Annotated[str, typer.Option(help="tenant or admin.")] = "tenant",
    tier: Annotated[list[str] | None, typer.Option(help="Tier the key may use; may be repeated.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Deployment the key may use; may be repeated.")
    ] = None,
    label: Annotated[str, typer.Option(help="A note for yourself.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="ISO instant.", show_default=False)] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once.

    Examples:
      trivet keys create acme.search.ana
      trivet keys create acme.batch --tier light --tier standard --expires-at 2027-01-01
    """
    wanted = {
        "scope": scope,
        "role": role,
        "tiers": tier or [],
        "models": model or [],
        "label": label,
        "expires_at": expires_at,
    }

    async def post(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("POST", "/api/v1/keys", json=wanted))

    answer = ask(Address(url, api_key, config), post)
    if as_json:
        print_json(answer)
        return
    say(f"Key {answer['key_id']} for {answer['scope']} ({answer['role']}); it is shown only this once:")
    sys.stdout.write(answer["key"] + "\n")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `trivet keys list` shows it.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key worthless at once."""

    async def delete(trivet: "Trivet") -> None:
        from trivet.sdk.address import path_part

        await trivet.call("DELETE", f"/api/v1/keys/{path_part(key_id)}")

    ask(Address(url, api_key, config), delete)
    if as_json:
        print_json({"key_id": key_id, "revoked": True})
    else:
        say(f"Key {key_id} is revoked.")


def _shown(column: str, value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "all"
    # Whole seconds: a table has little room, and --json the rest.
    return value[:19] + "Z" if column.endswith("_at") and value else value
