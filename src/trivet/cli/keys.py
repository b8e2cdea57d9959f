"""`trivet keys`"""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import instant_text, print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(help="API keys.", no_args_is_help=True, rich_markup_mode=None)

KeyIdArgument = Annotated[str, typer.Argument(help="The key's id, as `trivet keys list` shows it.")]


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
    # Most keys are bounded by nothing and follow none: of that only what occurs is shown.
    rare = ("tiers", "models", "label", "replaces", "created_at", "last_used_at")
    told = [name for name in rare if any(record[name] for record in answer["keys"])]
    print_table(
        ("key_id", "scope", "role", "priority", "state", *told),
        [
            [
                *(record[name] for name in ("key_id", "scope", "role", "priority")),
                _state(record),
                *(_shown(record[name]) for name in told),
            ]
            for record in answer["keys"]
        ],
        spare=("created_at", "replaces", "last_used_at", "models", "tiers", "label"),
    )


@app.command()
def create(
    scope: Annotated[str, typer.Argument(help="Whom the key's requests are charged to: acme.search.ana.")],
    role: Annotated[str, typer.Option(help="tenant, tenant_admin, auditor or admin.")] = "tenant",
    priority: Annotated[
        str, typer.Option(help="critical, interactive or batch; requests may lower it.")
    ] = "interactive",
    tier: Annotated[list[str] | None, typer.Option(help="Tier the key may use; may be repeated.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Deployment the key may use; may be repeated.")
    ] = None,
    label: Annotated[str, typer.Option(help="A note for yourself.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="ISO instant.", show_default=False)] = None,
    daily: Annotated[
        int | None, typer.Option(help="Tokens a day for this key alone.", show_default=False)
    ] = None,
    monthly: Annotated[
        int | None, typer.Option(help="Tokens a month for this key alone.", show_default=False)
    ] = None,
    own_scope: Annotated[
        bool, typer.Option("--own-scope", help="Charge the key to a scope of its own, below SCOPE.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once.

    Examples:
      trivet keys create acme.search.ana
      trivet keys create acme.batch --tier light --tier standard --expires-at 2027-01-01
      trivet keys create acme.search --role tenant_admin
      trivet keys create acme.search.ana --daily 20000 --priority batch
    """
    limits = {kind: amount for kind, amount in (("daily", daily), ("monthly", monthly)) if amount is not None}
    wanted = {
        "scope": scope,
        "role": role,
        "priority": priority,
        "own_scope": own_scope,
        "limits": limits or None,
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
def rotate(
    key_id: KeyIdArgument,
    overlap_hours: Annotated[
        float, typer.Option(help="How long the old key still works, at most 720.", min=0)
    ] = 24.0,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key that may do the same, print it this once, and let the old one end after the overlap.

    Example:
      trivet keys rotate 1a2b3c4d --overlap-hours 2
    """

    async def post(trivet: "Trivet") -> dict[str, Any]:
        from trivet.sdk.address import path_part

        path = f"/api/v1/keys/{path_part(key_id)}/rotate"
        return dict(await trivet.call("POST", path, json={"overlap_s": overlap_hours * 3600}))

    answer = ask(Address(url, api_key, config), post)
    if as_json:
        print_json(answer)
        return
    ending = f"works for {overlap_hours:g} h more" if overlap_hours else "has ended"
    say(f"Key {answer['key_id']} follows {key_id}, which {ending}; it is shown only this once:")
    sys.stdout.write(answer["key"] + "\n")


@app.command()
def priority(
    key_id: KeyIdArgument,
    wanted: Annotated[str, typer.Argument(metavar="PRIORITY", help="critical, interactive or batch.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the priority of a key's requests; a request may lower it, never raise it.

    Example:
      trivet keys priority 1a2b3c4d batch
    """
    answer = _change(Address(url, api_key, config), key_id, {"priority": wanted})
    if as_json:
        print_json(answer)
    else:
        say(f"Requests of key {key_id} are {answer['priority']} at most.")


@app.command()
def label(
    key_id: KeyIdArgument,
    text: Annotated[str, typer.Argument(help="A note for yourself; '' for none.")],
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the note that stands with a key.

    Example:
      trivet keys label 1a2b3c4d "nightly evaluation"
    """
    answer = _change(Address(url, api_key, config), key_id, {"label": text})
    if as_json:
        print_json(answer)
    else:
        say(
            f"Key {key_id} is labelled {answer['label']!r}."
            if answer["label"]
            else f"Key {key_id} has no label."
        )


@app.command()
def revoke(
    key_id: KeyIdArgument,
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


def _change(address: Address, key_id: str, change: dict[str, Any]) -> dict[str, Any]:
    async def patch(trivet: "Trivet") -> dict[str, Any]:
        from trivet.sdk.address import path_part

        return dict(await trivet.call("PATCH", f"/api/v1/keys/{path_part(key_id)}", json=change))

    return ask(address, patch)


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) or "all" if isinstance(value, list) else value


def _state(record: dict[str, Any]) -> str:
    if record["revoked_at"]:
        return "revoked"
    expires_at = record["expires_at"]
    if expires_at is None:
        return "active"
    past = datetime.fromisoformat(expires_at) <= datetime.now(UTC)
    return "expired" if past else f"until {instant_text(expires_at)}"
