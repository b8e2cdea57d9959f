"""`trivet plan`"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from trivet.cli.exits import FAILED
from trivet.cli.output import print_json, say
from trivet.cli.own_machine import look
from trivet.cli.session import ConfigOption, JsonOption
from trivet.domain.errors import ConfigError, TrivetError

if TYPE_CHECKING:
    from trivet.catalog.plan import Plan
    from trivet.domain.gpus import Inventory

GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        help="Plan for this machine instead of the one here: 2xRTX4090,1xH100, or cpu-16gb.",
        show_default=False,
    ),
]
RamOption = Annotated[
    float | None, typer.Option("--ram", help="Host memory of that machine, in GiB.", show_default=False)
]
DemandOption = Annotated[
    list[str] | None,
    typer.Option(
        "--demand",
        help="What every tier, or one, must do: context=16384,sequences=8,tools or heavy:context=32768. "
        "@FILE reads YAML. May be repeated.",
        show_default=False,
    ),
]
PinOption = Annotated[
    list[str] | None,
    typer.Option("--pin", help="TIER=MODEL: that model, whatever else. May be repeated.", show_default=False),
]
FamilyOption = Annotated[
    list[str] | None,
    typer.Option("--family", help="Prefer this family of models. May be repeated.", show_default=False),
]


ObservedOption = Annotated[
    bool, typer.Option("--observed", help="Size models by what they took when Trivet last started them.")
]


EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", help="Use this engine only: ollama or vllm. May be repeated.", show_default=False
    ),
]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked a plan for."""

    gpus: str | None
    ram_gib: float | None
    demand: list[str]
    pins: list[str]
    families: list[str]
    engines: list[str]
    config: Path | None
    observed: bool = False


def plan(
    gpus: GpusOption = None,
    ram: RamOption = None,
    demand: DemandOption = None,
    pin: PinOption = None,
    family: FamilyOption = None,
    engine: EngineOption = None,
    emit: Annotated[
        Literal["config", "compose", "k8s", "systemd"] | None,
        typer.Option("--emit", help="Write the plan out instead of showing it.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write to; for systemd a folder. Default: standard output.",
            show_default=False,
        ),
    ] = None,
    observed: ObservedOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the best models for the tiers on this machine, or on one that you describe, and show what fits
    where.

    Nothing is downloaded, started or written, except with --output. Exits with 1 when no model fits at all.

    Examples:
      trivet plan
      trivet plan --gpus 2xRTX4090 --demand context=16384,sequences=8,tools
      trivet plan --gpus H100 --pin heavy=qwen2.5-72b-instruct --json
      trivet plan --emit compose --output compose.yaml
    """
    wishes = Wishes(gpus, ram, demand or [], pin or [], family or [], engine or [], config, observed)
    made = planned(wishes)
    if emit is not None:
        _emit(made, emit, output)
        return
    if as_json:
        print_json(made.as_json())
    else:
        from trivet.cli.plan_text import plan_text

        sys.stdout.write(plan_text(made))
    if not made.tiers:
        raise typer.Exit(FAILED)


def planned(wishes: Wishes) -> "Plan":
    """Return the plan for what the user asked.

    Raises:
        ConfigError: a GPU, a model or a demand is not understood.
    """
    from trivet.catalog.cards import load_catalog
    from trivet.catalog.corrections import Corrections
    from trivet.catalog.demand import read_demand
    from trivet.catalog.gpu_table import load_gpu_table
    from trivet.catalog.gpus_text import read_gpus
    from trivet.catalog.placement import make_plan
    from trivet.catalog.sizing import Sizer

    models, more_gpus = _own_files(wishes.config)
    table = load_gpu_table(more_gpus)
    catalog = load_catalog(models)
    demand = read_demand(
        _demand_texts(wishes.demand), pins=wishes.pins, families=wishes.families, engines=wishes.engines
    )
    if wishes.gpus is not None:
        inventory = read_gpus(wishes.gpus, table, ram_gib=wishes.ram_gib)
    else:
        inventory = _this_machine(wishes)
    sizer = Sizer(Corrections(_observations(wishes.config), table)) if wishes.observed else Sizer()
    return make_plan(inventory, demand, catalog, table, sizer=sizer)


def _this_machine(wishes: Wishes) -> "Inventory":
    if wishes.ram_gib is not None:
        raise ConfigError(
            "--ram describes a machine.", hint="Give --gpus as well, or leave it out.", param="ram"
        )
    return look(wishes.config)


def _own_files(config: Path | None) -> tuple[Path | None, Path | None]:
    """Return the operator's own model and GPU files; a broken configuration that nobody named is let be."""
    from trivet.config.load import load_settings

    try:
        catalog = load_settings(config_path=config).settings.catalog
    except TrivetError:
        if config is not None:
            raise
        return None, None
    return catalog.models, catalog.gpus


def _observations(config: Path | None) -> dict[str, dict[str, Any]]:
    """Return what the engines of this configuration took when they were started."""
    from trivet.config.deployments import state_dir_of
    from trivet.config.load import load_settings
    from trivet.fleet.observed import OBSERVED_FILE, read_observed

    return read_observed(state_dir_of(load_settings(config_path=config).settings) / OBSERVED_FILE)


def _demand_texts(demand: list[str]) -> list[str]:
    texts: list[str] = []
    for text in demand:
        texts += _demands_file(Path(text[1:])) if text.startswith("@") else [text]
    return texts


def _demands_file(path: Path) -> list[str]:
    import yaml

    from trivet.catalog.demand import demand_texts

    try:
        document: Any = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The demands file {path} cannot be read: {error}", param="demand") from None
    return demand_texts(document)


def _emit(made: "Plan", form: Literal["config", "compose", "k8s", "systemd"], output: Path | None) -> None:
    from trivet.catalog.emit import emit

    files = emit(made, form)
    if output is None:
        several = len(files) > 1
        for name, text in files.items():
            sys.stdout.write((f"# ===== /etc/{name}\n" if several else "") + text)
        return
    for name, text in files.items():
        path = output / name if form == "systemd" else output
        write_new(path, text, force=False)
        say(f"Wrote {path}")


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a file that is not there yet, or any with `force`.

    Raises:
        ConfigError: there is one already, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already.", hint="Name another file, or remove it first.", param="output"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", param="output") from None
