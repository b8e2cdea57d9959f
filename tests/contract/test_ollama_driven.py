"""Ollama models that Trivet drives: downloaded, preloaded, swapped (at a stand-in, not Ollama)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.calls import call_for, deployment_of
from tests.contract.conftest import StandIn
from trivet.config.settings import FleetSettings, LaunchSettings, OllamaSettings, SwapSettings
from trivet.domain.errors import EngineUnavailable
from trivet.domain.gpus import GIB
from trivet.engines.ollama import OllamaAdmin
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan

QUICK = FleetSettings(probe_interval_s=0.1, swap=SwapSettings(minimum_residency_s=0.1, max_wait_s=1.0))


@pytest_asyncio.fixture(loop_scope="session")
async def admin(ollama: StandIn) -> AsyncIterator[OllamaAdmin]:
    """Give an admin of the module's stand-in, to look at it beside Trivet."""
    admin = OllamaAdmin(ollama.url)
    yield admin
    await admin.aclose()


def plan(url: str, model: str, *, pinned: bool = False, swap_group: str | None = None) -> EndpointPlan:
    """Return the plan of a driven model that stays in memory for ever."""
    driven = OllamaSettings(keep_alive=-1)
    deployment = deployment_of(url, model, engine="ollama", transport="litellm")
    return EndpointPlan(
        deployment=replace(deployment, swap_group=swap_group, keep_alive=driven.keep_alive, slots=1),
        capabilities_pinned=pinned,
        ollama=driven,
    )


def report_of(fleet: Fleet, model: str) -> dict[str, Any]:
    """Return one deployment's report."""
    return next(report for report in fleet.report() if report["model"] == model)


async def chat(fleet: Fleet, model: str) -> None:
    """Wait for a model's turn and ask it for a few tokens."""
    name = f"ollama/{model}"
    place = await fleet.ensure_ready(name, left_s=60.0, last=True, on_wait=lambda: None)
    with place, fleet.endpoint(name).lease() as transport:
        await (await transport.chat(call_for(model))).aclose()


async def loads_of(ollama: StandIn, *models: str) -> int:
    """Return how often these models have been loaded."""
    loads = (await ollama.stats())["loads"]
    return sum(loads.get(f"{model}:latest", 0) for model in models)


async def states_until(fleet: Fleet, model: str, state: str) -> list[tuple[str, str]]:
    """Return the states and details that a deployment shows until it shows this state."""
    seen: list[tuple[str, str]] = []
    async with asyncio.timeout(20):
        while not seen or seen[-1][0] != state:
            report = report_of(fleet, model)
            if not seen or seen[-1] != (report["state"], report["detail"]):
                seen.append((report["state"], report["detail"]))
            await asyncio.sleep(0.002)
    return seen


async def test_a_missing_model_is_downloaded_known_and_loaded_for_good(
    ollama: StandIn, admin: OllamaAdmin
) -> None:
    """Pulling with progress, then in memory for ever with the planned window; chats do not load it anew."""
    await ollama.fail_next(load_delay_s=0.05)
    async with Fleet([plan(ollama.url, "fresh:1b")], QUICK) as fleet:
        seen = await states_until(fleet, "fresh:1b", "ready")
        offer = fleet.offers()[0]
        await chat(fleet, "fresh:1b")
        stats = await ollama.stats()
        held = next(model for model in await admin.loaded() if model.name == "fresh:1b")
        async with asyncio.timeout(20):
            while (actual := report_of(fleet, "fresh:1b")["actual"]) is None:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.01)
    states = list(dict.fromkeys(state for state, _ in seen if state != "down"))
    assert states == ["pulling", "loading", "ready"]
    assert any("2 of 4 MB" in detail for _, detail in seen)
    assert actual["total_gib"] == round(held.size_bytes / GIB, 3)
    assert offer.deployment.capabilities == {"tools"}
    assert stats["loads"]["fresh:1b"] == 1
    assert stats["last_chat"]["keep_alive"] == -1
    assert held.context_tokens == 2048
    assert held.expires_at is not None
    assert held.expires_at.year > 2200


async def test_a_model_that_nobody_has_is_told_and_tried_again(ollama: StandIn) -> None:
    """The detail says so; a request finds it out; nothing else is harmed."""
    async with Fleet([plan(ollama.url, "missing:1b"), plan(ollama.url, "tiny")], QUICK) as fleet:
        await states_until(fleet, "tiny", "ready")
        async with asyncio.timeout(20):
            while "There is no model" not in report_of(fleet, "missing:1b")["detail"]:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await chat(fleet, "tiny")


async def test_two_models_take_turns_in_its_memory(ollama: StandIn, admin: OllamaAdmin) -> None:
    """By turns one is unloaded, waited for until it has left, and then the other is loaded."""
    models = ("tiny", "tiny-heavy")
    for model in models:
        await admin.unload(model)
    full_names = {f"{model}:latest" for model in models}
    async with asyncio.timeout(10):
        while full_names & {model.name for model in await admin.loaded()}:  # noqa: ASYNC110 - it is Ollama's
            await asyncio.sleep(0.01)
    await ollama.fail_next(load_delay_s=0.02, unload_delay_s=0.1)
    both = 0
    plans = [plan(ollama.url, model, swap_group="gpu") for model in models]
    # More than the models were made for: lowered before the first load, so that no chat loads anew.
    plans = [replace(each, deployment=replace(each.deployment, context_tokens=4096)) for each in plans]
    loads = await loads_of(ollama, *models)
    async with Fleet(plans, QUICK) as fleet:
        done = asyncio.gather(*(chat(fleet, models[index % 2]) for index in range(12)))
        while not done.done():
            names = {model.name.removesuffix(":latest") for model in await admin.loaded()}
            both += names >= set(models)
            await asyncio.sleep(0.005)
        await done
        swaps = fleet.swap_counts["gpu"]
        resident = [report["model"] for report in fleet.report() if report["state"] == "ready"]
        absent = [report["model"] for report in fleet.report() if report["state"] == "absent"]
    await ollama.fail_next(load_delay_s=0, unload_delay_s=0)
    loads = await loads_of(ollama, *models) - loads
    assert loads == 1 + swaps
    assert both == 0
    assert 1 <= swaps <= 3
    assert (len(resident), len(absent)) == (1, 1)


async def test_a_member_is_downloaded_before_its_turn_and_refused_when_nobody_has_it(
    ollama: StandIn,
) -> None:
    """A request waits for the download, then for its turn; nobody makes room for what cannot be fetched."""
    plans = [plan(ollama.url, model, swap_group="gpu") for model in ("tiny", "second:1b", "missing:2b")]
    async with Fleet(plans, QUICK) as fleet:
        async with asyncio.timeout(20):
            while report_of(fleet, "second:1b")["state"] == "down":  # noqa: ASYNC110 - it is Ollama's
                await asyncio.sleep(0.002)
        await chat(fleet, "second:1b")
        with pytest.raises(EngineUnavailable, match=r"There is no model|does not have"):
            await chat(fleet, "missing:2b")
        await chat(fleet, "tiny")


async def test_a_model_is_not_preloaded_while_an_engine_loads_on_its_gpu(
    ollama: StandIn, admin: OllamaAdmin, tmp_path: Path
) -> None:
    """vLLM measures its GPU while it loads. Meanwhile Ollama counts as ready; then the model is loaded."""
    await admin.unload("tiny")
    done = tmp_path / "done"
    launch = LaunchSettings(command=("bash", "-c", f"while [ ! -e {done} ]; do sleep 0.05; done; exit 3"))
    other = replace(deployment_of(None, "other", engine="vllm"), devices=("GPU-a",))
    driven = plan(ollama.url, "tiny")
    driven = replace(driven, deployment=replace(driven.deployment, devices=("GPU-a",)))
    plans = [EndpointPlan(deployment=other, launch=launch), driven]
    async with Fleet(plans, QUICK, tmp_path / "state") as fleet:
        await states_until(fleet, "tiny", "ready")
        await asyncio.sleep(0.3)
        before = [model.name for model in await admin.loaded() if model.name.startswith("tiny:")]
        done.touch()
        async with asyncio.timeout(20):
            while not any(model.name.startswith("tiny:") for model in await admin.loaded()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert before == []
