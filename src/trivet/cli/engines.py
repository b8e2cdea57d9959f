"""`trivet engines`"""

from typing import TYPE_CHECKING, Any

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet


def engines(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Show the engines of a running Trivet: their states, what they are given at once, who waits.

    Of a deployment with several endpoints each is an engine: big#1, big#2. A tenant's key sees states only.

    Example:
      trivet engines
      trivet engines --json
    """

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return dict(await trivet.call("GET", "/api/v1/deployments"))

    answer = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(answer)
    elif not answer["deployments"]:
        say("There are no engines that this key may use.")
    else:
        columns = ("engine", "tier", "kind", "state", "running", "limit", "waiting", "refused", "detail")
        rows = [_row(each) for each in answer["deployments"]]
        print_table(columns, rows, spare=("kind", "refused"))


def _row(shown: dict[str, Any]) -> tuple[Any, ...]:
    gate = shown.get("admission")
    running, limit = shown.get("in_flight"), None
    waiting = refused = None
    if gate is not None:
        running, limit = gate["in_flight"], gate["limit"]
        waiting, refused = sum(gate["queued"].values()), sum(gate["shed"].values())
    if shown.get("swap_group") is not None:
        # Its places are those of its swap group.
        limit, waiting = shown.get("slots"), shown.get("waiting")
    return (
        *(shown["name"], shown["tier"], shown["engine"], shown["state"]),
        *(running, limit, waiting, refused, "; ".join(filter(None, (shown.get("detail"), circuit(shown))))),
    )


def circuit(shown: dict[str, Any]) -> str:
    """Say that an engine which is there is not asked, since it failed."""
    breaker = shown.get("breaker") or {}
    if breaker.get("state") == "open":
        return f"circuit open: asked again in {breaker['retry_after_s']:.0f} s"
    return "circuit half-open: one request at a time" if breaker.get("state") == "half_open" else ""
