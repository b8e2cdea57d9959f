"""`trivet alerts`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say, window_name
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(help="Alerts that fired, and their delivery.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_alerts(
    scope: Annotated[
        str | None, typer.Option(help="Only this scope and what lies below it.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=10_000)] = 50,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the thresholds that fired, and say whether the webhook got them.

    Example:
      trivet alerts list --scope acme
    """
    asked = {"limit": str(limit)} | ({"scope": scope} if scope else {})

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/alerts", params=asked))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    if not answer["alerts"]:
        say("No threshold has been passed.")
    else:
        _print(answer["alerts"])
    delivery = answer["delivery"]
    if delivery is not None:
        say(f"{delivery['delivered']} delivered, {delivery['waiting']} waiting, {delivery['dead']} given up.")
        if delivery["last_error"]:
            say(
                f"Last failure: {delivery['last_error']} `trivet alerts retry` tries what was given up again."
            )


@app.command()
def retry(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Try to deliver again what was given up. The running server does it, or the next one."""

    async def post(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("POST", "/api/v1/alerts/retry"))

    answer = ask(Address(url, api_key, config), post)
    if as_json:
        print_json(answer)
    else:
        say(f"{answer['revived']} to be tried again.")


@app.command("test")
def send_test(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Send a test to the webhook; `trivet alerts list` then says whether it arrived."""

    async def post(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("POST", "/api/v1/alerts/test"))

    answer = ask(Address(url, api_key, config), post)
    if as_json:
        print_json(answer)
    else:
        say("In the outbox; a running server sends it within a second or two.")


def _print(alerts: list[dict[str, Any]]) -> None:
    rearmed = any(each.get("rearmed_at") for each in alerts)
    print_table(
        ("at", "scope", "window", "passed %", "used", "limit", *(["armed again"] if rearmed else [])),
        [
            (
                *(each["at"], each["scope"], window_name(each), each["threshold"]),
                *(each["used"], each["limit"]),
                *([each.get("rearmed_at")] if rearmed else []),
            )
            for each in alerts
        ],
    )
