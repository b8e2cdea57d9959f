"""`trivet budgets`"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import grouped, print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="Token budgets of organisations, teams and users.", no_args_is_help=True, rich_markup_mode=None
)

ScopeArgument = Annotated[str, typer.Argument(help="Dotted slug: acme, acme.search, acme.search.ana.")]


@app.command("list")
def list_budgets(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List what every scope used, holds and may use in its current windows."""

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/budgets"))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    if not answer["rows"]:
        say("No scope has used anything yet. Set a budget: trivet budgets set acme --daily 100000")
        return
    _print_rows(answer["rows"])


@app.command()
def status(
    scope: ScopeArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a scope's budgets, its burn rate and when it would run out.

    Example:
      trivet budgets status acme.search
    """

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return await trivet.budget_status(scope)

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    _print_status(answer)


@app.command("set")
def set_budget(
    scope: ScopeArgument,
    daily: Annotated[int | None, typer.Option(help="Tokens a day.", show_default=False)] = None,
    monthly: Annotated[int | None, typer.Option(help="Tokens a month.", show_default=False)] = None,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Lift the limits that are not given.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a scope's limits. The strictest limit on the way up always wins.

    Examples:
      trivet budgets set acme --daily 1000000 --monthly 20000000
      trivet budgets set acme.search.ana --daily 50000
    """
    given = {"daily": daily, "monthly": monthly}
    limits = {window: amount for window, amount in given.items() if amount is not None or unlimited}
    if not limits:
        raise typer.BadParameter("Give --daily, --monthly, or --unlimited.")

    async def put(trivet: "Trivet") -> dict[str, Any]:
        from trivet.sdk.address import path_part

        return dict(await trivet.call("PUT", f"/api/v1/budgets/{path_part(scope)}", json=limits))

    answer = ask(Address(url, api_key, config), put)
    if as_json:
        print_json(answer)
        return
    _print_status(answer)


@app.command()
def clear(
    scope: ScopeArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a scope's own limits; an organisation falls back to the default limits."""

    async def delete(trivet: "Trivet") -> None:
        from trivet.sdk.address import path_part

        await trivet.call("DELETE", f"/api/v1/budgets/{path_part(scope)}")

    ask(Address(url, api_key, config), delete)
    if as_json:
        print_json({"scope": scope, "cleared": True})
    else:
        say(f"{scope} has no limits of its own any more.")


def _print_status(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{answer['scope']}: {answer['status']}\n")
    _print_rows(answer["rows"])
    sys.stdout.write(
        f"Burn rate: {answer['burn_rate_per_hour']:,.0f} tokens/h; "
        f"projected for the tightest window: {grouped(answer['projected_total'])}; "
        f"requests remaining at the recent mean: {grouped(answer['requests_remaining'])}; "
        f"runs out: {answer['breach_at'] or 'not in this window'}.\n"
    )


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("scope", "meter", "window", "used", "held", "limit", "remaining", "used %", "resets at"),
        [
            (
                row["scope"],
                row["meter"],
                row["window"],
                row["used"],
                row["held"],
                "unlimited" if row["limit"] is None else row["limit"],
                "unlimited" if row["limit"] is None else row["remaining"],
                "-" if row["percent_used"] is None else f"{row['percent_used']:.1f}",
                row["resets_at"],
            )
            for row in rows
        ],
    )
