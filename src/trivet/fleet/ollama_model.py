"""One model of an Ollama server that Trivet drives: fetched, loaded, unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from trivet.config.settings import OllamaSettings
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import EngineTimeout
from trivet.domain.surfaces import CHAT, EMBEDDINGS
from trivet.domain.tiers import Deployment
from trivet.engines.protocol import Health
from trivet.fleet.plan import EndpointPlan

log = structlog.get_logger(__name__)

UNLOAD_TIMEOUT_S = 60.0
UNLOAD_POLL_S = 0.1
PROGRESS_LOG_SHARE = 0.1
"""A line in the log for each tenth of a layer."""

if TYPE_CHECKING:
    # The ollama client costs a tenth of a second to import; most Trivets drive no Ollama.
    from trivet.engines.ollama import LoadedModel, OllamaAdmin, PullProgress, ShownModel

Show = Callable[[Health], None]


class OllamaModel:
    """Keeps a model installed and tells Ollama when to hold it in memory. Every call raises EngineErrors."""

    def __init__(
        self, deployment: Deployment, settings: OllamaSettings, admin: OllamaAdmin, *, pinned: bool
    ) -> None:
        """Take the deployment as configured; `pinned`: its capabilities were written by the operator."""
        self._deployment = deployment
        self._settings = settings
        self._admin = admin
        self._pinned = pinned

    @property
    def preloads(self) -> bool:
        """Tell whether it is loaded as soon as it is there; a swap group decides for itself."""
        return self._settings.preload and self._deployment.swap_group is None

    @property
    def pulls(self) -> bool:
        """Tell whether it is downloaded when it is missing."""
        return self._settings.pull == "missing"

    async def fetch(self, show: Show) -> None:
        """Let Ollama download the model, showing the progress; one that broke off is resumed.

        Raises:
            EngineRejected: there is no such model.
            EngineError: the download failed.
        """
        model = self._deployment.model
        log.info("ollama.pulling", model=model)
        last = (-1.0, "")
        async for line in self._admin.pull(model):
            show(Health(EngineState.PULLING, f"{model}: {_in_words(line)}"))
            reached = (_share(line), line.status)
            if reached[1] != last[1] or reached[0] >= last[0] + PROGRESS_LOG_SHARE:
                log.info("ollama.pull_progress", model=model, progress=_in_words(line))
                last = reached
        log.info("ollama.pulled", model=model)

    async def adopted(self, deployment: Deployment) -> Deployment:
        """Return the deployment with what Ollama says of the model: what it can do, its largest window."""
        shown = await self._admin.show(self._deployment.model)
        return adopt(deployment, shown, pinned=self._pinned)

    async def load(self, context_tokens: int) -> None:
        """Put it into memory with this window, or find it there; return when it answers."""
        await self._admin.preload(self._deployment.model, context_tokens, self._settings.keep_alive)

    async def in_memory(self) -> bool:
        """Tell whether Ollama holds it in memory."""
        return await self._loaded() is not None

    async def held_bytes(self) -> int | None:
        """Return what it takes of the GPUs' memory, or of the host's if it is on none; None if not loaded."""
        loaded = await self._loaded()
        return None if loaded is None else loaded.vram_bytes or loaded.size_bytes

    async def _loaded(self) -> LoadedModel | None:
        wanted = _with_tag(self._deployment.model)
        found = (loaded for loaded in await self._admin.loaded() if _with_tag(loaded.name) == wanted)
        return next(found, None)

    async def unload(self) -> None:
        """Take it out of memory; return when it has left.

        Raises:
            EngineTimeout: something still runs on it.
        """
        await self._admin.unload(self._deployment.model)
        try:
            async with asyncio.timeout(UNLOAD_TIMEOUT_S):
                while await self._may_hold():  # noqa: ASYNC110 - only Ollama knows
                    await asyncio.sleep(UNLOAD_POLL_S)
        except TimeoutError:
            raise EngineTimeout(
                f"Ollama still holds {self._deployment.model} after {UNLOAD_TIMEOUT_S:g} s.",
                hint="Another program may be using it: let its requests come through Trivet.",
            ) from None

    async def _may_hold(self) -> bool:
        try:
            return await self.in_memory()
        except EngineTimeout:  # it does not answer this while it loads another model
            return True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._admin.aclose()


def open_ollama_model(plan: EndpointPlan) -> OllamaModel | None:
    """Return the model that a plan drives; None where it drives none, or has no server to go to."""
    deployment = plan.deployment
    if plan.ollama is None or deployment.url is None:
        return None
    from trivet.engines.ollama import OllamaAdmin

    admin = OllamaAdmin(deployment.url)
    return OllamaModel(deployment, plan.ollama, admin, pinned=plan.capabilities_pinned)


def adopt(deployment: Deployment, shown: ShownModel, *, pinned: bool) -> Deployment:
    """Return a deployment as its model allows: capabilities unless pinned, a window that it was made for.

    `json_schema` is Ollama's own doing, whatever the model.
    """
    capabilities = deployment.capabilities
    if shown.capabilities and not pinned:
        told = shown.capabilities & {"tools", "vision", "thinking"}
        capabilities = told | (deployment.capabilities & {"json_schema", "logprobs"})
        if "embedding" in shown.capabilities:
            capabilities |= {EMBEDDINGS, CHAT} if "completion" in shown.capabilities else {EMBEDDINGS}
    context_tokens = min(deployment.context_tokens, shown.context_tokens or deployment.context_tokens)
    return replace(deployment, capabilities=frozenset(capabilities), context_tokens=context_tokens)


def _with_tag(name: str) -> str:
    return (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()


def _share(line: PullProgress) -> float:
    return (line.completed or 0) / line.total if line.total else 0.0


def _in_words(line: PullProgress) -> str:
    if not line.total:
        return line.status
    return f"{line.status}, {(line.completed or 0) / 1e6:.0f} of {line.total / 1e6:.0f} MB"
