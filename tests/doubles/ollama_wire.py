"""Ollama's native chat protocol and OpenAI's, translated both ways for the Ollama stand-in."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

FOR_EVER = timedelta(days=292 * 365)
DEFAULT_KEEP_ALIVE = "5m"

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}


def keep_alive_s(value: Any) -> float:
    """Return a keep_alive in seconds (a number, or a Go duration as text); negative means for ever."""
    if value is None:
        value = DEFAULT_KEEP_ALIVE
    if isinstance(value, int | float):
        return float(value)
    sign = -1.0 if value.startswith("-") else 1.0
    return sign * sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION.findall(value))


def timestamp(at: datetime | None = None) -> str:
    """Return an instant as Go writes it: RFC 3339 with nanoseconds."""
    at = at or datetime.now(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond:06d}123+00:00"


def openai_request(body: dict[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
    """Return the OpenAI body that an /api/chat body stands for."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [_openai_message(message) for message in body.get("messages") or ()],
        "stream": stream,
    }
    if stream:
        request["stream_options"] = {"include_usage": True}
    options = body.get("options") or {}
    for theirs, ours in _OPTIONS.items():
        if theirs in options and not (theirs == "num_predict" and options[theirs] < 0):
            request[ours] = options[theirs]
    for name in ("tools", "logprobs", "top_logprobs"):
        if body.get(name):
            request[name] = body[name]
    if body.get("format") == "json":
        request["response_format"] = {"type": "json_object"}
    elif isinstance(body.get("format"), dict):
        schema = {"name": "answer", "schema": body["format"]}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    return request


def message_of(openai_message: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAI message or delta as an Ollama message."""
    message: dict[str, Any] = {"role": "assistant", "content": openai_message.get("content") or ""}
    thinking = openai_message.get("reasoning_content")
    if thinking:
        message["thinking"] = thinking
    calls = openai_message.get("tool_calls")
    if calls:
        message["tool_calls"] = [
            {
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.loads(call["function"].get("arguments") or "{}"),
                }
            }
            for call in calls
        ]
    return message


def logprobs_of(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the field `logprobs` of an Ollama chunk; nothing where the choice has none."""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    if not tokens:
        return {}
    return {"logprobs": [_logprob(token) | {"top_logprobs": _tops(token)} for token in tokens]}


def ending(document: dict[str, Any], finish_reason: str | None, load_ns: int) -> dict[str, Any]:
    """Return the fields of the last line: durations in nanoseconds, zero values left out as Go does."""
    usage = document.get("usage") or {}
    timings = document.get("timings") or {}
    prompt_ns = int(timings.get("prompt_ms", 0) * 1e6)
    eval_ns = int(timings.get("predicted_ms", 0) * 1e6)
    counts = {
        "total_duration": load_ns + prompt_ns + eval_ns,
        "load_duration": load_ns,
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": prompt_ns,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": eval_ns,
    }
    reason = "length" if finish_reason == "length" else "stop"
    return {"done": True, "done_reason": reason} | {name: count for name, count in counts.items() if count}


def _openai_message(message: dict[str, Any]) -> dict[str, Any]:
    content: Any = message.get("content") or ""
    images = message.get("images") or ()
    if images:
        content = [{"type": "text", "text": content}]
        content += [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images
        ]
    translated: dict[str, Any] = {"role": message["role"], "content": content}
    calls = message.get("tool_calls")
    if calls:
        translated["tool_calls"] = [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"].get("arguments") or {}),
                },
            }
            for index, call in enumerate(calls)
        ]
    return translated


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    return {"token": token["token"], "logprob": token["logprob"], "bytes": token.get("bytes")}


def _tops(token: dict[str, Any]) -> list[dict[str, Any]]:
    return [_logprob(top) for top in token.get("top_logprobs") or ()]
