"""`trivet cache`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="The response cache: what it holds, what it saved, and how it is emptied.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ScopeOption = Annotated[
    str | None, typer.Option(help="Only this scope and all below it.", show_default=False)
]


@app.command()
def stats(
    scope: ScopeOption = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell how much is kept, how often it was given again, and what device time that saved.

    Example:
      trivet cache stats --scope acme
    """

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/cache", params=_params(scope)))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    if not answer["enabled"]:
        say("The response cache is off. Turn it on with cache.enabled: true.")
        return
    since = answer.pop("since_start") or {}
    rows = [*answer.items(), *((f"since the start: {name}", value) for name, value in since.items())]
    print_table(("figure", "value"), rows)


@app.command()
def clear(
    scope: ScopeOption = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what is kept: of a scope with all below it, or of everybody.

    Example:
      trivet cache clear --scope acme.search
    """

    async def delete(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("DELETE", "/api/v1/cache", params=_params(scope)))

    answer = ask(Address(url, api_key, config), delete)
    if as_json:
        print_json(answer)
    else:
        removed = answer["removed"]
        say(f"Removed {removed:,} kept {'answer' if removed == 1 else 'answers'}.")


def _params(scope: str | None) -> dict[str, str]:
    return {} if scope is None else {"scope": scope}
