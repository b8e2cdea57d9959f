"""What both translations to chat completions share: tools, text, arguments, and the refusal of the rest."""

import json
from collections.abc import Mapping
from typing import Any

from trivet.domain.errors import EngineIncapable

HINT = "An engine that speaks the protocol itself takes it as it is, as vLLM does."


def beyond(what: str, param: str) -> EngineIncapable:
    """Return the refusal of what no chat completion can say; another candidate may."""
    return EngineIncapable(f"{what} cannot be said in a chat completion.", hint=HINT, param=param)


def function_tool(tool: Mapping[str, Any], schema: str) -> dict[str, Any]:
    """Return a tool as a chat completion names it; its JSON schema stands under `schema`."""
    named = {"name": tool["name"], "description": tool.get("description"), "parameters": tool.get(schema)}
    named["strict"] = tool.get("strict")
    return {"type": "function", "function": {key: value for key, value in named.items() if value is not None}}


def call_of(call_id: Any, name: Any, arguments: str) -> dict[str, Any]:
    """Return a tool's call as a chat completion's message carries it."""
    return {"id": str(call_id), "type": "function", "function": {"name": str(name), "arguments": arguments}}


def with_calls(messages: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    """Add a model's calls to its last message, or to one of their own."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).extend(calls)


def content_of(parts: list[dict[str, Any]]) -> Any:
    """Return parts as content: one text as a plain string, as engines and templates like it best."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def text_part(text: Any) -> dict[str, Any]:
    """Return a part of text."""
    return {"type": "text", "text": str(text)}


def image_part(url: str) -> dict[str, Any]:
    """Return a part that is a picture, by its data: URL."""
    return {"type": "image_url", "image_url": {"url": url}}


def only_choice(document: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the message of a whole chat completion, and why it ended."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    message = choice.get("message") if isinstance(choice, dict) else None
    return (message if isinstance(message, dict) else {}), choice.get("finish_reason")


def calls_in(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tools' calls of a message or of a delta, those that are such."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def delta_of(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a chunk adds to a choice."""
    delta = choice.get("delta")
    return delta if isinstance(delta, dict) else {}


def function_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name and arguments of a tool's call, as far as they have come."""
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def thoughts_in(message: Mapping[str, Any]) -> str:
    """Return what a model thought, by either of the names that engines give it."""
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def parsed_arguments(arguments: Any) -> dict[str, Any]:
    """Return a call's arguments as an object; an empty one where a cap cut them short."""
    try:
        parsed = json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def event(name: str, fields: Mapping[str, Any]) -> bytes:
    """Return a named event with its type."""
    text = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()
