"""How a command reaches Trivet: the options they share, and the choice between server and own process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from trivet.cli.output import say_recovered

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

T = TypeVar("T")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TRIVET_CONFIG", help="Configuration file.", show_default=False),
]
UrlOption = Annotated[
    str | None, typer.Option(envvar="TRIVET_URL", help="Use the server at this URL.", show_default=False)
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="TRIVET_API_KEY", help="API key for the server.", show_default=False),
]
ScopeArgument = Annotated[str, typer.Argument(help="Dotted slug: acme, acme.search, acme.search.ana.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the user said Trivet is, if he did."""

    url: str | None
    api_key: str | None
    config: Path | None


@asynccontextmanager
async def reach(address: Address, *, with_engines: bool = False) -> "AsyncIterator[Trivet]":
    """Connect to the server that was named, or that owns the store; else open the store here.

    A server run by the same operating-system user is found through its store, without URL or key.
    """
    from trivet.config.load import load_settings
    from trivet.sdk.client import Trivet
    from trivet.storage import StoreLock

    if address.url:
        trivet = Trivet.connect(address.url, api_key=address.api_key)
    else:
        settings = load_settings(config_path=address.config).settings
        owner = StoreLock.owner(settings.store.path.expanduser())
        if owner is not None and owner.url:
            trivet = Trivet.connect(owner.url, api_key=address.api_key or owner.token)
        else:
            _quiet_logs()
            trivet = Trivet.open(settings=settings, with_engines=with_engines)
    async with trivet:
        say_recovered(trivet.recovered_holds)
        yield trivet


def ask(address: Address, question: "Callable[[Trivet], Awaitable[T]]", *, with_engines: bool = False) -> T:
    """Reach Trivet, put the question, return the answer; an object as one that explains what it lacks."""
    from trivet.sdk.told import Told

    async def conversation() -> T:
        async with reach(address, with_engines=with_engines) as trivet:
            return await question(trivet)

    answer = asyncio.run(conversation())
    return cast("T", Told(answer)) if isinstance(answer, dict) else answer


def _quiet_logs() -> None:
    from trivet.app.logs import configure_logging
    from trivet.config.settings import LoggingSettings

    configure_logging(LoggingSettings(level="error"))
