"""Checking and describing Anthropic's messages: enough to be safe, the rest is the engine's to judge."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest, Needs
from trivet.domain.surfaces import Surface
from trivet.routing.features import CHARS_PER_CONTEXT_TOKEN
from trivet.routing.fields import (
    cap_of,
    document_of,
    flag_of,
    forwarded,
    model_of,
    object_of,
    refuse_choices,
)
from trivet.routing.hints import read_hints
from trivet.routing.messages import MESSAGES_LIMIT, check_part
from trivet.routing.prompt_size import ROLE_BYTES, WRAP_BYTES, content_bytes, has_image, other_bytes, text_of
from trivet.routing.refused_fields import refuse_fields

_EXAMPLE = '{"max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}'
_CALLS = frozenset({"tool_use", "thinking", "redacted_thinking"})
"""Blocks of what a model said before: nothing in them is fetched."""
_NOT_PROMPT = frozenset(
    {
        "context_management",
        "messages",
        "metadata",
        "model",
        "output_config",
        "output_format",
        "service_tier",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
    }
)


def parse_messages(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /v1/messages`; see `parse_chat`. `max_tokens` may be missing.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    return _parsed(body, Surface.MESSAGES, body_bytes=body_bytes, headers=headers)


def parse_count_tokens(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /v1/messages/count_tokens`; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    return _parsed(body, Surface.COUNT_TOKENS, body_bytes=body_bytes, headers=headers)


def describe_messages(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request for messages; see `describe_chat`."""
    body, hints = request.body, request.hints
    messages: list[dict[str, Any]] = body["messages"]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    last = users[-1] if users else len(messages) - 1
    text = text_of(messages[last]["content"], text_limit_chars)
    written = sum(len(text_of(message["content"], sys.maxsize)) for message in messages)
    system = body.get("system")
    results = sum(1 for block in _blocks(messages) if block.get("type") == "tool_result")
    # What a tool gave back becomes a message of its own.
    count = len(messages) + results + (system is not None)
    needed = {"tools"} if body.get("tools") else set()
    if any(has_image(message["content"]) for message in messages):
        needed.add("vision")
    form = object_of(object_of(body, "output_config"), "format") or object_of(body, "output_format")
    if form.get("type") == "json_schema":
        needed.add("json_schema")
    return Needs(
        text=text,
        prompt_bytes=sum(content_bytes(message["content"]) for message in messages)
        + content_bytes(system)
        + other_bytes(body, _NOT_PROMPT)
        + WRAP_BYTES * len(body.get("tools") or ())
        + ROLE_BYTES * count,
        messages=count,
        largest_prompt_bytes=None if request.surface.computes else 0,
        capabilities=frozenset(needed) if request.surface.computes else frozenset(),
        surface=request.surface,
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens or (written - len(text)) // CHARS_PER_CONTEXT_TOKEN,
        history_length=max(0, len(users) - 1) if hints.history_length is None else hints.history_length,
        task_type=hints.task_type,
    )


def _parsed(body: Any, surface: Surface, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    body = document_of(body, example=_EXAMPLE)
    refuse_fields(body)
    refuse_choices(body)
    _check_messages(body.get("messages"))
    system = body.get("system")
    if system is not None and not isinstance(system, str) and not _is_texts(system):
        raise RequestMalformed("system must be a string or a list of text blocks.", param="system")
    _check_tools(body)
    for name in ("mcp_servers", "container"):
        if body.get(name):
            raise RequestMalformed(f"{name} is not accepted: an engine reaches no other service.", param=name)
    object_of(object_of(body, "output_config"), "format")
    object_of(body, "output_format")
    metadata = object_of(body, "metadata")
    return ChatRequest(
        body=forwarded(body, metadata),
        body_bytes=body_bytes,
        surface=surface,
        model=model_of(body.get("model")),
        stream=surface is Surface.MESSAGES and flag_of(body, "stream"),
        # Anthropic's streams always tell their usage.
        include_usage=True,
        max_tokens=cap_of(body, "max_tokens"),
        hints=read_hints(headers, metadata),
    )


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise RequestMalformed(
            "messages must be a list with at least one message.", hint=f"Send {_EXAMPLE}.", param="messages"
        )
    if len(messages) > MESSAGES_LIMIT:
        raise RequestMalformed(
            f"messages has {len(messages)} entries; {MESSAGES_LIMIT} are allowed.", param="messages"
        )
    for position, message in enumerate(messages):
        place = f"messages[{position}]"
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise RequestMalformed(f"{place} must be an object whose role is user or assistant.", param=place)
        content = message.get("content")
        if not isinstance(content, str):
            _check_blocks(content, f"{place}.content")


def _check_blocks(content: Any, param: str) -> None:
    if not isinstance(content, list):
        raise RequestMalformed(f"{param} must be a string or a list of blocks.", param=param)
    for position, block in enumerate(content):
        place = f"{param}[{position}]"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RequestMalformed(f"{place} must be an object with a type.", param=place)
        kind = block["type"]
        if kind == "text" and not isinstance(block.get("text"), str):
            raise RequestMalformed(f"{place}.text must be a string.", param=f"{place}.text")
        if kind == "tool_use" and not (
            isinstance(block.get("name"), str) and isinstance(block.get("input"), dict)
        ):
            raise RequestMalformed(f"{place} must have a name and an object as input.", param=place)
        if kind == "tool_result":
            inner = block.get("content")
            if inner is not None and not isinstance(inner, str):
                _check_blocks(inner, f"{place}.content")
        elif kind not in _CALLS:
            check_part(block, place)


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise RequestMalformed("tools must be a list.", param="tools")
    for position, tool in enumerate(tools or ()):
        place = f"tools[{position}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not tool["name"]:
            raise RequestMalformed(f"{place} must be an object with a name.", param=place)
        if tool.get("type", "custom") not in (None, "custom"):
            raise RequestMalformed(
                f"{place} is a tool that an engine would run by itself ({str(tool['type'])[:40]}).",
                hint="Only tools of the caller's own are passed on.",
                param=place,
            )
        if not isinstance(tool.get("input_schema"), dict):
            raise RequestMalformed(f"{place}.input_schema must be a JSON schema.", param=place)
    choice = body.get("tool_choice")
    if choice is not None and not (isinstance(choice, dict) and isinstance(choice.get("type"), str)):
        raise RequestMalformed("tool_choice must be an object with a type.", param="tool_choice")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in value
    )


def _blocks(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if isinstance(message["content"], list):
            yield from message["content"]
