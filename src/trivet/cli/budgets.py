"""`trivet budgets`"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import (
    UNLIMITED,
    grouped,
    instant_text,
    print_json,
    print_table,
    say,
    window_name,
)
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, ScopeArgument, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="Token budgets of organisations, teams and users.", no_args_is_help=True, rich_markup_mode=None
)


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
    daily: Annotated[int | None, typer.Option(help="A day.", show_default=False)] = None,
    weekly: Annotated[int | None, typer.Option(help="A week from Monday.", show_default=False)] = None,
    monthly: Annotated[int | None, typer.Option(help="A month.", show_default=False)] = None,
    total: Annotated[int | None, typer.Option(help="For ever.", show_default=False)] = None,
    request: Annotated[int | None, typer.Option(help="Each single request.", show_default=False)] = None,
    task: Annotated[int | None, typer.Option(help="Each task.", show_default=False)] = None,
    session: Annotated[int | None, typer.Option(help="Each session.", show_default=False)] = None,
    meter: Annotated[str, typer.Option(help="tokens, weighted_tokens or usd_micros.")] = "tokens",
    critical_allowance: Annotated[
        int, typer.Option(help="What critical requests may use beyond each limit given.", min=0)
    ] = 0,
    unlimited: Annotated[
        bool, typer.Option("--unlimited", help="Lift the daily and monthly limits that are not given.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set a scope's limits. The strictest limit on the way up always wins.

    Examples:
      trivet budgets set acme --daily 1000000 --monthly 20000000
      trivet budgets set acme.search.ana --daily 50000 --request 4000
      trivet budgets set acme --meter usd_micros --monthly 250000000
    """
    given = {"daily": daily, "weekly": weekly, "monthly": monthly, "total": total}
    given |= {"request": request, "task": task, "session": session}
    limits: dict[str, Any] = {
        f"{meter}.{kind}": {"limit": amount, "critical_allowance": critical_allowance}
        for kind, amount in given.items()
        if amount is not None
    }
    if unlimited:
        limits |= {f"{meter}.{kind}": None for kind in ("daily", "monthly") if given[kind] is None}
    if not limits:
        raise typer.BadParameter("Give a limit, such as --daily or --monthly, or --unlimited.")

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


@app.command("time-zone")
def time_zone(
    scope: Annotated[str, typer.Argument(help="An organisation.")],
    zone: Annotated[str, typer.Argument(help="IANA name, such as Europe/Berlin.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set where an organisation's days, weeks and months begin, from the next of each on.

    Example:
      trivet budgets time-zone acme Europe/Berlin
    """

    async def put(trivet: "Trivet") -> dict[str, Any]:
        from trivet.sdk.address import path_part

        path = f"/api/v1/budgets/{path_part(scope)}/time-zone"
        return dict(await trivet.call("PUT", path, json={"time_zone": zone}))

    answer = ask(Address(url, api_key, config), put)
    if as_json:
        print_json(answer)
    else:
        say(f"{scope} keeps the calendar of {zone} from its next windows on.")


def _print_status(answer: dict[str, Any]) -> None:
    zone = "" if answer["time_zone"] == "UTC" else f"; days begin in {answer['time_zone']}"
    sys.stdout.write(f"{answer['scope']}: {answer['status']}{zone}\n")
    _print_rows(answer["rows"])
    sys.stdout.write(_forecast(answer))
    for row in answer["rows"]:
        if row["critical_allowance"]:
            sys.stdout.write(
                f"Critical requests may use {row['critical_allowance']:,} {row['meter']} beyond the"
                f" {window_name(row)} limit of {row['scope']}.\n"
            )
    for cap in answer["caps"]:
        sys.stdout.write(
            f"Each {cap['window']} of {cap['scope']}: at most {cap['limit']:,} {cap['meter']}.\n"
        )
    for override in answer["overrides"]:
        sys.stdout.write(
            f"Override {override['override_id']} ({override['state']}): {override['kind']}"
            f" {override['amount']:,} {override['meter']} of {override['scope']},"
            f" until {instant_text(override['expires_at'])}.\n"
        )
    if answer["actions"]:
        sys.stdout.write(f"In force: {', '.join(answer['actions'])}.\n")


def _forecast(answer: dict[str, Any]) -> str:
    """Say how fast budget is used, and what comes of that; of which row, as it may be one above."""
    row = answer["projected_row"]
    projected = (
        "" if answer["projected_total"] is None else f" {grouped(answer['projected_total'])} at its end,"
    )
    full = instant_text(answer["breach_at"]) if answer["breach_at"] else "not before that"
    if answer["status"] == "exhausted":
        full = "now"
    if answer["breach_at"] is None and answer["projected_total"] is None:
        full = "not at this rate"
    return (
        f"Burn rate: {answer['burn_rate_per_hour']:,.0f} tokens/h of {answer['scope']}.\n"
        f"{row['scope']} {window_name(row)}:{projected} full: {full}.\n"
        f"Requests that still fit, at the recent mean: {grouped(answer['requests_remaining'])}.\n"
    )


def _print_rows(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("scope", "window", "used", "held", "limit", "remaining", "used %", "resets"),
        [
            (
                row["scope"],
                window_name(row),
                row["used"],
                row["held"],
                UNLIMITED if row["limit"] is None else row["limit"],
                UNLIMITED if row["limit"] is None else row["remaining"],
                "-" if row["percent_used"] is None else f"{row['percent_used']:.1f}",
                _day_text(row["resets_at"]),
            )
            for row in rows
        ],
        spare=("remaining", "held"),
    )


def _day_text(resets_at: str | None) -> str:
    """Write when a window ends: the day, and the hour where that is not the day's first in UTC."""
    if resets_at is None:
        return "never"
    day, _, time = instant_text(resets_at).partition("T")
    return day if time == "00:00Z" else f"{day}T{time}"
