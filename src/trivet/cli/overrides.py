"""`trivet overrides`"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say, window_name
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="Leave to exceed a budget for a while: asked for by one, approved by another.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

IdArgument = Annotated[str, typer.Argument(help="The override's id, as `trivet overrides list` shows it.")]


@app.command("list")
def list_overrides(
    scope: Annotated[str | None, typer.Option(help="Only this scope and below.", show_default=False)] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List overrides, the latest first."""

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/overrides", params={"scope": scope} if scope else None))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
    elif not answer["overrides"]:
        say("There are no overrides.")
    else:
        _print(answer["overrides"])


@app.command()
def request(
    scope: Annotated[str, typer.Argument(help="Whose limit is in the way; the refusal names it.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept for the audit.")],
    amount: Annotated[int, typer.Option(help="How much beyond the limit.", min=0)] = 0,
    window: Annotated[str, typer.Option(help="The kind of limit: daily, monthly, ...")] = "daily",
    meter: Annotated[str, typer.Option(help="tokens, weighted_tokens or usd_micros.")] = "tokens",
    kind: Annotated[
        str,
        typer.Option(
            help="amount; approval: leave to use the dearest tier; emergency: for critical requests, at once."
        ),
    ] = "amount",
    expires_at: Annotated[
        str | None,
        typer.Option(help="ISO instant; by default in 24 hours, an emergency in one.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for an override. Another admin has to approve it, unless it is an emergency within its ceiling.

    Examples:
      trivet overrides request acme.search --amount 200000 --reason "month-end report"
      trivet overrides request acme --kind approval --reason "evaluation on HEAVY"
    """
    wanted = {
        "kind": kind,
        "scope": scope,
        "meter": meter,
        "window": window,
        "amount": amount,
        "reason": reason,
        "expires_at": expires_at,
    }
    _tell(Address(url, api_key, config), "POST", "/api/v1/overrides", as_json, json=wanted)


@app.command()
def approve(
    override_id: IdArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Approve what somebody else has asked for."""
    _tell(Address(url, api_key, config), "POST", f"{_path(override_id)}/approve", as_json)


@app.command()
def deny(
    override_id: IdArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deny what somebody else has asked for."""
    _tell(Address(url, api_key, config), "POST", f"{_path(override_id)}/deny", as_json)


@app.command()
def revoke(
    override_id: IdArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """End an override before its time, or take a request back."""
    _tell(Address(url, api_key, config), "DELETE", _path(override_id), as_json)


def _path(override_id: str) -> str:
    from trivet.sdk.address import path_part

    return f"/api/v1/overrides/{path_part(override_id)}"


def _tell(
    address: Address, method: str, path: str, as_json: bool, *, json: dict[str, Any] | None = None
) -> None:
    async def change(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call(method, path, json=json))

    answer = ask(address, change)
    if as_json:
        print_json(answer)
    else:
        _print([answer])


def _print(overrides: list[dict[str, Any]]) -> None:
    print_table(
        ("id", "state", "kind", "scope", "window", "amount", "by", "decided by", "until", "reason"),
        [
            (
                each["override_id"],
                _state(each),
                each["kind"],
                each["scope"],
                window_name(each),
                each["amount"],
                each["requester"],
                each["approver"],
                each["expires_at"],
                each["reason"],
            )
            for each in overrides
        ],
    )


def _state(override: dict[str, Any]) -> str:
    """Return the state; of what has run out, that it has: nobody can approve it or use it any more."""
    over = datetime.fromisoformat(override["expires_at"]) <= datetime.now(UTC)
    return "expired" if over and override["state"] in ("requested", "approved") else str(override["state"])
