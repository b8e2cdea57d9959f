"""`trivet audit`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet


def audit(
    scope: Annotated[
        str | None, typer.Option(help="Only this scope and what lies below it.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=10_000)] = 50,
    before: Annotated[
        int | None, typer.Option(help="Only entries with lower numbers.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who changed limits, overrides and calendars, and which keys came and went.

    Changes of rules are entries of the ledger's hash chain, which `trivet ledger verify` proves.

    Examples:
      trivet audit
      trivet audit --scope acme --json
    """
    asked = {"limit": str(limit)} | ({"scope": scope} if scope else {})
    if before is not None:
        asked["before"] = str(before)

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/audit", params=asked))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
        return
    rows = [
        (e["at"], e["kind"], e["scope"], e["author"], str(e["seq"]), _words(e["change"]))
        for e in answer["entries"]
    ]
    rows += [
        (k["at"], k["kind"], k["scope"], None, "", f"{k['key_id']}, {k['role']}") for k in answer["keys"]
    ]
    print_table(
        ("at", "kind", "scope", "author", "entry", "change"),
        sorted(rows, key=lambda row: row[0], reverse=True),
        spare=("entry",),
    )


def _words(change: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in change.items() if value is not None)
