"""Say an EngineCall in LiteLLM's arguments, field by field: nothing from a request steers LiteLLM itself.

LiteLLM's call takes addresses, keys, callbacks and mocks by keyword, so a body is never spread into it.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

from trivet.domain.errors import EngineIncapable, EngineRejected
from trivet.domain.tiers import Deployment
from trivet.engines.addresses import api_url, server_url
from trivet.engines.protocol import EngineCall

KEEP_ALIVE = "30m"
"""How long Ollama keeps a model loaded after a request; loading it again costs more than the memory."""

SAMPLING = ("temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens", "reasoning_effort")
OLLAMA_FIELDS = (*SAMPLING, "tools", "response_format")
OLLAMA_PARTS = frozenset({"text", "image_url"})
"""Types of content parts that reach Ollama; LiteLLM leaves the others out and says nothing."""

OLLAMA_OPTIONS = ("top_k", "min_p", "typical_p", "repeat_last_n", "repeat_penalty")
"""Options that Ollama takes without loading the model anew."""

OLLAMA_NEVER_CUTS = {"truncate": False, "shift": False}
"""Fields of Ollama's own requests. By default it drops the oldest messages of a prompt that is too long, and
the oldest tokens while it generates, and says nothing; so it answers 400 instead, or ends with `length`.
A model is loaded for one value of `shift`, and anew for another: every request must carry the same."""

PROVIDER_FIELDS = (
    *OLLAMA_FIELDS,
    *("n", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias"),
    *(
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "modalities",
        "audio",
        "prediction",
    ),
    *("verbosity", "thinking", "web_search_options", "service_tier", "prompt_cache_key", "top_k"),
)

# What `ollama_chat/` cannot say, with the values that mean nothing is asked for.
_BEYOND_OLLAMA: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),  # LiteLLM would send it as repeat_penalty, where 0 is no neutral value
    "logit_bias": (None, {}),
    "parallel_tool_calls": (None, True),
    "tool_choice": (None, "auto", "none"),
    "functions": (None, []),
    "function_call": (None, "auto", "none"),
}
_RELAY_HINT = "Leave it out, or reach the engine with `transport: relay`."


def request_arguments(deployment: Deployment, call: EngineCall) -> dict[str, Any]:
    """Return the keyword arguments of LiteLLM's call that the request stands for.

    Raises:
        EngineIncapable: the request asks for what cannot be passed on; nothing is dropped silently.
        EngineRejected: its messages are malformed.
    """
    model = str(call.body.get("model") or deployment.model)
    arguments: dict[str, Any] = {
        # LiteLLM rewrites messages in place.
        "messages": copy.deepcopy(call.body.get("messages", [])),
        "stream": call.stream,
    }
    if call.stream:
        if call.body.get("n") not in (None, 1):
            raise _beyond("n", "several answers in one stream")
        arguments["stream_options"] = {"include_usage": True}
    if deployment.engine == "ollama":
        return arguments | _for_ollama(deployment, call.body, model)
    if deployment.engine == "litellm":
        return arguments | _for_any_provider(deployment, call.body, model)
    named = ("model", "messages", "stream", "stream_options")
    return arguments | {
        # Not `hosted_vllm/`: it takes `[DONE]` for a finish, so that a stream cut short would look whole.
        "model": f"openai/{model}",
        "api_base": api_url(deployment.url or "", "").rstrip("/"),
        "extra_body": {name: value for name, value in call.body.items() if name not in named},
    }


def _for_ollama(deployment: Deployment, body: dict[str, Any], model: str) -> dict[str, Any]:
    for name, neutral in _BEYOND_OLLAMA.items():
        if body.get(name) not in neutral:
            raise _beyond(name, f"`{name}` to Ollama")
    _check_messages(body)
    for kind in _part_types(body):
        if kind not in OLLAMA_PARTS:
            raise EngineIncapable(f"Ollama cannot be given content of type {kind!a}.", param="messages")
    wanted = {name: body[name] for name in (*OLLAMA_FIELDS, *OLLAMA_OPTIONS) if body.get(name) is not None}
    if "none" in (body.get("tool_choice"), body.get("function_call")):
        wanted.pop("tools", None)
    return wanted | {
        "model": f"ollama_chat/{model}",
        "api_base": server_url(deployment.url or ""),
        # Always the same: another value makes Ollama load the model anew.
        "num_ctx": deployment.context_tokens,
        "keep_alive": KEEP_ALIVE if deployment.keep_alive is None else deployment.keep_alive,
        # LiteLLM puts what it does not know among Ollama's `options`, except for this.
        "extra_body": dict(OLLAMA_NEVER_CUTS),
    }


def _for_any_provider(deployment: Deployment, body: dict[str, Any], model: str) -> dict[str, Any]:
    _check_messages(body)
    wanted = {name: body[name] for name in PROVIDER_FIELDS if body.get(name) is not None}
    if deployment.url is not None:
        wanted["api_base"] = deployment.url
    return wanted | {"model": model}


def _check_messages(body: dict[str, Any]) -> None:
    # LiteLLM takes messages apart itself; what it stumbles over would look like the engine's failure.
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise _malformed("`messages` is not a list.")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _malformed("A message has no role.")
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                _check_part(part)
        elif content is not None and not isinstance(content, str):
            raise _malformed("A message's content is neither text nor a list of parts.")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(map(_is_tool_call, calls)):
            raise _malformed("The arguments of a tool call are not a JSON object.")


def _part_types(body: dict[str, Any]) -> Iterator[str]:
    for message in body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            yield str(part.get("type"))[:40]


def _check_part(part: Any) -> None:
    if not isinstance(part, dict):
        raise _malformed("A part of a message's content is not an object.")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if part.get("type") == "image_url" and not isinstance(url, str):
        raise _malformed("A part of type image_url has no URL.")
    if url is not None and not str(url).startswith("data:"):
        # For many providers LiteLLM fetches images itself: a tenant could make this machine ask any address.
        raise EngineIncapable(
            "This model cannot be given an image by its address.",
            hint="Send it as a data: URL.",
            param="messages",
        )


def _is_tool_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return False
    try:
        return isinstance(json.loads(function.get("arguments", "{}")), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _malformed(what: str) -> EngineRejected:
    return EngineRejected(what, param="messages")


def _beyond(name: str, what: str) -> EngineIncapable:
    return EngineIncapable(f"LiteLLM cannot pass on {what}.", hint=_RELAY_HINT, param=name)
