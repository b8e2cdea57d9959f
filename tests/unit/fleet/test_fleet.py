"""Engines are begun, watched, restarted and ended; what fails is told by the state and harms no other."""

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trivet.config.settings import FleetSettings, LaunchSettings
from trivet.domain.tiers import Deployment, Tier
from trivet.engines.protocol import CallLimits, EngineCall
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan

PROBES = FleetSettings(probe_interval_s=0.1)
PATIENCE_S = 30.0


def deployment(name: str, **fields: Any) -> Deployment:
    """Return a llama.cpp deployment of its own tier."""
    parts: dict[str, Any] = {
        "name": name,
        "tier": Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0),
        "engine": "llamacpp",
        "model": "tiny-light",
        "transport": "relay",
        "url": None,
        "context_tokens": 512,
        "slots": 2,
        "devices": ("host",),
    }
    return Deployment(**(parts | fields))


def launched(name: str, model: Path) -> EndpointPlan:
    """Return the plan of an engine that the fleet starts."""
    return EndpointPlan(deployment=deployment(name), launch=LaunchSettings(path=model), context_pinned=True)


def report_of(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return one endpoint's report."""
    return next(report for report in fleet.report() if report["name"] == name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it depends on other processes
            await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Tell whether there is no such process, not even a dead one that nobody has collected."""
    return not Path(f"/proc/{pid}").exists()


async def test_a_killed_engine_is_restarted(tiny_models: Mapping[str, Path]) -> None:
    """kill -9 of the engine: it is started again and answers; closing leaves no process."""
    async with Fleet([launched("ours", tiny_models["light"])], PROBES) as fleet:
        first = report_of(fleet, "ours")
        os.kill(first["pid"], signal.SIGKILL)
        await until(lambda: report_of(fleet, "ours")["restarts"] == 1)
        await until(lambda: report_of(fleet, "ours")["state"] == "ready")
        second = report_of(fleet, "ours")
        call = EngineCall(
            body={"model": "tiny-light", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
            stream=False,
            limits=CallLimits(total_s=30.0),
            request_id="r",
        )
        with fleet.endpoint("ours").lease() as transport:
            reply = await transport.chat(call)
            await reply.aclose()
            in_flight = report_of(fleet, "ours")["in_flight"]
    assert (first["state"], first["restarts"], second["restarts"], in_flight) == ("ready", 0, 1, 1)
    assert second["pid"] != first["pid"]
    assert [gone(report["pid"]) for report in (first, second)] == [True, True]


async def test_what_cannot_begin_is_shown_and_harms_no_other(
    tiny_models: Mapping[str, Path], tmp_path: Path
) -> None:
    """A model file that is missing and a URL that is none are told by the state; the third engine works."""
    plans = [
        launched("missing", tmp_path / "none.gguf"),
        EndpointPlan(deployment=deployment("nonsense", url="ftp://nowhere")),
        launched("ours", tiny_models["light"]),
    ]
    async with Fleet(plans, PROBES) as fleet:
        missing, nonsense, ours = fleet.report()
    assert [missing["state"], nonsense["state"], ours["state"]] == ["failed", "down", "ready"]
    assert "exited with status 4" in missing["detail"]
    assert "none.gguf" in missing["detail"]
    assert "not an HTTP URL" in nonsense["detail"]
    assert gone(ours["pid"])


async def test_an_engine_that_cannot_be_spawned_is_tried_again(tiny_models: Mapping[str, Path]) -> None:
    """Without free file descriptors the restart fails and says so; once there are some, it succeeds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Fleet([launched("ours", tiny_models["light"])], PROBES) as fleet:
        os.kill(report_of(fleet, "ours")["pid"], signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            await until(lambda: "Too many open files" in report_of(fleet, "ours")["detail"])
            failed = report_of(fleet, "ours")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: report_of(fleet, "ours")["state"] == "ready")
    assert (failed["state"], failed["pid"]) == ("failed", None)


async def test_an_engine_that_hangs_has_failed_but_lives(tiny_models: Mapping[str, Path]) -> None:
    """A stopped process misses its probes and has failed; continued, it is the same process and ready."""
    async with Fleet([launched("ours", tiny_models["light"])], PROBES) as fleet:
        before = report_of(fleet, "ours")
        os.kill(before["pid"], signal.SIGSTOP)
        try:
            await until(lambda: report_of(fleet, "ours")["state"] == "failed")
            hanging = report_of(fleet, "ours")
        finally:
            os.kill(before["pid"], signal.SIGCONT)
        await until(lambda: report_of(fleet, "ours")["state"] == "ready")
        after = report_of(fleet, "ours")
    assert "does not answer" in hanging["detail"]
    assert (hanging["pid"], after["pid"]) == (before["pid"], before["pid"])
    assert (hanging["restarts"], after["restarts"]) == (0, 0)


async def test_a_request_that_nobody_else_can_serve_waits_for_the_restart(
    tiny_models: Mapping[str, Path],
) -> None:
    """Right after a kill -9 it has failed; the last candidate is waited for, an earlier one is not."""
    async with Fleet([launched("ours", tiny_models["light"])], PROBES) as fleet:
        os.kill(report_of(fleet, "ours")["pid"], signal.SIGKILL)
        await until(lambda: report_of(fleet, "ours")["state"] == "failed")
        waits: list[str] = []
        with await fleet.ensure_ready("ours", left_s=60, last=False, on_wait=lambda: waits.append("first")):
            pass
        with await fleet.ensure_ready("ours", left_s=60, last=True, on_wait=lambda: waits.append("last")):
            back = report_of(fleet, "ours")
    assert waits == ["last"]
    assert (back["state"], back["restarts"]) == ("ready", 1)


async def test_an_engine_that_never_came_up_is_not_waited_for(tmp_path: Path) -> None:
    """Its requests fail at once, whatever time they have."""
    async with Fleet([launched("missing", tmp_path / "none.gguf")], PROBES) as fleet:
        waits: list[str] = []
        with await fleet.ensure_ready("missing", left_s=60, last=True, on_wait=lambda: waits.append("it")):
            state = report_of(fleet, "missing")["state"]
    assert (waits, state) == ([], "failed")
