"""`trivet rates`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, ScopeArgument, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="Rate limits of organisations, teams, users and keys.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_rates(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List the rate limits of all scopes."""

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/rate-limits"))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
    elif not answer["limits"]:
        say("There are no rate limits. Set one: trivet rates set acme --requests-per-minute 600")
    else:
        _print(answer["limits"])


@app.command("set")
def set_rates(
    scope: ScopeArgument,
    requests_per_minute: Annotated[
        int | None,
        typer.Option("--requests-per-minute", "--rpm", help="Requests a minute.", show_default=False),
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", "--tpm", help="Tokens a minute.", show_default=False)
    ] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests at once.", show_default=False)] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set how fast a scope, with all below it, may go; what is not given is not limited.

    Example:
      trivet rates set acme.search --rpm 120 --tpm 60000 --concurrent 8
    """
    rates = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent": concurrent,
    }
    if all(rate is None for rate in rates.values()):
        raise typer.BadParameter("Give --requests-per-minute, --tokens-per-minute or --concurrent.")

    async def put(trivet: "Trivet") -> dict[str, Any]:
        from trivet.sdk.address import path_part

        return dict(await trivet.call("PUT", f"/api/v1/rate-limits/{path_part(scope)}", json=rates))

    answer = ask(Address(url, api_key, config), put)
    if as_json:
        print_json(answer)
    else:
        _print([answer])


@app.command()
def clear(
    scope: ScopeArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a scope's rate limits."""

    async def delete(trivet: "Trivet") -> None:
        from trivet.sdk.address import path_part

        await trivet.call("DELETE", f"/api/v1/rate-limits/{path_part(scope)}")

    ask(Address(url, api_key, config), delete)
    if as_json:
        print_json({"scope": scope, "cleared": True})
    else:
        say(f"{scope} has no rate limits of its own any more.")


def _print(limits: list[dict[str, Any]]) -> None:
    names = ("requests_per_minute", "tokens_per_minute", "concurrent")
    print_table(
        ("scope", "requests/min", "tokens/min", "at once"),
        [(limit["scope"], *(limit[name] for name in names)) for limit in limits],
    )
