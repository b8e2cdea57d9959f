"""What both transports, the probe and a whole Trivet make of a vLLM whose engine is killed."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.e2e.conftest import House, serving
from tests.vllm.calls import LIMITS, ask, deployment
from tests.vllm.conftest import LONG_CONTEXT_TOKENS
from tests.vllm.server import VllmServer, wait_until
from tests.vllm.test_chain import MESSAGES, books, settings_of
from trivet.domain.errors import EngineError
from trivet.domain.tiers import TransportKind
from trivet.engines.connect import open_session, open_transport
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, Reply, ServedModel

KINDS: tuple[TransportKind, ...] = ("relay", "litellm")
ENDLESS_TOKENS = 30_000
"""An answer that takes vLLM a minute or more."""
NEVER_HANGS_S = LIMITS.idle_s + 20.0
"""The idle limit, and room for a slow machine."""


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
    last_of_vllm_server: VllmServer, session: aiohttp.ClientSession
) -> None:
    """The API process lives on and says 503; the probe calls it down and calls fail as engine errors."""
    server = last_of_vllm_server
    await asyncio.to_thread(server.wait_idle)
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


async def test_an_engine_that_dies_amid_streams_never_ends_them_as_success(
    doomed: VllmServer, session: aiohttp.ClientSession, fault_server: str, tmp_path: Path
) -> None:
    """Streams that the kill cuts raise an engine error within the idle limit, through both transports.

    A client of Trivet gets an error event, without [DONE] and finish, and is charged for what came.
    """
    transports = [open_transport(deployment(doomed, kind), session=session, api_key=None) for kind in KINDS]
    endless = ask(max_tokens=ENDLESS_TOKENS, stream=True, ignore_eos=True)
    async with serving(settings_of(tmp_path, doomed.url, fault_server, LONG_CONTEXT_TOKENS)) as house:
        replies = [await transport.chat(endless) for transport in transports]
        events = await events_until_the_end(house, doomed)
        used, held = await books(house, "vllm.died")
    async with asyncio.timeout(NEVER_HANGS_S):
        faults = await asyncio.gather(*(fault_of(reply) for reply in replies))
    assert [reply.finished for reply in replies] == [False, False]
    assert all(faults)
    assert "[DONE]" not in events
    documents = [json.loads(event) for event in events]
    assert documents[-1]["error"]["code"].startswith("upstream_")
    assert all(choice["finish_reason"] is None for each in documents[:-1] for choice in each["choices"])
    assert held == 0
    assert used > 0
    for transport in transports:
        await transport.aclose()
    # With work in flight the whole server goes down after its engine.
    gone = await asyncio.to_thread(wait_until, lambda: health_status(doomed) is None, timeout_s=30)
    assert gone
    assert (await look(doomed, session)).state == "down"


async def events_until_the_end(house: House, server: VllmServer) -> list[str]:
    """Return the events of a stream whose engine is killed after the third."""
    body = {
        "model": "relay-vllm",
        "messages": MESSAGES,
        "max_tokens": ENDLESS_TOKENS,
        "stream": True,
        "ignore_eos": True,
    }
    events: list[str] = []
    killed = False
    async with (
        house.http(house.key("vllm.died")) as http,
        http.stream("POST", "/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if len(events) == 3 and not killed:
                killed = True
                server.kill_engine()
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
    return events


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
