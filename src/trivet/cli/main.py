"""The command line, put together; errors become one sentence and an exit status here."""

import json
import sys
from typing import Annotated

import typer

from trivet.cli import (
    alerts,
    audit,
    batch,
    bench,
    budgets,
    cache,
    chat,
    config,
    demo,
    doctor,
    engines,
    footprint,
    gpus,
    init,
    keys,
    ledger,
    overrides,
    plan,
    rates,
    report,
    route,
    serve,
    store,
)
from trivet.cli.exits import exit_status
from trivet.domain.errors import TrivetError
from trivet.version import __version__

app = typer.Typer(
    name="trivet",
    help="Self-hosted local-inference tier orchestrator.",
    epilog="Start with: trivet demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"trivet {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


app.command()(demo.demo)
app.command()(serve.serve)
app.command()(chat.chat)
app.command()(route.route)
app.add_typer(batch.app, name="batch")
app.add_typer(report.app, name="report")
app.add_typer(budgets.app, name="budgets")
app.add_typer(overrides.app, name="overrides")
app.add_typer(rates.app, name="rates")
app.add_typer(cache.app, name="cache")
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.command()(engines.engines)
app.command()(gpus.gpus)
app.command()(footprint.footprint)
app.command()(plan.plan)
app.command()(init.init)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(ledger.app, name="ledger")
app.add_typer(alerts.app, name="alerts")
app.command()(audit.audit)
app.add_typer(store.app, name="store")


def run() -> None:
    """Run the command line; the console script's entry point."""
    try:
        app()
    except TrivetError as error:
        if "--json" in sys.argv:
            document = {"error": {"code": error.code, "message": str(error), **error.details}}
            sys.stdout.write(json.dumps(document) + "\n")
        else:
            hint = " Here: --api-key or TRIVET_API_KEY." if error.code == "api_key_missing" else ""
            sys.stderr.write(f"trivet: {error}{hint}\n")
        sys.exit(exit_status(error.code))
    except KeyboardInterrupt:
        sys.exit(130)
