"""`trivet batch`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivet.cli.output import print_json, print_table, say
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask, reach

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

app = typer.Typer(
    help="Files of requests that are worked off in the background.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

BatchArgument = Annotated[str, typer.Argument(help="Id of the batch, as `submit` printed it.")]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="JSONL file in the lines of OpenAI's Batch API; - for stdin.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the progress until the batch has ended.")
    ] = False,
    label: Annotated[str, typer.Option(help="A note.", show_default=False)] = "",
    window_hours: Annotated[
        float | None,
        typer.Option(
            help="Give up what has not begun by then; by default batch.window_hours.", show_default=False
        ),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Whom to charge; with an admin key only.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a file of requests, each line with its own custom_id.

    Exits with 1 if, with --wait, not every line was answered.

    Example:
      trivet batch submit requests.jsonl --wait
      a line: {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}
    """
    content = _content(file)

    async def put(trivet: "Trivet") -> dict[str, Any]:
        batch = await trivet.batches.submit(content, label=label, window_hours=window_hours, scope=scope)
        if not wait:
            return batch
        say(f"{batch['id']}: {batch['counts']['total']} requests.")
        return await _watched(trivet, batch)

    batch = ask(Address(url, api_key, config), put, with_engines=wait)
    if as_json:
        print_json(batch)
    else:
        _print([batch])
        if not wait:
            say(f"Ask for it: trivet batch status {batch['id']}")
    if wait and batch["counts"]["completed"] < batch["counts"]["total"]:
        raise typer.Exit(1)


@app.command()
def status(
    batch_id: BatchArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a batch has come, also by deployment."""

    async def fetch(trivet: "Trivet") -> dict[str, Any]:
        return await trivet.batches.status(batch_id)

    batch = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json(batch)
        return
    _print([batch])
    states = ("waiting", "in_progress", "completed", "failed", "abandoned")
    rows = [(name, *(counts[state] for state in states)) for name, counts in batch["deployments"].items()]
    if rows:
        say("")
        print_table(("deployment", *states), rows)


@app.command("list")
def list_batches(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """List the latest batches."""

    async def fetch(trivet: "Trivet") -> list[dict[str, Any]]:
        return await trivet.batches.list()

    batches = ask(Address(url, api_key, config), fetch)
    if as_json:
        print_json({"batches": batches})
    elif not batches:
        say("There are no batches. Submit one: trivet batch submit requests.jsonl")
    else:
        _print(batches)


@app.command()
def results(
    batch_id: BatchArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Print what became of the lines that have ended, as JSON lines in the order of the file.

    Example:
      trivet batch results batch_0123456789abcdef01234567 -o answers.jsonl
    """
    import asyncio

    async def fetch() -> int:
        count = 0
        async with reach(Address(url, api_key, config)) as trivet:
            target = sys.stdout if output is None else output.open("w", encoding="utf-8")
            try:
                async for line in trivet.batches.result_lines(batch_id):
                    target.write(line + "\n")
                    count += 1
            finally:
                if output is not None:
                    target.close()
        return count

    count = asyncio.run(fetch())
    if output is not None:
        say(f"{count} results in {output}.")


@app.command()
def cancel(
    batch_id: BatchArgument,
    config: ConfigOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give up what has not begun of a batch; what runs may end."""

    async def delete(trivet: "Trivet") -> dict[str, Any]:
        return await trivet.batches.cancel(batch_id)

    batch = ask(Address(url, api_key, config), delete)
    if as_json:
        print_json(batch)
    else:
        _print([batch])


def _content(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}.") from error


async def _watched(trivet: "Trivet", batch: dict[str, Any]) -> dict[str, Any]:
    """Show a bar on standard error until the batch has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(batch["status"], total=batch["counts"]["total"])

        def show(seen: dict[str, Any]) -> None:
            counts = seen["counts"]
            done = counts["completed"] + counts["failed"] + counts["abandoned"]
            failed = f", {counts['failed']} failed" if counts["failed"] else ""
            progress.update(bar, completed=done, description=f"{seen['status']}{failed}")

        return await trivet.batches.wait(batch["id"], on_progress=show)


def _print(batches: list[dict[str, Any]]) -> None:
    states = ("total", "waiting", "in_progress", "completed", "failed", "abandoned")
    print_table(
        ("batch", "scope", "status", "label", *states, "created", "ended"),
        [
            (
                *(batch["id"], batch["scope"], batch["status"], batch["label"] or None),
                *(batch["counts"][state] for state in states),
                *(_minute(batch["created_at"]), _minute(batch["ended_at"])),
            )
            for batch in batches
        ],
    )


def _minute(instant: str | None) -> str | None:
    return None if instant is None else instant[:16].replace("T", " ")
