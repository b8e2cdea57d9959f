"""`trivet config`"""

from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import ConfigOption, JsonOption

if TYPE_CHECKING:
    from trivet.config.load import Loaded

app = typer.Typer(help="The configuration in force.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(
    config: ConfigOption = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the defaults.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every setting with its value and where it came from; secrets are hidden.

    Precedence: flags > TRIVET_* > file > MODEL_*, TOKEN_BUDGET_*, OLLAMA_HOST, VLLM_* > defaults.
    """
    from trivet.config.explain import explain, explain_json

    loaded = _load(config)
    if as_json:
        print_json(explain_json(loaded))
        return
    rows = [row for row in explain(loaded) if not changed or row.origin != "default"]
    if not rows:
        say("Nothing differs from the defaults.")
        return
    print_table(("key", "value", "origin"), [(row.key, str(row.value), row.origin) for row in rows])


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration without starting anything; exits with 3 when it cannot be used.

    The table of prices that it names, or that lies in its default place, is read as well.
    """
    from trivet.config.deployments import build_deployments
    from trivet.engines.prices import own_prices, place_of

    loaded = _load(config)
    deployments = build_deployments(loaded.settings)
    told, place = loaded.settings.pricing.path, place_of(loaded.settings.pricing.path)
    prices = own_prices(told)
    if as_json:
        print_json(
            {
                "ok": True,
                "path": str(loaded.path) if loaded.path else None,
                "tiers": [tier.name for tier in loaded.settings.tiers],
                "deployments": [deployment.name for deployment in deployments],
                "prices": None if prices is None else {"path": str(place), "models": len(prices)},
            }
        )
        return
    say(f"ok: {loaded.path or 'environment and defaults'}")
    print_table(
        ("tier", "deployment", "engine", "transport", "url", "context", "slots"),
        [(d.tier.name, d.name, d.engine, d.transport, d.url, d.context_tokens, d.slots) for d in deployments],
    )
    if prices is not None:
        say(f"Prices of {len(prices)} models in {place}.")


def _load(config: ConfigOption) -> "Loaded":
    from trivet.config.load import load_settings

    return load_settings(config_path=config)
