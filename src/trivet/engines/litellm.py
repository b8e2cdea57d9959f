"""The way to an engine through LiteLLM: Ollama's native API, and every provider that LiteLLM knows.

Importing this module imports nothing of LiteLLM: that takes seconds, so the first call does it, in a thread.
"""

import asyncio
import importlib
import os
from typing import Any

from trivet.domain.errors import ConfigError, EngineTimeout
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment
from trivet.engines.answers import plain_reply
from trivet.engines.litellm_events import plain_body
from trivet.engines.litellm_faults import engine_faults
from trivet.engines.litellm_request import request_arguments
from trivet.engines.litellm_stream import LiteLLMStream
from trivet.engines.litellm_vectors import embedding_arguments, vectors_reply
from trivet.engines.protocol import EngineCall, Reply
from trivet.engines.translated import TRANSLATED, translate

LIBRARY = "trivet.engines.litellm_client"
BACKSTOP_S = 5.0
"""How much longer than the deadline LiteLLM itself may wait, so that our own limit is what ends a call."""


class LiteLLMTransport:
    """The way to one deployment. Opens its connections at the first call and closes them in `aclose`."""

    def __init__(self, deployment: Deployment, *, api_key: str | None) -> None:
        """Take the deployment and the key that goes to its engine.

        Raises:
            ConfigError: the engine needs a URL and the deployment has none.
        """
        if deployment.url is None and deployment.engine != "litellm":
            raise ConfigError(
                f"Deployment {deployment.name!r} has no URL.",
                hint=f"Set `url` to where {deployment.engine} listens.",
                param="url",
            )
        self._deployment = deployment
        self._api_key = api_key
        self._client: Any = None
        self._opening = asyncio.Lock()

    async def chat(self, call: EngineCall) -> Reply:
        """Dispatch; a streamed reply is returned once its first content, or its finish, has been read.

        Raises:
            EngineError: nothing was generated that the caller could have seen; see `domain.errors`.
        """
        if call.surface in TRANSLATED:
            return await translate(call, self.chat)
        if call.surface is Surface.EMBEDDINGS:
            return await self._embed(call)
        arguments = request_arguments(self._deployment, call)
        started_s = asyncio.get_running_loop().time()
        deadline_s = started_s + call.limits.total_s
        first_by_s = min(deadline_s, started_s + call.limits.first_content_s) if call.stream else deadline_s
        try:
            async with asyncio.timeout_at(first_by_s):
                return await self._dispatch(call, arguments, deadline_s)
        except TimeoutError as error:
            raise EngineTimeout("The engine did not answer in time.") from error

    async def aclose(self) -> None:
        """Close the connections; a later call would open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _embed(self, call: EngineCall) -> Reply:
        arguments = embedding_arguments(self._deployment, call)
        try:
            async with asyncio.timeout(call.limits.total_s):
                client = await self._opened()
                client.connect_s = call.limits.connect_s
                with engine_faults(answered=False):
                    answer = await client.embed(**arguments, timeout=call.limits.total_s + BACKSTOP_S)
        except TimeoutError as error:
            raise EngineTimeout("The engine did not answer in time.") from error
        return vectors_reply(answer, call)

    async def _dispatch(self, call: EngineCall, arguments: dict[str, Any], deadline_s: float) -> Reply:
        client = await self._opened()
        client.connect_s = call.limits.connect_s
        with engine_faults(answered=False):
            answer = await client.complete(
                **arguments,
                timeout=call.limits.total_s + BACKSTOP_S,
                extra_headers={"X-Request-Id": call.request_id},
            )
        model = str(call.body.get("model") or self._deployment.model)
        if not call.stream:
            return plain_reply(plain_body(answer, model=model))
        stream = LiteLLMStream(answer, model=model, deadline_s=deadline_s, idle_s=call.limits.idle_s)
        try:
            await stream.open()
        except BaseException:
            # Also when cancelled: closing is what makes the engine stop.
            await stream.aclose()
            raise
        return stream

    async def _opened(self) -> Any:
        async with self._opening:
            if self._client is None:
                library = await asyncio.to_thread(load_library)
                self._client = library.LiteLLMClient(self._deployment, api_key=self._api_key)
        return self._client


def load_library() -> Any:
    """Import LiteLLM and return the module that owns it; blocks for seconds the first time.

    LiteLLM reads its price map from the package: without the first variable it phones home while imported.
    Without the second it looks for secrets in each error, in the event loop: seconds for a megabyte.
    Trivet logs none of its texts, and shows of one a few hundred characters without addresses.
    """
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_DISABLE_REDACT_SECRETS"] = "true"
    return importlib.import_module(LIBRARY)
