"""One deployment's endpoint: attached or launched, watched, and lent to requests."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import structlog

from trivet.config.settings import FleetSettings, LaunchSettings
from trivet.domain.decisions import Offer
from trivet.domain.errors import ConfigError, EngineUnavailable
from trivet.domain.tiers import Deployment
from trivet.engines.connect import open_transport
from trivet.engines.llamacpp import server_command
from trivet.engines.probe import probe
from trivet.engines.protocol import Health, Transport
from trivet.engines.served import match_model
from trivet.fleet.child import Child, free_port

log = structlog.get_logger(__name__)

START_POLL_S = 0.05
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
STEADY_AFTER_S = 30.0


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

    States: `loading`, `ready`, `down`. They are advice for routing; a request finds the truth itself.
    """

    def __init__(self, plan: EndpointPlan, settings: FleetSettings, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._settings = settings
        self._session = session
        self._deployment = plan.deployment
        self._transport: Transport | None = None
        self._child: Child | None = None
        self._health = Health("loading" if plan.launch else "down", "not probed yet")
        self._in_flight = 0
        self._restarts = 0

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
        if self._transport is None:
            raise EngineUnavailable(f"{self._deployment.name} is not running: {self._health.detail}.")
        self._in_flight += 1
        try:
            yield self._transport
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
        """Launch the engine if it is ours, and probe it once."""
        if self._plan.launch is not None:
            await self._launch(self._plan.launch)
        else:
            await self._connect(self._deployment)
            await self._probe()

    async def watch(self) -> None:
        """Keep the state true until cancelled: restart a launched engine, probe an attached one."""
        delay_s = RESTART_FIRST_S
        while True:
            if self._plan.launch is None:
                await asyncio.sleep(self._settings.probe_interval_s)
                await self._probe()
                continue
            started = asyncio.get_running_loop().time()
            if self._child is not None and self._child.alive:
                status = await self._child.wait()
                self._health = Health("down", self._death_notice(status))
                log.warning("engine.died", deployment=self._deployment.name, status=status)
            if asyncio.get_running_loop().time() - started > STEADY_AFTER_S:
                delay_s = RESTART_FIRST_S
            await asyncio.sleep(delay_s)
            delay_s = min(RESTART_MAX_S, delay_s * 2)
            self._restarts += 1
            await self._launch(self._plan.launch)

    async def close(self) -> None:
        """Close the transport and end a launched engine."""
        if self._transport is not None:
            await self._transport.aclose()
        if self._child is not None:
            await self._child.stop()

    async def _launch(self, launch: LaunchSettings) -> None:
        if self._child is not None:
            await self._child.stop()
        port = free_port()
        deployment = replace(self._deployment, url=f"http://127.0.0.1:{port}")
        self._health = Health("loading", "starting")
        self._child = await Child.start(server_command(deployment, launch, port))
        await self._connect(deployment)
        deadline = asyncio.get_running_loop().time() + launch.start_timeout_s
        while self._child.alive and asyncio.get_running_loop().time() < deadline:
            await self._probe()
            if self._health.ready:
                log.info("engine.ready", deployment=deployment.name, pid=self._child.pid, url=deployment.url)
                return
            self._health = Health("loading", "starting")
            await asyncio.sleep(START_POLL_S)
        if self._child.alive:
            await self._child.stop()
            self._health = Health("down", f"not ready within {launch.start_timeout_s:g} s")
        else:
            self._health = Health("down", self._death_notice(await self._child.wait()))

    def _death_notice(self, status: int) -> str:
        words = self._child.last_words() if self._child else ""
        return f"exited with status {status}" + (f": {words}" if words else "")

    async def _connect(self, deployment: Deployment) -> None:
        if self._transport is not None:
            await self._transport.aclose()
        self._deployment = deployment
        self._transport = open_transport(deployment, session=self._session, api_key=self._plan.api_key)

    async def _probe(self) -> None:
        health = await probe(self._plan_view(), session=self._session, api_key=self._plan.api_key)
        if health.ready and health.models:
            health = await self._adopt(health)
        if health.state != self._health.state:
            log.info(
                "engine.state", deployment=self._deployment.name, state=health.state, detail=health.detail
            )
        self._health = health

    def _plan_view(self) -> Deployment:
        # Probing asks for the configured name; what the engine calls it may differ and may change.
        return replace(self._deployment, model=self._plan.deployment.model)

    async def _adopt(self, health: Health) -> Health:
        """Take the engine's own name and window for the model, where it differs from the plan's."""
        if self._deployment.engine not in ("vllm", "llamacpp"):
            return health
        try:
            served = match_model(self._plan.deployment.model, health.models)
        except ConfigError as error:
            return Health("down", str(error), health.models)
        context_tokens = self._plan.deployment.context_tokens
        if served.context_tokens:
            pinned = self._plan.context_pinned
            context_tokens = min(context_tokens, served.context_tokens) if pinned else served.context_tokens
        adopted = replace(self._deployment, model=served.name, context_tokens=context_tokens)
        if adopted != self._deployment:
            await self._connect(adopted)
        return health
