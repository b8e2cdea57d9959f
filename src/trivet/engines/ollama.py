"""Drive an Ollama server: what it has, what it holds in memory, fetch, load and unload models."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from ollama import AsyncClient, GenerateResponse, ProgressResponse, ResponseError

from trivet.domain.errors import EngineBroken, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from trivet.engines.addresses import server_url
from trivet.engines.faults import clean_message, fault_from_status
from trivet.engines.litellm_request import OLLAMA_NEVER_CUTS
from trivet.engines.protocol import ServedModel

ANSWER_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 300.0
"""Ollama's own limit on loading a model."""
PULL_SILENCE_S = 120.0
"""Between two lines of progress; Ollama sends several a second while data flows."""

_START_HINT = "Start it with `ollama serve`, or set OLLAMA_HOST."
_PULL_HINT = "Look the name up in Ollama's library, tag included."
_REGISTRY_HINT = "The machine that runs Ollama must reach Ollama's registry; try `ollama pull` there."


@dataclass(frozen=True, slots=True)
class ShownModel:
    """What Ollama says of one installed model."""

    context_tokens: int | None
    """The window the model was made for; what is really used is set per load."""
    capabilities: frozenset[str]
    """Ollama's words: completion, tools, vision, thinking, insert, embedding."""
    parameter_size: str | None
    quantisation: str | None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is in memory now."""

    name: str
    size_bytes: int
    vram_bytes: int
    """The part of it that lies on GPUs: 0 on a CPU."""
    context_tokens: int | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One line of a download's progress; the byte counts are of one layer."""

    status: str
    completed: int | None = None
    total: int | None = None


class OllamaAdmin:
    """Asks and tells one Ollama server. Every call raises EngineErrors, and nothing of the driver's."""

    def __init__(self, url: str) -> None:
        """Take the server's base URL; nothing is sent yet."""
        # The environment's proxies do not stand before the operator's own machine.
        self._client = _Client(host=server_url(url), follow_redirects=False, trust_env=False)

    async def show(self, model: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> ShownModel:
        """Return what Ollama knows of an installed model.

        Raises:
            EngineRejected: it is not installed.
        """
        with _engine_faults(model):
            async with asyncio.timeout(timeout_s):
                shown = await self._client.show(model)
        facts = shown.modelinfo or {}
        lengths = [value for name, value in facts.items() if name.endswith(".context_length")]
        details = shown.details
        return ShownModel(
            context_tokens=_count(lengths[0]) if lengths else None,
            capabilities=frozenset(shown.capabilities or ()),
            parameter_size=details.parameter_size if details else None,
            quantisation=details.quantization_level if details else None,
        )

    async def loaded(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[LoadedModel]:
        """Return the models in memory, the one that stays longest first.

        Raises:
            EngineTimeout: no answer in time; Ollama does not answer this while it loads a model.
        """
        with _engine_faults():
            async with asyncio.timeout(timeout_s):
                processes = await self._client.ps()
        return [
            LoadedModel(
                name=process.name or process.model or "",
                size_bytes=int(process.size or 0),
                vram_bytes=int(process.size_vram or 0),
                context_tokens=_count(process.context_length),
                expires_at=process.expires_at,
            )
            for process in processes.models
        ]

    async def models(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[ServedModel]:
        """Return the installed models; their context windows are told by `show`."""
        with _engine_faults():
            async with asyncio.timeout(timeout_s):
                listed = await self._client.list()
        return [ServedModel(entry.model) for entry in listed.models if entry.model]

    async def pull(self, model: str, *, silence_s: float = PULL_SILENCE_S) -> AsyncIterator[PullProgress]:
        """Download a model, yielding progress; closing the iterator cancels, a new pull resumes.

        Raises:
            EngineRejected: there is no such model.
            EngineBroken: the download failed, or ended without success.
            EngineTimeout: no progress for `silence_s`.
        """
        status = ""
        with _engine_faults(model):
            lines = cast(
                "AsyncGenerator[ProgressResponse, None]", await self._client.pull(model, stream=True)
            )
            # Closing is what tells Ollama to stop downloading.
            async with aclosing(lines):
                while True:
                    async with asyncio.timeout(silence_s):
                        line = await anext(lines, None)
                    if line is None:
                        break
                    status = line.status or ""
                    yield PullProgress(status, _count(line.completed), _count(line.total))
        if status != "success":
            raise EngineBroken(
                f"The download of {model} ended at {status!r}.", hint="Pull again: it resumes."
            )

    async def preload(
        self,
        model: str,
        context_tokens: int,
        keep_alive: str | float,
        *,
        timeout_s: float = LOAD_TIMEOUT_S,
    ) -> None:
        """Load a model and return when it is in memory.

        Args:
            model: an installed model.
            context_tokens: its window; a request with another one makes Ollama load it anew. (So does
                another value of `shift`; this sends the one that chats carry.)
            keep_alive: seconds, or a duration such as `30m`; negative for ever.
            timeout_s: Ollama itself gives up after five minutes by default.
        """
        with _engine_faults(model):
            async with asyncio.timeout(timeout_s):
                await self._client.load(
                    {
                        "model": model,
                        "prompt": "",
                        "stream": False,
                        "keep_alive": keep_alive,
                        "options": {"num_ctx": context_tokens},
                        **OLLAMA_NEVER_CUTS,
                    }
                )

    async def unload(self, model: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Ask for a model to be taken out of memory; it leaves once its running requests have ended."""
        with _engine_faults(model):
            async with asyncio.timeout(timeout_s):
                await self._client.generate(model, prompt="", keep_alive=0)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]


class _Client(AsyncClient):
    async def load(self, body: dict[str, Any]) -> None:
        # The client's own `generate` cannot say `shift`.
        await self._request(GenerateResponse, "POST", "/api/generate", json=body)


@contextmanager
def _engine_faults(model: str | None = None) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except ResponseError as error:
        raise _fault_from_response(error, model) from error
    except TimeoutError as error:
        raise EngineTimeout("Ollama did not answer in time.") from error
    except Exception as error:
        # The client lets its parser's exceptions through, its HTTP library's, for streams ConnectError too.
        kind = type(error).__name__
        if isinstance(error, ConnectionError) or kind in ("ConnectError", "ConnectTimeout"):
            raise EngineUnavailable("Nobody answers at Ollama's address.", hint=_START_HINT) from error
        raise EngineBroken(f"Ollama's answer broke off or is not Ollama's ({kind}).") from error


def _fault_from_response(error: ResponseError, model: str | None) -> EngineError:
    words = clean_message(error.error)
    if error.status_code == 404:
        hint = f"Run `ollama pull {model}`." if model else "Is this an Ollama server?"
        return EngineRejected(f"Ollama refused: {words}", status=404, hint=hint)
    if error.status_code > 0:
        return fault_from_status(error.status_code, error.error)
    # An error line inside a 200 answer.
    if "file does not exist" in error.error:
        return EngineRejected(f"There is no model {model!r}: {words}", status=200, hint=_PULL_HINT)
    return EngineBroken(f"Ollama failed: {words}", status=200, hint=_REGISTRY_HINT)


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
