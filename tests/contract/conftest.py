"""One suite for every transport: what any of them must do, against real servers."""

from collections.abc import AsyncIterator
from typing import Protocol

import aiohttp
import pytest
import pytest_asyncio

from tests.contract.calls import deployment_of
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
