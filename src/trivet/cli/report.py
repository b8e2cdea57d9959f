"""`trivet report savings`, `trivet report usage`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(help="What was used, and what it saved.", no_args_is_help=True, rich_markup_mode=None)

Since = Annotated[str, typer.Option(help="A span before now (24h, 7d) or an ISO instant.")]
_HEADS = {
    "prompt_tokens": "prompt",
    "completion_tokens": "output",
    "weighted_tokens": "weighted",
    "usd_micros": "usd",
    "device_s": "device s",
    "latency_p50_ms": "p50 ms",
    "latency_mean_ms": "mean ms",
}
"""Short, so that a row is a line; --json has the names of the API."""
ScopeOption = Annotated[str | None, typer.Option("--scope", help="Only this scope and what lies below it.")]


@app.command()
def savings(
    since: Since = "30d",
    scope: ScopeOption = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the device time that was used with sending everything to the heaviest tier.

    Example:
      trivet report savings --since 7d --scope acme
    """
    query = {"since": since} | ({"scope": scope} if scope else {})

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return await trivet.savings(**query)

    report = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(report)
        return
    if not report["requests"]:
        say("No requests in this period.")
        return
    unit = report["unit"].replace("_", " ") + (" on CPU" if report["unit"] == "engine_seconds" else "")
    say(f"{report['since']} to {report['until']}, {unit}")
    print_table(
        ("used", "all on the heaviest tier", "saved", "90 % range", "basis"),
        [
            (
                float(report["actual"]),
                float(report["baseline"]),
                float(report["saved"]),
                "-"
                if report["interval_90"] is None
                else " to ".join(f"{x:,.3f}" for x in report["interval_90"]),
                f"{report['basis']}, {100 * (report['measured_share'] or 0):.0f} % measured",
            )
        ],
    )
    say(
        f"GPU hours saved: {report['gpu_hours_saved']:.4f}; "
        f"engine hours saved: {report['engine_hours_saved']:.4f}; "
        f"weighted tokens saved: {report['tokens_saved']:,} ({report['cost_reduction_pct']} %)."
    )
    if report["cached_requests"]:
        say(
            f"Beside that, {report['cached_requests']:,} requests were answered from the cache,"
            f" which saved {report['cached'] / 3600:.4f} device hours."
        )


@app.command()
def usage(
    by: Annotated[
        str,
        typer.Option(
            help="tier, deployment, model, task_type, worker, organisation, team, user, scope, key, task,"
            " session, policy, hour, day, week, month; several with commas."
        ),
    ] = "tier",
    since: Since = "30d",
    scope: ScopeOption = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List requests, tokens and device seconds, grouped.

    Examples:
      trivet report usage --by scope,tier
      trivet report usage --by day --since 7d --json
    """
    query = {"since": since, "by": by} | ({"scope": scope} if scope else {})

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return await trivet.usage(**query)

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    rows = answer["rows"]
    if not rows:
        say("No requests in this period.")
        return
    columns = list(rows[0])
    print_table(
        [_HEADS.get(column, column) for column in columns],
        [[_shown(column, row[column]) for column in columns] for row in rows],
        spare=("mean ms", "weighted", "ok", "fallbacks", "p50 ms", "device s"),
        terse=True,
    )


def _shown(column: str, value: Any) -> Any:
    if column == "usd_micros":
        return f"{value / 1e6:,.4f}" if value else "-"
    return round(value) if column.startswith("latency_") and value is not None else value
