"""OpenAI's responses said as a chat completion, and what comes back said as a response.

For engines that do not speak responses: everything behind LiteLLM, and servers without that route. Why not by
LiteLLM's own translation: see `messages_as_chat`.
"""

import time
from typing import Any

from trivet.domain.outcomes import Usage
from trivet.engines.as_chat import (
    beyond,
    call_of,
    calls_in,
    content_of,
    function_of,
    function_tool,
    image_part,
    only_choice,
    text_part,
    thoughts_in,
    with_calls,
)

_OWN = frozenset(
    {
        *("input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "store"),
        *("metadata", "truncation", "include", "prompt_cache_key", "safety_identifier", "service_tier"),
        *("user", "background", "max_tool_calls", "top_logprobs", "stream_options"),
    }
)
"""The protocol's fields, said otherwise, or hints that chat completions have no word for."""
_TEXTS = frozenset({"input_text", "output_text", "text"})


def chat_of_responses(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of the chat completion that a checked request for a response stands for.

    Raises:
        EngineIncapable: a part of it cannot be said; nothing that matters is dropped.
    """
    if body.get("top_logprobs") or "message.output_text.logprobs" in (body.get("include") or ()):
        raise beyond("Log-probabilities of a response", "top_logprobs")
    chat = {name: value for name, value in body.items() if name not in _OWN}
    chat["messages"] = _messages(body)
    chat["max_tokens"] = body["max_output_tokens"]
    if body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise beyond("This tool_choice", "tool_choice")
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice is not None:
        chat["tool_choice"] = choice
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "schema", "strict", "description") if name in form}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        chat["response_format"] = {"type": "json_object"}
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    return chat


def response_of(
    chat: dict[str, Any], usage: Usage | None, body: dict[str, Any], *, response_id: str
) -> dict[str, Any]:
    """Return a whole chat completion as the response to a body."""
    said, finish = only_choice(chat)
    items: list[dict[str, Any]] = []
    if thoughts_in(said):
        items.append(reasoning_item(f"rs_{response_id}", thoughts_in(said)))
    if said.get("content"):
        items.append(message_item(f"msg_{response_id}", said["content"]))
    for position, call in enumerate(calls_in(said)):
        function = function_of(call)
        item_id, told = f"fc_{response_id}_{position}", (function.get("name"), function.get("arguments"))
        items.append(call_item(item_id, call.get("id"), *told))
    envelope = envelope_of(body, response_id, chat.get("model"))
    return envelope | end_of(finish) | {"output": items, "usage": usage_as_told(usage)}


def envelope_of(body: dict[str, Any], response_id: str, model: Any) -> dict[str, Any]:
    """Return a response that has not ended: what was asked, and nothing said yet."""
    return {
        "id": f"resp_{response_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": str(model or body.get("model") or ""),
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": body.get("reasoning"),
        "store": False,
        "temperature": body.get("temperature"),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "usage": None,
    }


def end_of(finish: str | None) -> dict[str, Any]:
    """Return how a response ended that a chat completion ended so."""
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = reasons.get(str(finish))
    if reason is None:
        return {"status": "completed", "incomplete_details": None}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def message_item(item_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """Return what the model said as an item."""
    item = {"id": item_id, "type": "message", "role": "assistant", "status": status}
    return {**item, "content": [text_content(text)] if text else []}


def text_content(text: str) -> dict[str, Any]:
    """Return a piece of an item's content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(item_id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """Return what the model thought as an item."""
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(
    item_id: str, call_id: Any, name: Any, arguments: Any, status: str = "completed"
) -> dict[str, Any]:
    """Return a tool's call as an item."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": str(call_id or ""),
        "name": str(name or ""),
        "arguments": str(arguments or ""),
        "status": status,
    }


def usage_as_told(usage: Usage | None) -> dict[str, Any] | None:
    """Return usage in the terms of responses."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    told = body["input"]
    for item in [{"role": "user", "content": told}] if isinstance(told, str) else told:
        kind = item.get("type", "message")
        if kind == "message":
            # Templates know no developers.
            role = "system" if item["role"] == "developer" else item["role"]
            messages.append({"role": role, "content": _content(item.get("content"))})
        elif kind == "function_call":
            arguments = str(item.get("arguments") or "{}")
            with_calls(messages, [call_of(item.get("call_id"), item.get("name"), arguments)])
        elif kind == "function_call_output":
            output = {"tool_call_id": str(item.get("call_id")), "content": _content(item.get("output"))}
            messages.append({"role": "tool", **output})
        elif kind != "reasoning":  # what it thought does not come back
            raise beyond(f"An item of type {kind[:40]}", "input")
    return messages


def _content(content: Any) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    return content_of([_part(part) for part in content])


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    if kind in _TEXTS and isinstance(part.get("text"), str):
        return text_part(part["text"])
    if kind == "refusal":
        return text_part(part.get("refusal"))
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return image_part(part["image_url"])
    raise beyond(f"A part of type {kind[:40]}", "input")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        raise beyond(f"A tool of type {tool['type'][:40]}", "tools")
    return function_tool(tool, "parameters")
