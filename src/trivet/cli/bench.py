"""`trivet bench`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trivet.cli.output import print_json, print_table
from trivet.cli.session import JsonOption

app = typer.Typer(help="Measure Trivet on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Measure Trivet on this machine."""


@app.command()
def decide(
    data: Annotated[
        Path | None,
        typer.Option(help="JSONL (.gz) file with a `prompt` in each row; by default made-up prompts."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Decisions timed for each length.", min=1)] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Time routing decisions on prompts as they are, and cut or padded to 3,000 and 32,000 characters.

    Example:
      trivet bench decide --data prompts.jsonl.gz --json
    """
    from trivet.lab.bench import bench_decide, built_in_prompts, load_prompts

    prompts = load_prompts(data) if data else built_in_prompts()
    rows = bench_decide(prompts, n=n)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("chars", "n", "p50 us", "p99 us"), [(r["chars"], r["n"], r["p50_us"], r["p99_us"]) for r in rows]
    )


@app.command()
def ledger(
    store: Annotated[Literal["sqlite", "postgres"], typer.Option(help="Which store.")] = "sqlite",
    callers: Annotated[int, typer.Option(help="Callers that keep a pair under way.", min=1)] = 32,
    seconds: Annotated[float, typer.Option(help="How long each measurement takes.", min=0.1)] = 5.0,
    directory: Annotated[
        Path | None, typer.Option(help="Where the store lies while it is measured: its disk counts.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="A PostgreSQL database to use; by default a server made for it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time holds and their settlements, each pair on twelve counters and on disk, many and one to a commit.

    Example:
      trivet bench ledger --store sqlite --callers 32 --json
    """
    from trivet.lab.bench_ledger import bench_ledger

    measured = bench_ledger(store, callers=callers, seconds=seconds, directory=directory, url=url)
    if as_json:
        print_json(measured)
        return
    print_table(("figure", "value"), list(measured.items()))


@app.command()
def cache(
    entries: Annotated[int, typer.Option(help="Answers that the cache holds.", min=1)] = 100_000,
    lookups: Annotated[int, typer.Option(help="Lookups of each kind.", min=1)] = 2000,
    store: Annotated[Literal["sqlite", "redis"], typer.Option(help="What holds them.")] = "sqlite",
    directory: Annotated[
        Path | None, typer.Option(help="Where the store lies while it is measured: its disk counts.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Time the response cache: the same question, another wording of it, and none like it.

    Example:
      trivet bench cache --entries 100000 --json
    """
    from trivet.lab.bench_cache import bench_cache

    measured = bench_cache(entries=entries, lookups=lookups, store=store, directory=directory)
    if as_json:
        print_json(measured)
        return
    measured.pop("pairs")
    print_table(("figure", "value"), list(measured.items()))
