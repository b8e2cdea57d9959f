"""Swap groups over real engines: one llama.cpp in memory at a time, by turns, whatever happens to it."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.fleet.test_fleet import deployment, gone, report_of, until
from trivet.config.settings import FleetSettings, LaunchSettings, SwapSettings
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineLoading, EngineUnavailable
from trivet.engines.protocol import CallLimits, EngineCall
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan

QUICK = FleetSettings(probe_interval_s=0.1, swap=SwapSettings(minimum_residency_s=0.2, max_wait_s=1.0))


def member(name: str, model: Path, **fields: Any) -> EndpointPlan:
    """Return the plan of a launched engine in the group `gpu`."""
    return EndpointPlan(
        deployment=deployment(name, swap_group="gpu", **fields),
        launch=LaunchSettings(path=model),
        context_pinned=True,
    )


async def ask(fleet: Fleet, name: str, *, left_s: float = 60.0, waits: list[str] | None = None) -> None:
    """Wait for a deployment's turn and run a small request on it."""
    waited: list[str] = [] if waits is None else waits
    place = await fleet.ensure_ready(name, left_s=left_s, last=True, on_wait=lambda: waited.append(name))
    with place, fleet.endpoint(name).lease() as transport:
        call = EngineCall(
            body={"model": "tiny-light", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
            stream=False,
            limits=CallLimits(total_s=30.0),
            request_id="r",
        )
        await (await transport.chat(call)).aclose()


async def test_two_models_take_turns(tiny_models: Mapping[str, Path]) -> None:
    """Requests in turn for two models: all are served, one process lives at a time, swaps are few."""
    plans = [member(name, tiny_models["light"]) for name in ("a", "b")]
    async with Fleet(plans, QUICK) as fleet:
        first = [(report["name"], report["state"], report["pid"]) for report in fleet.report()]
        waits: list[str] = []
        done = asyncio.gather(*(ask(fleet, "ab"[index % 2], waits=waits) for index in range(20)))
        most = 0
        while not done.done():
            most = max(most, sum(report["pid"] is not None for report in fleet.report()))
            await asyncio.sleep(0.005)
        await done
        swaps = fleet.swap_counts["gpu"]
        pids = [report["pid"] for report in fleet.report()]
    assert [(name, state) for name, state, _ in first] == [("a", "ready"), ("b", "absent")]
    assert most == 1
    assert 1 <= swaps <= 4
    assert "b" in waits
    assert [pid for pid in (first[0][2], *pids) if pid is not None and not gone(pid)] == []


async def test_offers_tell_the_wait_and_the_state_of_a_turn(tiny_models: Mapping[str, Path]) -> None:
    """The one out of memory is absent and says how long it takes; after a swap it is the other one."""
    plans = [member(name, tiny_models["light"]) for name in ("a", "b")]
    async with Fleet(plans, QUICK) as fleet:
        here, there = fleet.offers()
        await ask(fleet, "b")
        left, come = fleet.offers()
        report = report_of(fleet, "a")
    assert (here.state, here.wait_s, there.state) == (EngineState.READY, 0.0, EngineState.ABSENT)
    assert there.wait_s is not None
    assert there.wait_s > 0
    assert (left.state, come.state) == (EngineState.ABSENT, EngineState.READY)
    assert (report["swap_group"], report["waiting"], report["state"]) == ("gpu", 0, "absent")


async def test_who_leaves_while_waiting_leaves_nothing_behind(tiny_models: Mapping[str, Path]) -> None:
    """A cancelled wait takes no slot and brings no model; the resident one goes on."""
    plans = [member(name, tiny_models["light"], slots=1) for name in ("a", "b")]
    patient = QUICK.model_copy(update={"swap": SwapSettings(minimum_residency_s=30.0, max_wait_s=60.0)})
    async with Fleet(plans, patient) as fleet:
        waiting = [asyncio.create_task(ask(fleet, "b")) for _ in range(3)]
        await until(lambda: report_of(fleet, "b")["waiting"] == 3)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(EngineLoading, match="b had no place within"):
            await ask(fleet, "b", left_s=0.05)
        await asyncio.gather(*(ask(fleet, "a") for _ in range(3)))
        waited = report_of(fleet, "b")["waiting"]
    assert (waited, fleet.swap_counts) == (0, {"gpu": 0})


async def test_a_member_that_cannot_be_loaded_harms_no_other(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Its requests are told at once and refused for a while; the other one comes back."""
    plans = [member("a", tiny_models["light"]), member("b", tmp_path / "none.gguf")]
    async with Fleet(plans, QUICK) as fleet:
        with pytest.raises(EngineUnavailable, match=r"none\.gguf") as first:
            await ask(fleet, "b")
        with pytest.raises(EngineUnavailable, match="cannot be loaded"):
            await ask(fleet, "b")
        failed = report_of(fleet, "b")
        await ask(fleet, "a")
        back = report_of(fleet, "a")["state"]
    assert first.value.retry_after_s is not None
    assert (failed["state"], failed["pid"], back) == ("failed", None, "ready")


async def test_the_resident_is_restarted_after_a_crash_and_waited_for(
    tiny_models: Mapping[str, Path],
) -> None:
    """kill -9 of the one in memory: it comes back within its turn, and a request waits for it."""
    plans = [member(name, tiny_models["light"]) for name in ("a", "b")]
    async with Fleet(plans, QUICK) as fleet:
        os.kill(report_of(fleet, "a")["pid"], signal.SIGKILL)
        await until(lambda: report_of(fleet, "a")["restarts"] == 1)
        await ask(fleet, "a")
        await ask(fleet, "b")
        pids = [report["pid"] is not None for report in fleet.report()]
    assert pids == [False, True]


async def test_the_resident_is_kept_and_adopted(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """With `on_exit: keep` the next fleet finds who was in memory, in the same process.

    One that was left as something else is ended before another is loaded.
    """
    plans = [member(name, tiny_models["light"]) for name in ("a", "b")]
    keeping = QUICK.model_copy(update={"on_exit": "keep"})
    async with Fleet(plans, keeping, tmp_path) as fleet:
        await ask(fleet, "b")
        before = report_of(fleet, "b")["pid"]
    async with Fleet(plans, keeping, tmp_path) as fleet:
        after = {report["name"]: (report["state"], report["pid"]) for report in fleet.report()}
        swaps = fleet.swap_counts["gpu"]
        await ask(fleet, "a")
        left = report_of(fleet, "a")["pid"]
    plans = [member(name, tiny_models["light"], context_tokens=256) for name in ("b", "a")]
    async with Fleet(plans, keeping, tmp_path) as fleet:
        changed = {report["name"]: report["state"] for report in fleet.report()}
        left_is_gone = gone(left)
    async with Fleet(plans, QUICK, tmp_path) as fleet:
        last = [report["pid"] for report in fleet.report()]
    assert (changed, left_is_gone) == ({"a": "absent", "b": "ready"}, True)
    assert after == {"a": ("absent", None), "b": ("ready", before)}
    assert swaps == 0
    assert all(gone(pid) for pid in (before, *last) if pid is not None)
