"""`trivet route`"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli.output import print_json, print_table
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet
    from trivet.sdk.results import Route


def route(
    prompt: Annotated[str, typer.Argument(help="The prompt to decide about; `-` reads standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="auto, a tier, or a deployment.")] = "auto",
    scope: Annotated[
        str | None, typer.Option(help="Decide for this scope (admin keys and the owner).")
    ] = None,
    task_type: Annotated[str | None, typer.Option(help="For example fix_bug, simple_query.")] = None,
    min_tier: Annotated[str | None, typer.Option(help="Nothing cheaper than this tier.")] = None,
    max_tier: Annotated[str | None, typer.Option(help="Nothing dearer than this tier.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="Agent capability; may be repeated.")] = None,
    reserve: Annotated[
        bool, typer.Option("--reserve", help="Hold budget for it, until it is reported or runs out.")
    ] = False,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which tier would answer, and why; nothing is sent or charged, and held only with --reserve.

    Examples:
      trivet route "Analyze the security of this design" --capability security_analysis
      trivet route "hi" --json
      trivet route "Summarize this file" --reserve --scope acme.search
    """
    text = sys.stdin.read() if prompt == "-" else prompt

    async def decide(trivet: "Trivet") -> "Route":
        return await trivet.route(
            text,
            model=model,
            scope=scope,
            reserve=reserve,
            task_type=task_type,
            min_tier=min_tier,
            max_tier=max_tier,
            capabilities=capability,
        )

    decision = ask(Address(url, api_key, config), decide, with_engines=True)
    if as_json:
        print_json(decision.raw)
        return
    complexity = decision.raw["complexity"]
    print_table(
        ("tier", "model", "complexity", "confidence", "policy"),
        [(decision.tier, decision.model, complexity["score"], decision.confidence, decision.raw["policy"])],
    )
    if reserve:
        sys.stdout.write("\n")
        names = ("reservation_id", "expires_at", "max_tokens")
        print_table(names, [tuple(decision.raw[name] for name in names)])
    sys.stdout.write("\n")
    print_table(("factor", "value"), sorted(complexity["factors"].items()))
    sys.stdout.write("\n")
    print_table(("why", ""), [(reason["code"], reason["text"]) for reason in decision.raw["reasons"]])
    sys.stdout.write("\n")
    print_table(
        ("candidate", "tier", "score"),
        [(c["deployment"], c["tier"], float(c["score"])) for c in decision.raw["candidates"]],
    )
    if decision.raw["rejected"]:
        sys.stdout.write("\n")
        print_table(
            ("rejected", "tier", "why"),
            [(r["model"], r["tier"], r["reason"]) for r in decision.raw["rejected"]],
        )
