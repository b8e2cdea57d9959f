"""One suite for every transport: what any of them must do, against real servers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import pytest
import pytest_asyncio

from tests.contract.calls import deployment_of
from tests.doubles.programs import Programs
from trivet.domain.tiers import EngineKind, TransportKind
from trivet.engines.connect import open_transport
from trivet.engines.protocol import Transport


class Connect(Protocol):
    """What the fixture `connect` gives."""

    def __call__(self, url: str, model: str, *, engine: EngineKind = "openai") -> Transport:
        """Return the transport under test to a model behind a URL."""
        ...


@pytest.fixture(scope="session", params=["relay", "litellm"])
def transport_kind(request: pytest.FixtureRequest) -> TransportKind:
    """Give each transport in turn."""
    kind: TransportKind = request.param
    return kind


@pytest_asyncio.fixture(scope="session")
async def connect(session: aiohttp.ClientSession, transport_kind: TransportKind) -> AsyncIterator[Connect]:
    """Give an opener of transports of the kind under test; they are closed with the session."""
    opened: list[Transport] = []

    def open_one(url: str, model: str, *, engine: EngineKind = "openai") -> Transport:
        deployment = deployment_of(url, model, engine=engine, transport=transport_kind)
        opened.append(open_transport(deployment, session=session, api_key="engine-key"))
        return opened[-1]

    yield open_one
    for transport in opened:
        await transport.aclose()


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running Ollama stand-in and what it tells about itself."""

    url: str
    session: aiohttp.ClientSession

    async def stats(self) -> dict[str, Any]:
        """Return its counts and the last chat it was asked for."""
        async with self.session.get(f"{self.url}/standin/stats") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def wait_aborted(self, before: int) -> None:
        """Return once more clients than `before` have left amid an answer."""
        async with asyncio.timeout(20):
            while True:
                if (await self.stats())["aborted"] > before:
                    return
                await asyncio.sleep(0.02)

    async def fail_next(self, **faults: float) -> None:
        """Make its next chats fail, or its loads slow."""
        async with self.session.post(f"{self.url}/standin/faults", json=faults) as response:
            response.raise_for_status()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ollama(
    programs: Programs, light_url: str, heavy_url: str, session: aiohttp.ClientSession
) -> StandIn:
    """Give an Ollama stand-in of the module's own, with `tiny` and `tiny-heavy` installed."""
    models = ("--model", "tiny", "--model", f"tiny-heavy={heavy_url}")
    started = programs.start("tests.doubles.ollama_standin", "--backend", light_url, *models)
    return StandIn(started.url, session)
