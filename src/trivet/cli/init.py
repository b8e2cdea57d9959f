"""`trivet init`"""

from pathlib import Path
from typing import Annotated

import typer

from trivet.cli.exits import FAILED
from trivet.cli.output import print_json, say
from trivet.cli.plan import (
    DemandOption,
    EngineOption,
    FamilyOption,
    GpusOption,
    PinOption,
    RamOption,
    Wishes,
    planned,
    write_new,
)
from trivet.cli.session import ConfigOption, JsonOption


def init(
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("trivet.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    gpus: GpusOption = None,
    ram: RamOption = None,
    demand: DemandOption = None,
    pin: PinOption = None,
    family: FamilyOption = None,
    engine: EngineOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine, plan models for the tiers, and write the configuration for them.

    What it decides and why: `trivet plan` with the same options. Nothing is downloaded or started.

    Examples:
      trivet init
      trivet init --demand tools --output /etc/trivet/trivet.yaml
      trivet init --gpus RTX4090 --force
    """
    from trivet.catalog.emit_config import config_text, preparations
    from trivet.cli.plan_text import plan_text

    made = planned(Wishes(gpus, ram, demand or [], pin or [], family or [], engine or [], config))
    if not made.tiers:
        say(plan_text(made))
        raise typer.Exit(FAILED)
    write_new(output, config_text(made), force=force)
    steps = [*preparations(made), *_next_steps(output)]
    if as_json:
        print_json({"path": str(output), "next": steps, "plan": made.as_json()})
        return
    say(plan_text(made))
    say(f"Wrote {output}. Next:")
    for step in steps:
        say(f"- {step}")


def _next_steps(output: Path) -> list[str]:
    return [
        f"trivet config check --config {output}",
        f"trivet doctor --config {output}",
        f"trivet serve --config {output}",
    ]
