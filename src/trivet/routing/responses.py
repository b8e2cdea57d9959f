"""Checking and describing OpenAI's responses: enough to be safe, the rest is the engine's to judge."""

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
from trivet.routing.prompt_size import (
    ROLE_BYTES,
    WRAP_BYTES,
    content_bytes,
    has_image,
    json_ceiling_bytes,
    other_bytes,
    text_of,
)
from trivet.routing.refused_fields import refuse_fields

_EXAMPLE = '{"input": "Hello"}'
_STORED = "Trivet keeps no answers."
_KEPT_ELSEWHERE: Mapping[str, str] = {
    "previous_response_id": f"{_STORED} Send the whole conversation as input.",
    "conversation": f"{_STORED} Send the whole conversation as input.",
    "prompt": f"{_STORED} Send the text itself as instructions or input.",
}
_TEXT_ITEMS = frozenset(
    {
        *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        "reasoning",
    }
)
"""Items whose strings are the caller's own business: nobody fetches what they name."""
_OWN_TOOLS = frozenset({"function", "custom"})
_NOT_PROMPT = frozenset(
    {
        "include",
        "input",
        "metadata",
        "model",
        "prompt_cache_key",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "tool_choice",
        "truncation",
        "user",
    }
)


def parse_responses(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /v1/responses`; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    body = document_of(body, example=_EXAMPLE)
    refuse_fields(body)
    refuse_choices(body)
    for name, hint in _KEPT_ELSEWHERE.items():
        if body.get(name) is not None:
            raise RequestMalformed(f"{name} is not accepted.", hint=hint, param=name)
    if flag_of(body, "background"):
        raise RequestMalformed("background is not accepted.", hint=_STORED, param="background")
    _check_input(body.get("input"))
    if not isinstance(body.get("instructions"), str | None):
        raise RequestMalformed("instructions must be a string.", param="instructions")
    _check_tools(body)
    object_of(object_of(body, "text"), "format")
    metadata = object_of(body, "metadata")
    return ChatRequest(
        body=forwarded(body, metadata),
        body_bytes=body_bytes,
        surface=Surface.RESPONSES,
        model=model_of(body.get("model")),
        stream=flag_of(body, "stream"),
        # The last event of a stream always tells its usage.
        include_usage=True,
        max_tokens=cap_of(body, "max_output_tokens"),
        hints=read_hints(headers, metadata),
    )


def describe_responses(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request for a response; see `describe_chat`."""
    body, hints = request.body, request.hints
    told = body["input"]
    items: list[dict[str, Any]] = [{"role": "user", "content": told}] if isinstance(told, str) else told
    users = [item for item in items if item.get("role") == "user"]
    text = text_of((users or items)[-1].get("content"), text_limit_chars)
    written = sum(len(text_of(item.get("content"), sys.maxsize)) for item in items)
    calls = sum(1 for item in items if item.get("type") == "function_call")
    count = len(items) + (body.get("instructions") is not None)
    return Needs(
        text=text,
        prompt_bytes=sum(map(_item_bytes, items))
        + other_bytes(body, _NOT_PROMPT)
        + WRAP_BYTES * (calls + len(body.get("tools") or ()))
        + ROLE_BYTES * count,
        messages=count,
        capabilities=_capabilities(body, items),
        surface=request.surface,
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens or (written - len(text)) // CHARS_PER_CONTEXT_TOKEN,
        history_length=max(0, len(users) - 1) if hints.history_length is None else hints.history_length,
        task_type=hints.task_type,
    )


def _check_input(told: Any) -> None:
    if isinstance(told, str) and told:
        return
    if not isinstance(told, list) or not told:
        raise RequestMalformed(
            "input must be a string or a list of items.", hint=f"Send {_EXAMPLE}.", param="input"
        )
    if len(told) > MESSAGES_LIMIT:
        raise RequestMalformed(f"input has {len(told)} entries; {MESSAGES_LIMIT} are allowed.", param="input")
    for position, item in enumerate(told):
        place = f"input[{position}]"
        if not isinstance(item, dict):
            raise RequestMalformed(f"{place} must be an object.", param=place)
        kind = item.get("type", "message")
        if kind == "item_reference":
            raise RequestMalformed(f"{place} refers to an item that is kept. {_STORED}", param=place)
        if kind == "message":
            if not isinstance(item.get("role"), str):
                raise RequestMalformed(f"{place}.role must be a string.", param=f"{place}.role")
            _check_parts(item.get("content"), f"{place}.content")
        elif not isinstance(kind, str):
            raise RequestMalformed(f"{place}.type must be a string.", param=f"{place}.type")
        elif kind not in _TEXT_ITEMS:
            check_part(item, place)
        elif isinstance(item.get("output"), list):
            _check_parts(item["output"], f"{place}.output")


def _check_parts(content: Any, param: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise RequestMalformed(f"{param} must be a string or a list of parts.", param=param)
    for position, part in enumerate(content):
        place = f"{param}[{position}]"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise RequestMalformed(f"{place} must be an object with a type.", param=place)
        if part["type"] in ("input_text", "output_text") and not isinstance(part.get("text"), str):
            raise RequestMalformed(f"{place}.text must be a string.", param=f"{place}.text")
        if part["type"] != "output_text":
            # What a model said before has its sources with it; nobody fetches them.
            check_part(part, place)


def _check_tools(body: Mapping[str, Any]) -> None:
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise RequestMalformed("tools must be a list.", param="tools")
    for position, tool in enumerate(tools or ()):
        place = f"tools[{position}]"
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise RequestMalformed(f"{place} must be an object with a type.", param=place)
        if tool["type"] not in _OWN_TOOLS:
            raise RequestMalformed(
                f"{place} is a tool that an engine would run by itself ({tool['type'][:40]}).",
                hint="Only tools of type function are passed on, which the caller runs.",
                param=place,
            )
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise RequestMalformed(f"{place}.name must be a string.", param=f"{place}.name")
    if not isinstance(body.get("tool_choice"), str | dict | None):
        raise RequestMalformed("tool_choice must be a string or an object.", param="tool_choice")


def _item_bytes(item: Mapping[str, Any]) -> int:
    """Return the bytes of one item: its content, a call's name and arguments, a call's output."""
    rest = {key: value for key, value in item.items() if key not in ("content", "output")}
    return json_ceiling_bytes(rest) + content_bytes(item.get("content")) + content_bytes(item.get("output"))


def _capabilities(body: Mapping[str, Any], items: list[dict[str, Any]]) -> frozenset[str]:
    needed: set[str] = set()
    if body.get("tools"):
        needed.add("tools")
    if any(map(has_image, _contents(items))):
        needed.add("vision")
    form = object_of(object_of(body, "text"), "format").get("type")
    if form in ("json_schema", "json_object"):
        needed.add("json_schema")
    if body.get("top_logprobs") or "message.output_text.logprobs" in (body.get("include") or ()):
        needed.add("logprobs")
    return frozenset(needed)


def _contents(items: list[dict[str, Any]]) -> Iterator[Any]:
    for item in items:
        yield item.get("content")
        yield item.get("output")
