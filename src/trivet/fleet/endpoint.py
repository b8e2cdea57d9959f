"""One deployment's endpoint: attached or launched, watched, and lent to requests."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import structlog

from trivet.config.settings import FleetSettings
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState, out_of_service
from trivet.domain.errors import ConfigError, EngineUnavailable
from trivet.domain.tiers import Deployment
from trivet.engines.connect import open_transport
from trivet.engines.launch import LaunchPlan
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, Transport
from trivet.engines.served import match_model
from trivet.fleet.launcher import Launcher
from trivet.fleet.lending import LentTransport
from trivet.fleet.observed import Observations, in_gib
from trivet.fleet.plan import EndpointPlan
from trivet.fleet.records import EngineRecords
from trivet.fleet.standing import Standing

__all__ = ["Endpoint", "EndpointPlan"]

log = structlog.get_logger(__name__)

START_POLL_S = 0.05
LONG_START_POLL_S = 0.5
"""How often an engine that takes more than a few seconds is asked."""
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
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
        records: EngineRecords | None = None,
        observations: Observations | None = None,
    ) -> None:
        """Take the plan and, where it launches an engine, the records and observations of engines."""
        self._plan = plan
        self._settings = settings
        self._session = session
        self._deployment = plan.deployment
        self._lent: LentTransport | None = None
        self._retiring: dict[asyncio.Task[None], LentTransport] = {}
        self._launcher: Launcher | None = None
        if plan.launch is not None and records is not None and observations is not None:
            self._launcher = Launcher(plan, plan.launch, records, observations)
        self._standing = Standing(
            Health(EngineState.ABSENT, "not started yet" if plan.launch else "not probed yet")
        )
        self._in_flight = 0
        self._restarts = 0
        self._misses = 0
        self.settled = asyncio.Event()
        """Set once it has a first state: a launched engine is ready or has failed, another was probed."""
        self._out_of_service = out_of_service(launched=plan.launch is not None)

    @property
    def deployment(self) -> Deployment:
        """Return the deployment with what the engine reported filled in."""
        return self._deployment

    @property
    def standing(self) -> Standing:
        """Return the endpoint's state, to be waited for."""
        return self._standing

    def offer(self) -> Offer:
        """Return the endpoint as routing sees it."""
        return Offer(self._deployment, self._health.state, self._in_flight, self._standing.wait_s)

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
        observed = self._launcher.observed if self._launcher else None
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
            "launched": self._plan.launch is not None,
            "restarts": self._restarts,
            "in_flight": self._in_flight,
            "context_tokens": d.context_tokens,
            "slots": d.slots,
            "devices": list(d.devices),
            "predicted": self._plan.predicted,
            "actual": in_gib(observed) if observed is not None else None,
        }

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
            begun = await self._survives(self._begin())
            self.settled.set()
            started_s = loop.time()
            if begun:
                await self._survives(self._accompany())
            if loop.time() - started_s > STEADY_AFTER_S:
                pause_s = RESTART_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_MAX_S, pause_s * 2)
            if self._launcher is not None:
                self._restarts += 1

    async def close(self) -> None:
        """Close the transports, used or not, and end a launched engine."""
        try:
            for former in self._retiring.values():
                former.recall()
            await asyncio.gather(*self._retiring, return_exceptions=True)
            if self._lent is not None:
                await self._lent.aclose()
        finally:
            if self._launcher is not None:
                await self._launcher.close()

    @property
    def _health(self) -> Health:
        return self._standing.health

    @_health.setter
    def _health(self, health: Health) -> None:
        self._standing.show(health)

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
            self._show(await self._find_health())

    async def _accompany(self) -> None:
        """Probe until a launched engine dies, or for ever."""
        child = self._launcher.child if self._launcher is not None else None
        if self._launcher is None or child is None:
            while True:
                await asyncio.sleep(self._settings.probe_interval_s)
                self._show(await self._find_health())
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
            self._show(Health(EngineState.FAILED, _death_notice(death.result(), child.last_words())))
        log.warning("engine.died", deployment=self._deployment.name, status=death.result())

    async def _check_launched(self) -> None:
        """Probe an engine that runs. One that is busy may miss a probe; one that hangs misses them all."""
        health = await self._find_health()
        if health.ready:
            self._misses = 0
            self._show(health)
            return
        if health.broken and self._launcher is not None:
            # It will not come back by itself: end what is left of it, and it is started again.
            self._show(replace(health, state=EngineState.FAILED))
            await self._launcher.stop()
            return
        self._misses += 1
        if self._misses >= MISSES_TO_FAILED:
            # Not killed: a hang looks like very hard work, and what it has begun may yet be answered.
            detail = f"It runs but does not answer: {health.detail}"
            self._show(replace(health, state=EngineState.FAILED, detail=detail))

    async def _launch(self, launcher: Launcher) -> None:
        """Adopt or start the engine; return when it is ready, or has failed to become so."""
        self._misses = 0
        planned = launcher.adopt()
        if planned is not None and not await self._serves_the_model(planned):
            await launcher.stop()
            planned = None
        if planned is None:
            self._show(Health(EngineState.LOADING, "starting"))
            planned = await launcher.start()
        self._connect(replace(self._deployment, url=planned.url))
        await self._load(launcher, planned)

    async def _load(self, launcher: Launcher, planned: LaunchPlan) -> None:
        child = launcher.child
        assert child is not None  # noqa: S101 - it has just been started or adopted
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while child.alive and (waited_s := loop.time() - started_s) < planned.start_timeout_s:
            health = await self._find_health()
            if health.ready:
                self._health = health
                log.info("engine.ready", deployment=self._deployment.name, pid=child.pid, url=planned.url)
                return
            if waited_s > 1.0:
                self._health = Health(EngineState.LOADING, f"loading: {child.last_words()}")
            await asyncio.sleep(START_POLL_S if waited_s < 5.0 else LONG_START_POLL_S)
        if child.alive:
            words = child.last_words()
            await launcher.stop()
            self._show(
                Health(EngineState.FAILED, f"not ready within {planned.start_timeout_s:g} s, at: {words}")
            )
        else:
            self._show(Health(EngineState.FAILED, _death_notice(await child.wait(), child.last_words())))

    async def _serves_the_model(self, planned: LaunchPlan) -> bool:
        """Tell whether an engine that was left to itself serves the model; one that still loads will."""
        there = replace(self._plan.deployment, url=planned.url)
        health = await probe(there, session=self._session, api_key=self._plan.api_key)
        return not health.models or there.model in [model.name for model in health.models]

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


def _death_notice(status: int | None, words: str) -> str:
    notice = "exited" if status is None else f"exited with status {status}"
    return notice + (f": {words}" if words else "")
