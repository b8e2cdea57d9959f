"""How the members of a swap group come into memory and leave it, by engine."""

import contextlib

import aiohttp
import structlog

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineError, EngineUnavailable
from trivet.engines.protocol import Health
from trivet.engines.vllm_sleep import VllmSleep
from trivet.fleet.endpoint import Endpoint
from trivet.fleet.ollama_keeper import OllamaKeeper
from trivet.fleet.seat import Resident

log = structlog.get_logger(__name__)

START_WAIT_S = 3600.0
"""A launched engine has a start-up limit of its own; this only bounds what should not happen."""
GUESSED_S = {
    ("vllm", EngineState.ABSENT): 90.0,
    ("vllm", EngineState.SLEEPING): 3.0,
    ("ollama", EngineState.ABSENT): 10.0,
    ("llamacpp", EngineState.ABSENT): 5.0,
}
"""Before the first time is measured: a 7-billion-parameter model from a local disk, roughly. vLLM's project
names 30 to 100 s for a reload and seconds for a wake-up (its blog on sleep mode, October 2025)."""


class _Member:
    """What all kinds share."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        return self._endpoint.deployment.name

    @property
    def slots(self) -> int:
        """Return how many requests run at once."""
        return self._endpoint.deployment.slots

    @property
    def warms_up(self) -> bool:
        """Tell whether it sleeps between its turns, so that the first one should be had early."""
        return self._endpoint.is_launched and self._endpoint.deployment.engine == "vllm"

    @property
    def obstacle(self) -> str:
        """Return why it cannot be brought now: another's server is down, or has no such model (yet)."""
        health = self._endpoint.standing.health
        if self._endpoint.is_launched or health.state not in (EngineState.DOWN, EngineState.PULLING):
            return ""
        return health.detail or str(health.state)

    @property
    def is_lost(self) -> bool:
        """Tell whether a member that went to sleep has died since."""
        return self._endpoint.is_launched and not self._endpoint.is_running

    def expected_s(self, state: EngineState) -> float:
        """Return a first guess of how long coming into memory takes."""
        return GUESSED_S.get((self._endpoint.deployment.engine, state), 30.0)


class LaunchedMember(_Member):
    """An engine that Trivet starts and stops."""

    async def find(self) -> EngineState:
        """Adopt the engine that an earlier Trivet left, if there is one that is still meant."""
        if not self._endpoint.left_running:
            await self._endpoint.end_leftover()
            return EngineState.ABSENT
        await self.bring()
        return EngineState.READY

    async def bring(self) -> None:
        """Start it."""
        endpoint = self._endpoint
        endpoint.turn.grant()
        endpoint.show(Health(EngineState.LOADING, "Its turn has come."))
        await endpoint.standing.settled(self.name, START_WAIT_S)
        health = endpoint.standing.health
        if not health.ready:
            # It is not to be tried again before its next turn, which another may have first.
            await endpoint.end_turn(EngineState.ABSENT)
            raise EngineUnavailable(f"{self.name} did not start: {health.detail}")

    async def release(self) -> EngineState:
        """Stop it."""
        await self._endpoint.end_turn(EngineState.ABSENT)
        return EngineState.ABSENT


class SleepingMember(LaunchedMember):
    """A vLLM server, launched or attached, that sleeps between its turns."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, level: int) -> None:
        super().__init__(endpoint)
        self._session = session
        self._level = level

    async def find(self) -> EngineState:
        """Ask a server that runs whether it sleeps."""
        if self._endpoint.is_launched and await super().find() is EngineState.ABSENT:
            return EngineState.ABSENT
        if not await self._sleep().is_sleeping():
            return EngineState.READY
        await self._endpoint.end_turn(EngineState.SLEEPING)
        return EngineState.SLEEPING

    async def bring(self) -> None:
        """Wake it if it runs, else start it."""
        if self._endpoint.is_launched and not self._endpoint.is_running:
            await super().bring()
            return
        try:
            await self._sleep().wake(self._level)
        except EngineError:
            if self._endpoint.is_launched:
                # Nobody knows how much memory it took.
                await super().release()
            raise
        self._endpoint.turn.grant()
        await self._endpoint.look()

    async def release(self) -> EngineState:
        """Let it sleep. One of ours that does not is stopped; another's that is gone holds nothing."""
        try:
            await self._sleep().sleep(self._level)
        except EngineError as error:
            log.warning("engine.sleepless", deployment=self.name, error=str(error))
            if self._endpoint.is_launched:
                return await super().release()
            if not isinstance(error, EngineUnavailable):
                raise
        await self._endpoint.end_turn(EngineState.SLEEPING)
        return EngineState.SLEEPING

    def _sleep(self) -> VllmSleep:
        deployment = self._endpoint.deployment
        if deployment.url is None:
            raise EngineUnavailable(f"{self.name} has no address yet.")
        return VllmSleep(deployment.url, session=self._session, api_key=self._endpoint.api_key)


class OllamaMember(_Member):
    """A model that Ollama loads and unloads."""

    async def find(self) -> EngineState:
        """Ask Ollama what it holds."""
        if await self._keeper.model.in_memory():
            return EngineState.READY
        await self._endpoint.end_turn(EngineState.ABSENT)
        return EngineState.ABSENT

    async def bring(self) -> None:
        """Let Ollama load it. What is missing was downloaded before: that takes no memory, and long."""
        deployment = await self._keeper.know(self._endpoint.deployment)
        await self._keeper.model.load(deployment.context_tokens)
        self._endpoint.turn.grant()
        await self._endpoint.look()

    async def release(self) -> EngineState:
        """Let Ollama unload it."""
        # Of an Ollama that is gone nothing is left in memory.
        with contextlib.suppress(EngineUnavailable):
            await self._keeper.model.unload()
        await self._endpoint.end_turn(EngineState.ABSENT)
        return EngineState.ABSENT

    @property
    def _keeper(self) -> OllamaKeeper:
        if self._endpoint.ollama is None:
            raise EngineUnavailable(f"{self.name} was not reached yet.")
        return self._endpoint.ollama


def member_of(endpoint: Endpoint, session: aiohttp.ClientSession, *, sleep_level: int) -> Resident:
    """Return the endpoint as a member of its swap group."""
    match endpoint.deployment.engine:
        case "ollama":
            return OllamaMember(endpoint)
        case "vllm":
            return SleepingMember(endpoint, session, sleep_level)
        case _:
            return LaunchedMember(endpoint)
