"""`trivet demo`"""

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli.exits import FAILED
from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import JsonOption

if TYPE_CHECKING:
    from trivet.lab.demo import DemoReport


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the report.")] = False,
    requests: Annotated[int, typer.Option(help="Chat requests to send.", min=100, max=5000)] = 200,
    port: Annotated[int, typer.Option(help="Port to listen on; a free one is taken if it is in use.")] = 8748,
    as_json: JsonOption = False,
) -> None:
    """Run everything on this machine: three tiny models, real engines, two organisations, real requests.

    The models are random, so what they write is nonsense; everything else is real. One engine is
    killed while it works, and one user is driven into the budget's limit. Nothing is left behind.

    Examples:
      trivet demo
      trivet demo --once --json
    """
    from trivet.lab.demo import run_demo

    def show(report: "DemoReport") -> None:
        if as_json:
            print_json(report.as_json())
        else:
            _print(report)
        if not once:
            _invite(report)

    # As Ctrl-C does: everything is stopped and removed. By default the files would stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = asyncio.run(run_demo(requests=requests, port=port, stay=not once, say=say, show=show))
    if once and not report.ok:
        say(f"The demo did not go as it should: {report.complaint}.")
        raise typer.Exit(FAILED)


def _print(report: "DemoReport") -> None:
    tally, savings = report.tally, report.savings
    say("")
    print_table(
        ("tier", "requests"), [(tier, tally.by_tier.get(tier, 0)) for tier in ("light", "standard", "heavy")]
    )
    say(
        f"\n{tally.requests} requests: {tally.fallbacks} fell back to another engine, "
        f"{tally.refused} refused by a budget, {tally.cut_streams} streams cut by the kill (and told so), "
        f"{tally.errors} errors.\n"
    )
    print_table(
        ("tenant", "tokens used", "held", "daily limit", "used %"),
        [
            (row["scope"], row["used"], row["held"], row["limit"], f"{100 * row['used'] / row['limit']:.1f}")
            for row in report.tenants
        ],
    )
    unit = "GPU seconds" if savings["unit"] == "gpu_seconds" else "engine seconds on CPU"
    say("")
    print_table(
        (unit, ""),
        [
            ("used", f"{savings['actual']:.2f}"),
            (f"all on HEAVY ({savings['basis']})", f"{savings['baseline']:.2f}"),
            ("saved", f"{savings['saved']:.2f}"),
        ],
    )


def _invite(report: "DemoReport") -> None:
    url = report.url
    say(
        f"\nTrivet keeps running at {url} (readiness {url}/readyz, metrics {url}/metrics). Try:\n\n"
        f"  curl {url}/v1/chat/completions -H 'Authorization: Bearer {report.api_key}' \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        '    -d \'{"model": "auto", "max_tokens": 40, "messages": [{"role": "user", '
        '"content": "Hello"}]}\'\n\n'
        "The models are random: what they write means nothing. Ctrl-C stops everything and removes it."
    )
