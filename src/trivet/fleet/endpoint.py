"""One deployment's endpoint: attached or launched, watched, and lent to requests."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from trivet.config.settings import FleetSettings
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState, out_of_service
from trivet.domain.errors import EngineUnavailable
from trivet.domain.tiers import Deployment
from trivet.engines.connect import open_transport
from trivet.engines.launch import LaunchPlan
from trivet.engines.probe import probe
from trivet.engines.protocol import Health
from trivet.fleet.adoption import adopt_served
from trivet.fleet.attached_memory import AttachedMemory
from trivet.fleet.engine_room import EngineRoom, LoadingTurns
from trivet.fleet.launcher import Launcher
from trivet.fleet.lending import Lease, Lender
from trivet.fleet.observed import in_gib
from trivet.fleet.ollama_keeper import OllamaKeeper
from trivet.fleet.ollama_model import open_ollama_model
from trivet.fleet.plan import EndpointPlan
from trivet.fleet.standing import Standing
from trivet.fleet.turn import Turn

__all__ = ["Endpoint", "EndpointPlan"]

log = structlog.get_logger(__name__)

START_POLL_S = 0.05
LONG_START_POLL_S = 0.5
"""How often an engine that takes more than a few seconds is asked."""
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
FAILED_START_MAX_S = 300.0
"""The longest pause after a start that came to nothing: the next is likely to, and reads all files again."""
STEADY_AFTER_S = 30.0
MISSES_TO_FAILED = 3


class Endpoint:
    """Watches one engine endpoint and holds the transport to it.

    Its states are those of `EngineState`: advice for routing; a request finds the truth itself.
    """

    def __init__(
        self,
        plan: EndpointPlan,
        settings: FleetSettings,
        session: aiohttp.ClientSession,
        room: EngineRoom | None = None,
    ) -> None:
        """Take the plan and, where it launches an engine, the room of launched engines."""
        self._plan = plan
        self._settings = settings
        self._session = session
        self._deployment = plan.deployment
        self._lender = Lender(plan.deployment.name)
        self.takes_turns = plan.deployment.swap_group is not None
        """Whether it shares its memory with others, so that its model may have to be brought first."""
        self._turns = room.turns if room is not None else LoadingTurns()
        self._launcher: Launcher | None = None
        if plan.launch is not None and room is not None:
            self._launcher = Launcher(plan, plan.launch, room)
        self.turn = Turn(launched=self._launcher is not None)
        if self.takes_turns and self._launcher is not None:
            self.turn.take(EngineState.ABSENT)
        self.ollama: OllamaKeeper | None = None
        """Of a model in Ollama that Trivet drives, once the endpoint has begun."""
        self._found = Health(EngineState.ABSENT)
        self.standing = Standing(
            Health(EngineState.ABSENT, "not started yet" if plan.launch else "not probed yet")
        )
        """The endpoint's state, to be waited for."""
        self._memory = AttachedMemory(plan, session)
        self._offer: Offer | None = None
        """The last one, while it stays as it was."""
        self._restarts = 0
        self._came_up = False
        self.settled = asyncio.Event()
        """Set once it has a first state: a launched engine is ready or has failed, another was probed."""
        self._out_of_service = out_of_service(launched=plan.launch is not None)

    @property
    def deployment(self) -> Deployment:
        """Return the deployment with what the engine reported filled in."""
        return self._deployment

    @property
    def is_there(self) -> bool:
        """Tell whether its model is not to be waited for; else `Fleet.ensure_ready` comes first."""
        return not (self.standing.is_coming or self.takes_turns)

    def offer(self) -> Offer:
        """Return the endpoint as routing sees it; of one that is ready nothing but the requests changes."""
        offer, in_flight = self._offer, self._lender.in_flight
        if offer is None or offer.in_flight != in_flight:
            health = self.standing.health
            offer = Offer(self._deployment, health.state, in_flight, self.standing.wait_s)
            self._offer = offer if health.ready else None
        return offer

    def lease(self) -> Lease:
        """Lend the transport for one attempt, counting it as in flight.

        Raises:
            EngineUnavailable: the engine has no address yet (it is still starting, or failed to).
        """
        lease = self._lender.lend()
        if lease is None:
            raise EngineUnavailable(f"{self._deployment.name} is not running: {self._health.detail}.")
        return lease

    def report(self) -> dict[str, Any]:
        """Return the endpoint as the API shows it."""
        d = self._deployment
        observed = self._launcher.observed if self._launcher else self._memory.seen
        return {
            "name": d.name,
            "tier": d.tier.name,
            "model": d.model,
            "engine": d.engine,
            "transport": d.transport,
            "state": self._health.state,
            "detail": self._health.detail,
            "url": d.url,
            "pid": self._launcher.pid if self._launcher else None,
            "log": str(self._launcher.log_path) if self._launcher else None,
            "launched": self._plan.launch is not None,
            "restarts": self._restarts,
            "in_flight": self._lender.in_flight,
            "context_tokens": d.context_tokens,
            "slots": d.slots,
            "devices": list(d.devices),
            "predicted": self._plan.predicted,
            "actual": in_gib(observed) if observed is not None else None,
        }

    @property
    def api_key(self) -> str | None:
        """Return the secret to send to the engine."""
        return self._plan.api_key

    @property
    def is_launched(self) -> bool:
        """Tell whether Trivet runs the engine."""
        return self._launcher is not None

    @property
    def is_running(self) -> bool:
        """Tell whether an engine that Trivet runs has a process."""
        return self._launcher is not None and self._launcher.pid is not None

    @property
    def left_running(self) -> bool:
        """Tell whether an earlier Trivet left an engine that can be adopted."""
        return self._launcher is not None and self._launcher.may_adopt

    @property
    def starts_soon(self) -> bool:
        """Tell whether its first state is worth waiting for. vLLM takes minutes; requests wait better."""
        return self._launcher is None or self._deployment.engine != "vllm"

    async def watch(self) -> None:
        """Bring the engine up and keep the state true until cancelled; restart the engine if it is ours.

        Nothing that fails ends the watch: it becomes the state, and is tried again after a growing pause.
        """
        loop = asyncio.get_running_loop()
        pause_s = RESTART_FIRST_S
        while True:
            await self.turn.may_run()
            self._came_up = False
            begun = await self._survives(self._begin())
            self.settled.set()
            started_s = loop.time()
            if begun:
                await self._survives(self._accompany())
            if self.turn.is_over():
                self.show(Health(EngineState.ABSENT))
                continue
            if loop.time() - started_s > STEADY_AFTER_S:
                pause_s = RESTART_FIRST_S
            if self._came_up and self._launcher is not None:
                self.standing.expect_back()
            await self.turn.pause(pause_s)
            longest_s = RESTART_MAX_S if self._launcher is None or self._came_up else FAILED_START_MAX_S
            pause_s = min(longest_s, pause_s * 2)
            if self._launcher is not None:
                self._restarts += 1

    async def look(self) -> None:
        """Probe the engine and show what is found."""
        self.show(await self._find_health())

    async def end_leftover(self) -> None:
        """End an engine that an earlier Trivet left and that is not to be adopted: its memory is wanted."""
        if self._launcher is not None and self._launcher.child is None:
            await self._launcher.stop()

    async def end_turn(self, state: EngineState) -> None:
        """Let it be out of memory, `sleeping` or `absent`; an absent engine of ours has ended on return."""
        self.turn.take(state)
        if self._launcher is not None and state is EngineState.ABSENT:
            while not self.turn.stopped.is_set():
                if self._launcher.is_begun:
                    await self._launcher.stop()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.turn.stopped.wait(), START_POLL_S)
        if self._health.state not in (EngineState.DOWN, EngineState.PULLING):
            self.show(Health(EngineState.READY))  # as which it is shown: `Turn.seen`

    async def close(self) -> None:
        """Close the transports, used or not, and end a launched engine."""
        try:
            await self._lender.aclose()
            if self.ollama is not None:
                await self.ollama.model.aclose()
        finally:
            if self._launcher is not None:
                await self._launcher.close()

    @property
    def _health(self) -> Health:
        return self.standing.health

    @_health.setter
    def _health(self, health: Health) -> None:
        self.standing.show(self.turn.seen(health))
        self._offer = None

    async def _survives(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do the work and tell whether it ended well; what it raises becomes the state."""
        # Whatever it is, also a fault of ours: an endpoint must neither end its watch nor the fleet.
        fault: BaseException | None = (await asyncio.gather(work, return_exceptions=True))[0]
        if fault is None:
            return True
        self._health = Health(self._out_of_service, f"{type(fault).__name__}: {fault}")
        log.error("engine.failed", deployment=self._deployment.name, error=str(fault), exc_info=fault)
        return False

    async def _begin(self) -> None:
        if self._launcher is not None:
            await self._launch(self._launcher)
        else:
            self._connect(self._deployment)
            if self.ollama is None and (model := open_ollama_model(self._plan)) is not None:
                self.ollama = OllamaKeeper(model, self._find_health, self.show, self._replace, self._turns)
            await self.look()

    async def _accompany(self) -> None:
        """Probe until a launched engine dies, or for ever."""
        child = self._launcher.child if self._launcher is not None else None
        if self._launcher is None or child is None:
            while True:
                if self.ollama is not None:
                    await self.ollama.keep(self._found, self._deployment)
                await self._memory.look(self._health, self.ollama.model if self.ollama else None)
                await asyncio.sleep(self._settings.probe_interval_s)
                await self.look()
        if self._health.ready:
            await self._survives(self._launcher.observe(self._deployment.context_tokens))
        death = asyncio.create_task(child.wait())
        try:
            while not (await asyncio.wait({death}, timeout=self._settings.probe_interval_s))[0]:
                # A fault of ours in here is no reason to stop an engine that runs.
                await self._survives(self._check_launched())
        finally:
            death.cancel()
        if not self._health.broken:
            self.show(Health(EngineState.FAILED, _death_notice(death.result(), child.last_words())))
        log.warning("engine.died", deployment=self._deployment.name, status=death.result())

    async def _check_launched(self) -> None:
        """Probe an engine that runs. One that is busy may miss a probe; one that hangs misses them all."""
        health = await self._find_health()
        if health.ready:
            self._lender.misses = 0
            self.show(health)
            return
        if health.broken and self._launcher is not None:
            # It will not come back by itself: end what is left of it, and it is started again.
            self.show(replace(health, state=EngineState.FAILED))
            await self._launcher.stop()
            return
        self._lender.misses += 1
        if self._lender.misses >= MISSES_TO_FAILED:
            # Not killed: a hang looks like very hard work, and what it has begun may yet be answered.
            detail = f"It runs but does not answer: {health.detail}"
            self.show(replace(health, state=EngineState.FAILED, detail=detail))

    async def _launch(self, launcher: Launcher) -> None:
        """Adopt or start the engine; return when it is ready, or has failed to become so."""
        self._lender.misses = 0
        planned = launcher.adopt()
        if planned is not None and not await self._serves_the_model(planned):
            await launcher.stop()
            planned = None
        if planned is None:
            self.show(Health(EngineState.LOADING, "starting, or waiting until another engine has started"))
            planned = await launcher.start()
        self._connect(replace(self._deployment, url=planned.url))
        try:
            await self._load(launcher, planned)
        finally:
            launcher.end_loading()

    async def _load(self, launcher: Launcher, planned: LaunchPlan) -> None:
        child = launcher.child
        assert child is not None  # noqa: S101 - it has just been started or adopted
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while child.alive and (waited_s := loop.time() - started_s) < planned.start_timeout_s:
            health = await self._find_health()
            if health.ready:
                self._came_up = True
                self._health = health
                log.info("engine.ready", deployment=self._deployment.name, pid=child.pid, url=planned.url)
                return
            if waited_s > 1.0:
                self._health = Health(EngineState.LOADING, f"loading: {child.last_words()}")
            await asyncio.sleep(START_POLL_S if waited_s < 5.0 else LONG_START_POLL_S)
        if child.alive:
            words = child.last_words()
            await launcher.stop()
            self.show(
                Health(EngineState.FAILED, f"not ready within {planned.start_timeout_s:g} s, at: {words}")
            )
        else:
            self.show(Health(EngineState.FAILED, _death_notice(await child.wait(), child.last_words())))

    async def _serves_the_model(self, planned: LaunchPlan) -> bool:
        """Tell whether an engine that was left to itself serves the model; one that still loads will."""
        there = replace(self._plan.deployment, url=planned.url)
        health = await probe(there, session=self._session, api_key=self._plan.api_key)
        return not health.models or there.model in [model.name for model in health.models]

    def _connect(self, deployment: Deployment) -> None:
        """Lend a new transport from now on; the former one is closed when its last attempt ends."""
        self._lender.replace(open_transport(deployment, session=self._session, api_key=self._plan.api_key))
        self._deployment = deployment
        self._offer = None

    def _replace(self, deployment: Deployment) -> None:
        if deployment != self._deployment:
            self._connect(deployment)

    async def _find_health(self) -> Health:
        health = await probe(self._plan_view(), session=self._session, api_key=self._plan.api_key)
        self._found = health
        if not (health.ready and health.models):
            return health
        adopted, health = adopt_served(self._plan, self._deployment, health)
        self._replace(adopted)
        return health

    def show(self, health: Health) -> None:
        """Show a new health; a change of state is logged."""
        health = self.turn.seen(health)
        if health.state != self._health.state:
            log.info(
                "engine.state",
                deployment=self._deployment.name,
                state=str(health.state),
                detail=health.detail,
            )
        self._health = health

    def _plan_view(self) -> Deployment:
        # Probing asks for the configured name; what the engine calls it may differ and may change.
        return replace(self._deployment, model=self._plan.deployment.model)


def _death_notice(status: int | None, words: str) -> str:
    notice = "exited" if status is None else f"exited with status {status}"
    return notice + (f": {words}" if words else "")
