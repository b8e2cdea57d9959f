"""One deployment's endpoint: attached or launched, watched, and lent to requests."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import structlog

from trivet.config.settings import FleetSettings, LaunchSettings
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState, out_of_service
from trivet.domain.errors import ConfigError, EngineUnavailable
from trivet.domain.tiers import Deployment
from trivet.engines.connect import open_transport
from trivet.engines.llamacpp import server_command
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, Transport
from trivet.engines.served import match_model
from trivet.fleet.child import Child, free_port
from trivet.fleet.lending import LentTransport

log = structlog.get_logger(__name__)

START_POLL_S = 0.05
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
STEADY_AFTER_S = 30.0
MISSES_TO_FAILED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPlan:
    """What an endpoint is made from."""

    deployment: Deployment
    api_key: str | None = None
    launch: LaunchSettings | None = None
    context_pinned: bool = False
    """The operator set `context_tokens`; else the engine's own figure is taken."""


class Endpoint:
    """Watches one engine endpoint and holds the transport to it.

    Its states are those of `EngineState`: advice for routing; a request finds the truth itself.
    """

    def __init__(self, plan: EndpointPlan, settings: FleetSettings, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._settings = settings
        self._session = session
        self._deployment = plan.deployment
        self._lent: LentTransport | None = None
        self._retiring: dict[asyncio.Task[None], LentTransport] = {}
        self._child: Child | None = None
        self._health = Health(EngineState.ABSENT, "not started yet" if plan.launch else "not probed yet")
        self._in_flight = 0
        self._restarts = 0
        self._misses = 0
        self._begun = False
        self._out_of_service = out_of_service(launched=plan.launch is not None)

    @property
    def deployment(self) -> Deployment:
        """Return the deployment with what the engine reported filled in."""
        return self._deployment

    def offer(self) -> Offer:
        """Return the endpoint as routing sees it."""
        return Offer(self._deployment, self._health.state, self._in_flight)

    @contextlib.contextmanager
    def lease(self) -> Iterator[Transport]:
        """Lend the transport for one attempt, counting it as in flight.

        Raises:
            EngineUnavailable: the engine has no address yet (it is still starting, or failed to).
        """
        if self._lent is None:
            raise EngineUnavailable(f"{self._deployment.name} is not running: {self._health.detail}.")
        self._in_flight += 1
        try:
            with self._lent.held() as transport:
                yield transport
        finally:
            self._in_flight -= 1

    def report(self) -> dict[str, Any]:
        """Return the endpoint as the API shows it."""
        d = self._deployment
        return {
            "name": d.name,
            "tier": d.tier.name,
            "model": d.model,
            "engine": d.engine,
            "transport": d.transport,
            "state": self._health.state,
            "detail": self._health.detail,
            "url": d.url,
            "pid": self._child.pid if self._child and self._child.alive else None,
            "launched": self._plan.launch is not None,
            "restarts": self._restarts,
            "in_flight": self._in_flight,
            "context_tokens": d.context_tokens,
            "slots": d.slots,
            "devices": list(d.devices),
        }

    async def begin(self) -> None:
        """Launch the engine if it is ours, and probe it once. What fails is told by the state."""
        self._begun = await self._survives(self._begin())

    async def watch(self) -> None:
        """Keep the state true until cancelled: probe the engine, and restart it if it is ours and died.

        Nothing that fails ends the watch: it becomes the state, and is tried again after a growing pause.
        """
        loop = asyncio.get_running_loop()
        pause_s = RESTART_FIRST_S
        while True:
            started_s = loop.time()
            if self._begun:
                await self._survives(self._accompany())
            if loop.time() - started_s > STEADY_AFTER_S:
                pause_s = RESTART_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_MAX_S, pause_s * 2)
            if self._plan.launch is not None:
                self._restarts += 1
            await self.begin()

    async def close(self) -> None:
        """Close the transports, used or not, and end a launched engine."""
        try:
            for former in self._retiring.values():
                former.recall()
            await asyncio.gather(*self._retiring, return_exceptions=True)
            if self._lent is not None:
                await self._lent.aclose()
        finally:
            if self._child is not None:
                await self._child.stop()

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
        if self._plan.launch is not None:
            await self._launch(self._plan.launch)
        else:
            self._connect(self._deployment)
            self._show(await self._find_health())

    async def _accompany(self) -> None:
        """Probe until a launched engine dies, or for ever."""
        if self._child is None:
            while True:
                await asyncio.sleep(self._settings.probe_interval_s)
                self._show(await self._find_health())
        if not self._child.alive:
            return
        death = asyncio.create_task(self._child.wait())
        try:
            while not (await asyncio.wait({death}, timeout=self._settings.probe_interval_s))[0]:
                # A fault of ours in here is no reason to stop an engine that runs.
                await self._survives(self._check_launched())
        finally:
            death.cancel()
        status = death.result()
        self._health = Health(EngineState.FAILED, self._death_notice(status))
        log.warning("engine.died", deployment=self._deployment.name, status=status)

    async def _check_launched(self) -> None:
        """Probe an engine that runs. One that is busy may miss a probe; one that hangs misses them all."""
        health = await self._find_health()
        if health.ready:
            self._misses = 0
            self._show(health)
            return
        self._misses += 1
        if self._misses >= MISSES_TO_FAILED:
            # Not killed: a hang looks like very hard work, and what it has begun may yet be answered.
            detail = f"It runs but does not answer: {health.detail}"
            self._show(replace(health, state=EngineState.FAILED, detail=detail))

    async def _launch(self, launch: LaunchSettings) -> None:
        if self._child is not None:
            await self._child.stop()
        self._misses = 0
        port = free_port()
        deployment = replace(self._deployment, url=f"http://127.0.0.1:{port}")
        self._health = Health(EngineState.LOADING, "starting")
        self._child = await Child.start(server_command(deployment, launch, port))
        self._connect(deployment)
        deadline = asyncio.get_running_loop().time() + (launch.start_timeout_s or 60.0)
        while self._child.alive and asyncio.get_running_loop().time() < deadline:
            health = await self._find_health()
            if health.ready:
                self._health = health
                log.info("engine.ready", deployment=deployment.name, pid=self._child.pid, url=deployment.url)
                return
            await asyncio.sleep(START_POLL_S)
        if self._child.alive:
            await self._child.stop()
            self._health = Health(
                EngineState.FAILED, f"not ready within {launch.start_timeout_s or 60.0:g} s"
            )
        else:
            self._health = Health(EngineState.FAILED, self._death_notice(await self._child.wait()))

    def _death_notice(self, status: int) -> str:
        words = self._child.last_words() if self._child else ""
        return f"exited with status {status}" + (f": {words}" if words else "")

    def _connect(self, deployment: Deployment) -> None:
        """Lend a new transport from now on; the former one is closed when its last attempt ends."""
        transport = open_transport(deployment, session=self._session, api_key=self._plan.api_key)
        former, self._lent = self._lent, LentTransport(transport, self._note_answer)
        self._deployment = deployment
        if former is not None:
            task = asyncio.create_task(former.retire(), name=f"retire-{deployment.name}")
            self._retiring[task] = former
            task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.pop(task, None)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            log.warning("transport.not_closed", deployment=self._deployment.name, error=str(fault))

    def _note_answer(self) -> None:
        self._misses = 0

    async def _find_health(self) -> Health:
        health = await probe(self._plan_view(), session=self._session, api_key=self._plan.api_key)
        return self._adopt(health) if health.ready and health.models else health

    def _show(self, health: Health) -> None:
        if health.state != self._health.state:
            log.info(
                "engine.state", deployment=self._deployment.name, state=health.state, detail=health.detail
            )
        self._health = health

    def _plan_view(self) -> Deployment:
        # Probing asks for the configured name; what the engine calls it may differ and may change.
        return replace(self._deployment, model=self._plan.deployment.model)

    def _adopt(self, health: Health) -> Health:
        """Take the engine's own name and window for the model, where it differs from the plan's."""
        wanted = self._plan.deployment.model
        if self._deployment.engine in ("vllm", "llamacpp"):
            try:
                served = match_model(wanted, health.models)
            except ConfigError as error:
                return Health(self._out_of_service, str(error), health.models)
        elif self._deployment.engine == "openai" and wanted in (names := [m.name for m in health.models]):
            served = health.models[names.index(wanted)]
        else:
            return health
        context_tokens = self._plan.deployment.context_tokens
        if served.context_tokens:
            pinned = self._plan.context_pinned
            context_tokens = min(context_tokens, served.context_tokens) if pinned else served.context_tokens
        adopted = replace(self._deployment, model=served.name, context_tokens=context_tokens)
        if adopted != self._deployment:
            self._connect(adopted)
        # Whoever asked for one name and gets another shall see it.
        detail = health.detail if served.name == wanted else f"serves {served.name} for {wanted}"
        return replace(health, detail=detail)
