"""An attached vLLM, played by a small server, as a member of a swap group beside a real llama.cpp."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from tests.unit.fleet.test_fleet import deployment, report_of, until
from tests.unit.fleet.test_swapping import QUICK, ask, member
from trivet.domain.errors import EngineUnavailable
from trivet.fleet import Fleet
from trivet.fleet.endpoint import EndpointPlan


class PlayedVllm:
    """Answers its probe always, and to sleep and wake while it has these routes."""

    def __init__(self) -> None:
        self.can_sleep = True
        self.sleeps = False
        self.asked: list[str] = []
        self.url = ""
        self.runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listen, on a free port or on this one."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        self.runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def handle(self, request: web.Request) -> web.Response:
        """Answer the routes that Trivet asks for."""
        match request.path:
            case "/health":
                return web.Response()
            case "/v1/models":
                return web.json_response({"data": [{"id": "m", "max_model_len": 512}]})
            case "/sleep" | "/wake_up" | "/is_sleeping" if self.can_sleep:
                self.asked.append(request.path_qs)
                self.sleeps = {"/sleep": True, "/wake_up": False}.get(request.path, self.sleeps)
                return web.json_response({"is_sleeping": self.sleeps})
        return web.Response(status=404)


@pytest_asyncio.fixture
async def vllm() -> AsyncIterator[PlayedVllm]:
    """Give a running server."""
    found = PlayedVllm()
    await found.start()
    yield found
    if found.runner is not None:
        await found.runner.cleanup()


def plans(vllm: PlayedVllm, model: Path) -> list[EndpointPlan]:
    """Return the plans of the played server and of a launched llama.cpp, in one group."""
    attached = deployment("v", engine="vllm", model="m", url=vllm.url, swap_group="gpu")
    return [EndpointPlan(deployment=attached, context_pinned=True), member("a", model)]


async def turn_of(fleet: Fleet, name: str) -> str:
    """Wait for a member's turn, and return its state in it."""
    with await fleet.ensure_ready(name, left_s=60, last=True, on_wait=lambda: None):
        return str(report_of(fleet, name)["state"])


async def test_it_sleeps_between_its_turns(vllm: PlayedVllm, tiny_models: Mapping[str, Path]) -> None:
    """Found awake it stays; it sleeps for the other's turn, and is woken for its own."""
    async with Fleet(plans(vllm, tiny_models["light"]), QUICK) as fleet:
        states = [await turn_of(fleet, "v")]
        await ask(fleet, "a")
        states.append(report_of(fleet, "v")["state"])
        states.append(await turn_of(fleet, "v"))
    assert states == ["ready", "sleeping", "ready"]
    assert vllm.asked == ["/is_sleeping", "/sleep?level=1", "/wake_up"]


async def test_one_that_was_asleep_before_is_left_so(
    vllm: PlayedVllm, tiny_models: Mapping[str, Path]
) -> None:
    """Nobody is in memory, so the group's first member comes: it is woken, the other stays away."""
    vllm.sleeps = True
    async with Fleet(plans(vllm, tiny_models["light"]), QUICK) as fleet:
        states = [report["state"] for report in fleet.report()]
    assert states == ["ready", "absent"]
    assert vllm.asked == ["/is_sleeping", "/wake_up"]


async def test_one_that_cannot_sleep_is_told_how_it_could(
    vllm: PlayedVllm, tiny_models: Mapping[str, Path]
) -> None:
    """It is refused with what is missing, and the other member works."""
    vllm.can_sleep = False
    async with Fleet(plans(vllm, tiny_models["light"]), QUICK) as fleet:
        with pytest.raises(EngineUnavailable, match="--enable-sleep-mode"):
            await turn_of(fleet, "v")
        await ask(fleet, "a")
        detail = report_of(fleet, "v")["detail"]
    assert "VLLM_SERVER_DEV_MODE" in detail


async def test_one_that_refuses_to_sleep_keeps_its_turn(
    vllm: PlayedVllm, tiny_models: Mapping[str, Path]
) -> None:
    """It still holds its memory: who waits for the other is told, and nothing is loaded beside it."""
    async with Fleet(plans(vllm, tiny_models["light"]), QUICK) as fleet:
        vllm.can_sleep = False
        with pytest.raises(EngineUnavailable, match="v cannot be taken out of memory"):
            await turn_of(fleet, "a")
        states = [report["state"] for report in fleet.report()]
        pid = report_of(fleet, "a")["pid"]
        still = await turn_of(fleet, "v")
    assert (states, pid, still) == (["ready", "absent"], None, "ready")


async def test_nobody_makes_room_for_a_server_that_does_not_answer(
    vllm: PlayedVllm, tiny_models: Mapping[str, Path]
) -> None:
    """Its requests are refused at once and the resident stays; when it answers again, it has its turn."""
    assert vllm.runner is not None
    port = int(vllm.url.rpartition(":")[2])
    await vllm.runner.cleanup()
    async with Fleet(plans(vllm, tiny_models["light"])[::-1], QUICK) as fleet:
        with pytest.raises(EngineUnavailable, match="v cannot be loaded: http"):
            await turn_of(fleet, "v")
        gone = [report["state"] for report in fleet.report()]
        await vllm.start(port)
        await until(lambda: report_of(fleet, "v")["state"] != "down")
        back = await turn_of(fleet, "v")
    assert (gone, back) == (["ready", "down"], "ready")


async def test_one_that_is_gone_makes_room(vllm: PlayedVllm, tiny_models: Mapping[str, Path]) -> None:
    """Its server ended by itself, so nothing of it is in memory: the other one comes."""
    async with Fleet(plans(vllm, tiny_models["light"]), QUICK) as fleet:
        assert vllm.runner is not None
        await vllm.runner.cleanup()
        await ask(fleet, "a")
        here = report_of(fleet, "a")["state"]
    assert here == "ready"
