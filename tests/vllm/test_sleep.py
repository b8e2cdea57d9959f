"""A real vLLM that sleeps while another engine has its turn. On a CPU sleeping holds the scheduler only."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vllm.calls import ask, deployment
from tests.vllm.server import VllmServer
from trivet.config.settings import FleetSettings, LaunchSettings, SwapSettings
from trivet.domain.errors import EngineIncapable
from trivet.engines.connect import open_session
from trivet.engines.vllm_sleep import VllmSleep
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan

QUICK = FleetSettings(probe_interval_s=0.2, swap=SwapSettings(minimum_residency_s=0.2, max_wait_s=2.0))


@pytest.fixture
async def sleep(vllm_server: VllmServer) -> AsyncIterator[VllmSleep]:
    """Give the shared server's sleep, awake before and after."""
    async with open_session() as session:
        found = VllmSleep(vllm_server.url, session=session, api_key=None)
        yield found
        if await found.is_sleeping():
            await found.wake(1)


async def test_it_sleeps_and_wakes(sleep: VllmSleep) -> None:
    """The routes of a real server, as it was started."""
    before = await sleep.is_sleeping()
    await sleep.sleep(1)
    asleep = await sleep.is_sleeping()
    await sleep.wake(1)
    assert (before, asleep, await sleep.is_sleeping()) == (False, True, False)


async def test_an_engine_without_sleep_is_told(light_url: str) -> None:
    """A server without such routes, here a real llama.cpp's, is incapable; the hint says what is missing."""
    async with open_session() as session:
        with pytest.raises(EngineIncapable, match="--enable-sleep-mode"):
            await VllmSleep(light_url, session=session, api_key=None).is_sleeping()


async def test_it_takes_turns_with_a_launched_engine(
    vllm_server: VllmServer, sleep: VllmSleep, tiny_models: Mapping[str, Path]
) -> None:
    """While llama.cpp is in memory vLLM sleeps, awake it answers, and llama.cpp's process is gone."""
    vllm = replace(deployment(vllm_server, "relay"), swap_group="gpu")
    plans = [
        EndpointPlan(deployment=vllm, context_pinned=True),
        EndpointPlan(
            deployment=replace(vllm, name="llama", engine="llamacpp", model="tiny-light", url=None),
            launch=LaunchSettings(path=tiny_models["light"]),
            context_pinned=True,
        ),
    ]
    seen: list[tuple[str, bool, dict[str, str]]] = []
    async with Fleet(plans, QUICK) as fleet:
        for name, model in (("llama", "tiny-light"), (vllm.name, vllm.model)) * 2:
            place = await fleet.ensure_ready(name, left_s=60.0, last=True, on_wait=lambda: None)
            with place, fleet.endpoint(name).lease() as transport:
                asleep = await sleep.is_sleeping()
                await (await transport.chat(ask(model=model))).aclose()
            # Longer than a probe: what answers its health check while it sleeps still counts as asleep.
            await asyncio.sleep(0.3)
            states = {report["name"]: str(report["state"]) for report in fleet.report()}
            seen.append((name, asleep, states))
    expected = [
        ("llama", True, {vllm.name: "sleeping", "llama": "ready"}),
        (vllm.name, False, {vllm.name: "ready", "llama": "absent"}),
    ]
    assert seen == expected * 2
