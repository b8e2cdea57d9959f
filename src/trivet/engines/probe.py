"""Ask an engine, cheaply, whether it can take requests and what it serves."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp

from trivet.domain.engine_states import EngineState
from trivet.domain.tiers import Deployment
from trivet.engines.addresses import api_url, server_url
from trivet.engines.answers import read_body
from trivet.engines.faults import fault_from_exception, message_in
from trivet.engines.protocol import Health, ServedModel

ANSWER_LIMIT_BYTES = 4 * 1024 * 1024


async def probe(
    deployment: Deployment,
    *,
    session: aiohttp.ClientSession,
    api_key: str | None = None,
    timeout_s: float = 2.0,
) -> Health:
    """Return what was found; a failure is a Health with state `down` and a sentence on what to do."""
    if deployment.engine == "litellm":
        return Health(EngineState.READY, "Not probed: LiteLLM's providers have no common health check.")
    if deployment.url is None:
        return Health(EngineState.DOWN, f"Deployment {deployment.name} has no URL: set `url`.")
    asker = _Asker(session, server_url(deployment.url), api_key)
    try:
        async with asyncio.timeout(timeout_s):
            if deployment.engine == "ollama":
                return await _probe_ollama(deployment, asker)
            return await _probe_openai(deployment, asker)
    except TimeoutError:
        return Health(EngineState.DOWN, f"{asker.url} did not answer within {timeout_s:g} s.")
    except aiohttp.InvalidURL:
        return Health(EngineState.DOWN, f"{deployment.url} is not an HTTP URL: set the deployment's `url`.")
    except (aiohttp.ClientError, OSError) as error:
        fault = fault_from_exception(error, answered=False)
        return Health(EngineState.DOWN, f"{asker.url}: {fault} {_how_to_start(deployment)}")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    def document(self) -> Any:
        """Return the JSON object, or an empty one where the body is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


@dataclass(frozen=True, slots=True)
class _Asker:
    session: aiohttp.ClientSession
    url: str
    api_key: str | None

    async def get(self, url: str) -> _Answer:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        async with self.session.get(url, headers=headers, allow_redirects=False) as response:
            body = await read_body(response, ANSWER_LIMIT_BYTES)
            return _Answer(response.status, body or b"")


async def _probe_openai(deployment: Deployment, asker: _Asker) -> Health:
    if deployment.engine in ("vllm", "llamacpp"):
        health = await asker.get(f"{asker.url}/health")
        if health.status == 503 and "loading" in message_in(health.body).lower():
            return Health(EngineState.LOADING, f"{asker.url} is still loading its model.")
        if health.status != 200:
            return Health(
                EngineState.DOWN,
                f"{asker.url}/health answered {health.status}: restart the engine, see its log.",
                # vLLM's one reason is EngineDeadError (entrypoints/serve/instrumentator/health.py, v0.32.0).
                broken=deployment.engine == "vllm" and health.status == 503,
            )
    answer = await asker.get(api_url(asker.url, "models"))
    if answer.status in (401, 403):
        return Health(
            EngineState.DOWN,
            f"{asker.url} refuses the API key ({answer.status}): set the deployment's `api_key`.",
        )
    if answer.status == 404 and deployment.engine == "openai":
        return Health(EngineState.READY, f"{asker.url} does not list its models.")
    listed = answer.document().get("data")
    if answer.status != 200 or not isinstance(listed, list):
        return Health(
            EngineState.DOWN,
            f"{asker.url} answered {answer.status} to /v1/models: is it an OpenAI-compatible server?",
        )
    models = tuple(
        _served(entry) for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    )
    return Health(EngineState.READY, models=models)


def _served(entry: dict[str, Any]) -> ServedModel:
    # vLLM says max_model_len; llama.cpp says meta.n_ctx, of one slot.
    meta = entry.get("meta")
    context_tokens = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    usable = isinstance(context_tokens, int) and not isinstance(context_tokens, bool) and context_tokens > 0
    return ServedModel(entry["id"], context_tokens if usable else None)


async def _probe_ollama(deployment: Deployment, asker: _Asker) -> Health:
    version = await asker.get(f"{asker.url}/api/version")
    if version.status != 200 or "version" not in version.document():
        return Health(
            EngineState.DOWN,
            f"{asker.url} answered {version.status} to /api/version: is it an Ollama server?",
        )
    tags = await asker.get(f"{asker.url}/api/tags")
    listed = tags.document().get("models")
    if tags.status != 200 or not isinstance(listed, list):
        return Health(
            EngineState.DOWN, f"{asker.url} answered {tags.status} to /api/tags: {message_in(tags.body)}"
        )
    names = [
        entry["name"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    ]
    models = tuple(ServedModel(name) for name in names)
    wanted = deployment.model if ":" in deployment.model else f"{deployment.model}:latest"
    if wanted.lower() not in (name.lower() for name in names):
        hint = f"ollama pull {deployment.model}"
        missing = f"{asker.url} does not have {deployment.model}: run `{hint}`."
        return Health(EngineState.DOWN, missing, models, model_missing=True)
    return Health(EngineState.READY, models=models)


def _how_to_start(deployment: Deployment) -> str:
    if deployment.engine == "ollama":
        return "Start it with `ollama serve`, or set OLLAMA_HOST."
    if deployment.engine == "vllm":
        return "Start it with `vllm serve`, or set VLLM_BASE_URL."
    return "Start it, or set the deployment's `url`."
