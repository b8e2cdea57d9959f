"""Anthropic's messages said as a chat completion, and what comes back said as a message.

For engines that do not speak messages: everything behind LiteLLM, and servers without that route. LiteLLM has
a translation of its own, but calls made through it have neither our session nor its limits and single try.
"""

import json
from collections.abc import Iterator
from typing import Any

from trivet.domain.outcomes import Usage
from trivet.engines.as_chat import (
    beyond,
    call_of,
    calls_in,
    content_of,
    delta_of,
    event,
    function_of,
    function_tool,
    image_part,
    only_choice,
    parsed_arguments,
    text_part,
    thoughts_in,
    with_calls,
)

_OWN = frozenset(
    {
        *("system", "messages", "stop_sequences", "tools", "tool_choice", "metadata", "thinking"),
        *("output_config", "output_format", "context_management", "service_tier", "cache_control"),
    }
)
"""Anthropic's fields, said otherwise. Hints that chat completions have no word for are left out: `thinking`,
`context_management`, `service_tier`, `cache_control`, and what `metadata` says of the user."""
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def chat_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of the chat completion that a checked request for messages stands for.

    Raises:
        EngineIncapable: a part of it cannot be said; nothing that matters is dropped.
    """
    chat = {name: value for name, value in body.items() if name not in _OWN}
    chat["messages"] = _messages(body)
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if body.get("tools"):
        chat["tools"] = [function_tool(tool, "input_schema") for tool in body["tools"]]
    choice = body.get("tool_choice") or {}
    if choice.get("type") == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice:
        chat["tool_choice"] = _CHOICES.get(choice["type"], "auto")
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    form = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    if form.get("type") == "json_schema":
        schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def message_of(chat: dict[str, Any], usage: Usage | None, *, message_id: str) -> dict[str, Any]:
    """Return a whole chat completion as a message."""
    said, finish = only_choice(chat)
    blocks: list[dict[str, Any]] = []
    if thoughts_in(said):
        blocks.append({"type": "thinking", "thinking": thoughts_in(said), "signature": ""})
    if said.get("content"):
        blocks.append({"type": "text", "text": said["content"]})
    for call in calls_in(said):
        function = function_of(call)
        block = _tool_use(call.get("id"), function.get("name"))
        blocks.append({**block, "input": parsed_arguments(function.get("arguments"))})
    head = _head(message_id, chat.get("model"))
    return {**head, "content": blocks, "stop_reason": _STOPS.get(str(finish)), "usage": usage_as_told(usage)}


class MessageWriter:
    """Writes the events of a message, while the chunks of a chat completion come."""

    def __init__(self, message_id: str) -> None:
        """Take the message's name."""
        self._id = message_id
        self._begun = False
        self._blocks = 0
        self._open: str | None = None
        """What the block that is being written holds: thinking, or text."""
        self._tools: dict[int, int] = {}
        """Blocks of the tools' calls, by the calls' index; all of them stay open."""
        self._stop: str | None = None

    def feed(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        """Yield the events that a chunk makes."""
        if not self._begun:
            self._begun = True
            head = {**_head(self._id, chunk.get("model")), "content": [], "stop_reason": None}
            yield event("message_start", {"message": {**head, "usage": usage_as_told(None)}})
        for choice in chunk.get("choices") or ():
            delta = delta_of(choice)
            yield from self._piece("thinking", thoughts_in(delta))
            yield from self._piece("text", delta.get("content") or "")
            for position, call in enumerate(calls_in(delta)):
                yield from self._call(call, call.get("index", position))
            if choice.get("finish_reason") is not None:
                self._stop = _STOPS.get(str(choice["finish_reason"]), "end_turn")

    def finish(self, usage: Usage | None) -> Iterator[bytes]:
        """Yield the events that end the message; `message_stop` is its deliverer's."""
        yield from self._close()
        for block in self._tools.values():
            yield event("content_block_stop", {"index": block})
        stop = {"stop_reason": self._stop, "stop_sequence": None}
        yield event("message_delta", {"delta": stop, "usage": usage_as_told(usage)})

    def _piece(self, kind: str, text: str) -> Iterator[bytes]:
        if not text:
            return
        if self._open != kind:
            yield from self._close()
            block = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
            yield event("content_block_start", {"index": self._blocks, "content_block": block})
            self._open = kind
        delta = {"type": f"{kind}_delta", kind: text}
        yield event("content_block_delta", {"index": self._blocks, "delta": delta})

    def _close(self) -> Iterator[bytes]:
        if self._open is not None:
            yield event("content_block_stop", {"index": self._blocks})
            self._blocks += 1
            self._open = None

    def _call(self, call: dict[str, Any], index: int) -> Iterator[bytes]:
        function = function_of(call)
        if index not in self._tools:
            yield from self._close()
            self._tools[index] = self._blocks
            block = {**_tool_use(call.get("id"), function.get("name")), "input": {}}
            yield event("content_block_start", {"index": self._blocks, "content_block": block})
            self._blocks += 1
        if function.get("arguments"):
            delta = {"type": "input_json_delta", "partial_json": function["arguments"]}
            yield event("content_block_delta", {"index": self._tools[index], "delta": delta})


def usage_as_told(usage: Usage | None) -> dict[str, Any]:
    """Return usage in Anthropic's terms, which count cached tokens of the prompt apart."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _head(message_id: str, model: Any) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": str(model or ""),
        "stop_sequence": None,
    }


def _tool_use(call_id: Any, name: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": str(call_id or ""), "name": str(name or "")}


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    system = body.get("system")
    if system:
        text = system if isinstance(system, str) else "\n".join(block["text"] for block in system)
        messages.append({"role": "system", "content": text})
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, str):
            messages.append({"role": message["role"], "content": content})
        elif message["role"] == "assistant":
            _add_said(messages, content)
        else:
            _add_told(messages, message["role"], content)
    if not messages:
        raise beyond("A conversation without any content", "messages")
    return messages


def _add_said(messages: list[dict[str, Any]], blocks: list[dict[str, Any]]) -> None:
    """Add what the model said before: text and calls; what it thought does not come back."""
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    calls = [
        call_of(block.get("id"), block["name"], json.dumps(block["input"]))
        for block in blocks
        if block["type"] == "tool_use"
    ]
    for block in blocks:
        if block["type"] not in {"text", "tool_use", *_THOUGHTS}:
            raise beyond(f"A block of type {block['type'][:40]}", "messages")
    messages.append({"role": "assistant", "content": "\n".join(texts) or None})
    if calls:
        with_calls(messages, calls)


def _add_told(messages: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    """Add what the model was told: first what tools gave back, as chat completions have it, then the rest."""
    parts: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] != "tool_result":
            parts.append(_part(block))
            continue
        inner = block.get("content") or ""
        given = [text_part(inner)] if isinstance(inner, str) else [_part(each) for each in inner]
        texts = [part for part in given if part["type"] == "text"]
        messages.append(
            {"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": content_of(texts)}
        )
        # A tool's message holds text only; its pictures follow.
        parts += [part for part in given if part["type"] != "text"]
    if parts:
        messages.append({"role": role, "content": content_of(parts)})


def _part(block: dict[str, Any]) -> dict[str, Any]:
    kind = block["type"]
    if kind == "text":
        return text_part(block["text"])
    source = block.get("source")
    if kind == "image" and isinstance(source, dict) and source.get("type") == "base64":
        return image_part(f"data:{source.get('media_type')};base64,{source.get('data')}")
    raise beyond(f"A block of type {kind[:40]}", "messages")
