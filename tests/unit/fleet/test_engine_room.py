"""The room of launched engines: one Trivet at a time, one loading engine for each GPU."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.fleet.test_fleet import PROBES, deployment, gone, launched, report_of, until
from trivet.config.settings import LaunchSettings
from trivet.domain.clock import ManualClock
from trivet.domain.errors import StoreLocked
from trivet.fleet import Fleet
from trivet.fleet.engine_room import EngineRoom, LoadingTurns
from trivet.fleet.plan import EndpointPlan


async def test_engines_load_one_after_another_on_a_gpu() -> None:
    """Who wants a GPU waits for who loads on it; others, and the host, wait for nobody."""
    turns = LoadingTurns()
    end_both = await turns.acquire(("GPU-b", "GPU-a"))
    waiting = asyncio.create_task(turns.acquire(("GPU-a",)))
    end_other = await turns.acquire(("GPU-c",))
    end_host = await turns.acquire(("host",))
    (await turns.acquire(("host",)))()
    await asyncio.sleep(0)
    assert not waiting.done()
    end_both()
    (await waiting)()
    end_other()
    end_host()


async def test_a_cancelled_wait_holds_nothing() -> None:
    """Who waits for a second GPU and gives up leaves the first."""
    turns = LoadingTurns()
    end = await turns.acquire(("GPU-b",))
    waiting = asyncio.create_task(turns.acquire(("GPU-a", "GPU-b")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    (await turns.acquire(("GPU-a",)))()
    end()


async def test_two_trivets_do_not_share_a_room(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """The second is told which setting to change."""
    with (
        EngineRoom.opened(tmp_path / "state", keep=False, clock=ManualClock()),
        pytest.raises(StoreLocked, match="state_dir"),
    ):
        async with Fleet([launched("ours", tiny_models["light"])], PROBES, tmp_path / "state"):
            pass
    async with Fleet([launched("ours", tiny_models["light"])], PROBES, tmp_path / "state") as fleet:
        assert fleet.report()[0]["state"] == "ready"


def loads_until(script: str) -> EndpointPlan:
    """Return the plan of an engine on GPU-a that is a shell script and never gets ready."""
    launch = LaunchSettings(command=("bash", "-c", script))
    return EndpointPlan(deployment=deployment("first", engine="vllm", devices=("GPU-a",)), launch=launch)


async def test_an_engine_waits_until_the_one_before_has_loaded_or_failed(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Both want GPU-a: while the first loads the second has no process; then the second comes."""
    second = launched("second", tiny_models["light"])
    second = replace(second, deployment=replace(second.deployment, devices=("GPU-a",)))
    script = f"while [ ! -e {tmp_path}/fail ]; do sleep 0.05; done; echo 'ValueError: no memory'; exit 3"
    fleet = Fleet([loads_until(script), second], PROBES, tmp_path / "state")
    opening = asyncio.create_task(fleet.__aenter__())
    await until(lambda: bool(fleet.report()) and report_of(fleet, "first")["pid"] is not None)
    await asyncio.sleep(0.3)
    waits = report_of(fleet, "second")
    (tmp_path / "fail").touch()
    await until(lambda: "status 3: ValueError: no memory" in report_of(fleet, "first")["detail"])
    await opening
    comes = report_of(fleet, "second")
    await fleet.__aexit__(None, None, None)
    assert (waits["state"], waits["pid"]) == ("loading", None)
    assert comes["state"] == "ready"


async def test_a_fleet_closes_while_one_loads_and_another_waits(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """Nothing is left of what has not become ready."""
    second = launched("second", tiny_models["light"])
    second = replace(second, deployment=replace(second.deployment, devices=("GPU-a",)))
    fleet = Fleet([loads_until("sleep 600"), second], PROBES, tmp_path / "state")
    opening = asyncio.create_task(fleet.__aenter__())
    await until(lambda: bool(fleet.report()) and report_of(fleet, "first")["pid"] is not None)
    pid = report_of(fleet, "first")["pid"]
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert gone(pid)


async def test_a_turn_that_is_wanted_is_not_free() -> None:
    """Who takes only what is free gets nothing while somebody loads on one of the GPUs, or waits to."""
    turns = LoadingTurns()
    end = await turns.acquire(("GPU-a",))
    waiting = asyncio.create_task(turns.acquire(("GPU-a", "GPU-b")))
    await asyncio.sleep(0)
    assert await turns.acquire_if_free(("GPU-b", "GPU-c")) is None
    end()
    (await waiting)()
    end_free = await turns.acquire_if_free(("GPU-b", "host"))
    assert end_free is not None
    assert await turns.acquire_if_free(("GPU-b",)) is None
    end_free()
    assert await turns.acquire_if_free(("GPU-b",)) is not None
