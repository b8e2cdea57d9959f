"""What an engine that is not ours holds of memory, as far as it tells."""

import contextlib

import aiohttp

from trivet.domain.errors import EngineError
from trivet.domain.observations import MemoryObservation
from trivet.engines.protocol import Health
from trivet.engines.vllm_metrics import ask_cache
from trivet.fleet.ollama_model import OllamaModel
from trivet.fleet.plan import EndpointPlan


class AttachedMemory:
    """Asks once in the life of an engine: vLLM's /metrics for its cache, Ollama for its models in memory."""

    def __init__(self, plan: EndpointPlan, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._session = session
        self.seen: MemoryObservation | None = None

    async def look(self, health: Health, ollama: OllamaModel | None) -> None:
        """Ask a ready engine that has not told yet; forget what was told by one that is gone."""
        if not health.ready:
            self.seen = None
            return
        if self.seen is not None:
            return
        with contextlib.suppress(EngineError):
            if ollama is not None:
                held_bytes = await ollama.held_bytes()
                self.seen = MemoryObservation(total_bytes=held_bytes) if held_bytes else None
            elif self._plan.deployment.engine == "vllm" and self._plan.deployment.url is not None:
                told = await ask_cache(self._plan.deployment.url, self._session, self._plan.api_key)
                self.seen = None if told.empty else told
