"""Has an endpoint's Ollama model downloaded, known, and in memory."""

import asyncio
from collections.abc import Awaitable, Callable

from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineUnavailable
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import Health
from trivet.fleet.engine_room import LoadingTurns
from trivet.fleet.ollama_model import OllamaModel


class OllamaKeeper:
    """Keeps one model; an endpoint calls `keep` after each probe, a swap group says when it is in memory."""

    def __init__(
        self,
        model: OllamaModel,
        find_health: Callable[[], Awaitable[Health]],
        show: Callable[[Health], None],
        adopt: Callable[[Deployment], None],
        turns: LoadingTurns,
    ) -> None:
        """Take the model, how its server is probed, how a state is shown, how a deployment is replaced.

        And whose turn it is to load on a GPU: a preloaded model must not disturb a vLLM that measures it.
        """
        self.model = model
        self._find_health = find_health
        self._show = show
        self._adopt = adopt
        self._turns = turns
        self._fetching = asyncio.Lock()
        self._kept = False

    async def keep(self, found: Health, deployment: Deployment) -> None:
        """Do what is to be done once in the life of its server: download, adopt, load.

        Raises:
            EngineError: it could not be done; it is tried again when this is called again.
        """
        if found.model_missing and self.model.pulls:
            found = await self.fetch_if_missing()
        if not found.ready:
            self._kept = False
        if self._kept or not found.ready:
            return
        deployment = await self.know(deployment)
        end_turn = await self._turns.acquire_if_free(deployment.devices) if self.model.preloads else None
        if end_turn is not None:
            try:
                self._show(Health(EngineState.LOADING, "Ollama loads it into memory."))
                await self.model.load(deployment.context_tokens)
            finally:
                end_turn()
        self._show(await self._find_health())
        # While an engine loads on its GPU, Ollama answers, and loads when it is asked; this is tried again.
        self._kept = not self.model.preloads or end_turn is not None

    async def know(self, deployment: Deployment) -> Deployment:
        """Adopt what Ollama says of the model; before it is loaded, since its window may be lowered."""
        deployment = await self.model.adopted(deployment)
        self._adopt(deployment)
        return deployment

    async def fetch_if_missing(self) -> Health:
        """See to it that Ollama has the model.

        Raises:
            EngineUnavailable: it does not answer, or has not got it and may not download it.
            EngineError: the download failed.
        """
        async with self._fetching:
            found = await self._find_health()
            if found.model_missing and self.model.pulls:
                await self.model.fetch(self._show)
                found = await self._find_health()
        if not found.ready:
            self._show(found)
            raise EngineUnavailable(found.detail)
        return found
