"""What both transports and the probe make of a vLLM that is well, and of one whose engine is killed."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import aiohttp
import httpx
import pytest

from tests.vllm.calls import LIMITS, ask, deployment
from tests.vllm.conftest import StartVllm
from tests.vllm.server import VllmServer, wait_until
from trivet.domain.errors import EngineError
from trivet.domain.tiers import TransportKind
from trivet.engines.connect import open_session, open_transport
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, Reply, ServedModel

KINDS: tuple[TransportKind, ...] = ("relay", "litellm")
LONG_CONTEXT_TOKENS = 32_768
ENDLESS_TOKENS = 30_000
"""An answer that takes vLLM a minute or more."""
NEVER_HANGS_S = LIMITS.idle_s + 20.0
"""The idle limit, and room for a slow machine."""


@pytest.fixture(scope="module")
def doomed(start_vllm: StartVllm) -> Iterator[list[VllmServer]]:
    """Give two healthy servers to kill, started side by side; each test takes one away."""
    servers = [start_vllm(context_tokens=LONG_CONTEXT_TOKENS) for _ in range(2)]
    for server in servers:
        server.wait_ready()
    yield list(servers)
    for server in servers:
        server.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Give the session that relays and probes share."""
    async with open_session() as shared:
        yield shared


async def look(server: VllmServer, session: aiohttp.ClientSession) -> Health:
    """Return what one probe of a server finds."""
    return await probe(deployment(server, "relay"), session=session, api_key=None)


async def test_a_healthy_server_is_ready_and_names_its_model(
    vllm_server: VllmServer, session: aiohttp.ClientSession
) -> None:
    """The probe of a healthy server reports the served model and its context window."""
    health = await look(vllm_server, session)
    assert health.state == "ready"
    assert health.models == (ServedModel(vllm_server.model, vllm_server.context_tokens),)


async def test_a_server_whose_idle_engine_died_is_down(
    doomed: list[VllmServer], session: aiohttp.ClientSession
) -> None:
    """The API process lives on and says 503; the probe calls it down and calls fail as engine errors."""
    server = doomed.pop()
    server.kill_engine()
    dead = await asyncio.to_thread(wait_until, lambda: health_status(server) == 503, timeout_s=30)
    assert dead
    assert (await look(server, session)).state == "down"
    for kind in KINDS:
        transport = open_transport(deployment(server, kind), session=session, api_key=None)
        with pytest.raises(EngineError) as fault:
            await transport.chat(ask(stream=True))
        await transport.aclose()
        assert fault.value.retryable


async def test_an_engine_that_dies_amid_a_stream_never_ends_it_as_success(
    doomed: list[VllmServer], session: aiohttp.ClientSession
) -> None:
    """Streams that the kill cuts raise an engine error within the idle limit, through both transports."""
    server = doomed.pop()
    transports = [open_transport(deployment(server, kind), session=session, api_key=None) for kind in KINDS]
    replies = [await transport.chat(ask(max_tokens=ENDLESS_TOKENS, stream=True)) for transport in transports]
    server.kill_engine()
    async with asyncio.timeout(NEVER_HANGS_S):
        faults = await asyncio.gather(*(fault_of(reply) for reply in replies))
    assert [reply.finished for reply in replies] == [False, False]
    assert all(faults)
    for transport in transports:
        await transport.aclose()
    # With work in flight the whole server goes down after its engine.
    gone = await asyncio.to_thread(wait_until, lambda: health_status(server) is None, timeout_s=30)
    assert gone
    assert (await look(server, session)).state == "down"


async def fault_of(reply: Reply) -> EngineError | None:
    """Read a stream to its end and return the error it ended with, None if it ended well."""
    try:
        async for _ in reply.chunks():
            pass
    except EngineError as fault:
        return fault
    finally:
        await reply.aclose()
    return None


def health_status(server: VllmServer) -> int | None:
    """Return the status of `/health`, None when nobody answers."""
    try:
        return server.client.get("/health").status_code
    except httpx.TransportError:
        return None
