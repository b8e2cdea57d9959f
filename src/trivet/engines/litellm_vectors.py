"""Embeddings through LiteLLM: Ollama's native `/api/embed`, and every provider that LiteLLM knows."""

import base64
import json
import struct
from typing import Any

from trivet.domain.errors import EngineIncapable
from trivet.domain.tiers import Deployment
from trivet.engines.addresses import server_url
from trivet.engines.answers import PlainReply
from trivet.engines.litellm_request import KEEP_ALIVE
from trivet.engines.protocol import EngineCall
from trivet.engines.vectors_wire import plain_vectors


def embedding_arguments(deployment: Deployment, call: EngineCall) -> dict[str, Any]:
    """Return the keyword arguments of LiteLLM's call that the request stands for.

    Raises:
        EngineIncapable: Ollama is asked for what its API has no word for.
    """
    told = call.body["input"]
    arguments: dict[str, Any] = {"input": [told] if isinstance(told, str) else told}
    if call.body.get("dimensions") is not None:
        arguments["dimensions"] = call.body["dimensions"]
    model = str(call.body.get("model") or deployment.model)
    if deployment.engine != "ollama":
        url = {} if deployment.url is None or deployment.engine != "litellm" else {"api_base": deployment.url}
        name = model if deployment.engine == "litellm" else f"openai/{model}"
        return arguments | url | {"model": name}
    if not all(isinstance(each, str) for each in arguments["input"]):
        raise EngineIncapable("Ollama cannot be given tokens.", hint="Send text.", param="input")
    return arguments | {
        "model": f"ollama/{model}",
        "api_base": server_url(deployment.url or ""),
        # By default Ollama cuts a text that is too long and says nothing; so it answers 400 instead.
        "truncate": False,
        # Always the same: another value makes Ollama load the model anew.
        "num_ctx": deployment.context_tokens,
        "keep_alive": KEEP_ALIVE if deployment.keep_alive is None else deployment.keep_alive,
    }


def vectors_reply(response: Any, call: EngineCall) -> PlainReply:
    """Return what LiteLLM answered as OpenAI's document, with vectors in the form that was asked for.

    Raises:
        EngineError: it holds no vectors.
    """
    document = response.model_dump(mode="json", exclude_none=True)
    document["model"] = call.body.get("model")
    usage = document.get("usage")
    # LiteLLM fills zeros in where an engine reported nothing.
    if isinstance(usage, dict) and usage.get("prompt_tokens"):
        tokens = usage["prompt_tokens"]
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    else:
        document.pop("usage", None)
    if call.body.get("encoding_format") == "base64":
        for each in document.get("data") or ():
            if isinstance(each.get("embedding"), list):
                each["embedding"] = _packed(each["embedding"])
    return plain_vectors(json.dumps(document, separators=(",", ":")).encode())


def _packed(vector: list[float]) -> str:
    """Return a vector as OpenAI packs it: little-endian 32-bit floats in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
