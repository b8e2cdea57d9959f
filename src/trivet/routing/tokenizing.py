"""Checking and describing requests for a model's tokens: vLLM's form, and llama.cpp's `content`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest, Needs
from trivet.domain.surfaces import Surface
from trivet.routing.features import describe_chat
from trivet.routing.fields import document_of, flag_of, model_of
from trivet.routing.hints import read_hints
from trivet.routing.messages import check_messages
from trivet.routing.prompt_size import utf8_bytes
from trivet.routing.refused_fields import refuse_fields
from trivet.routing.tools import check_tools

_EXAMPLE = '{"prompt": "Hello"}'


def parse_tokenize(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /tokenize`: `prompt` (or `content`), or `messages`; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    body = document_of(body, example=_EXAMPLE)
    refuse_fields(body)
    told = {key: value for key, value in body.items() if key != "content"}
    if told.get("prompt") is None and body.get("content") is not None:
        told["prompt"] = body["content"]
    prompt, messages = told.get("prompt"), told.get("messages")
    if (prompt is None) == (messages is None):
        raise RequestMalformed(
            "Either prompt or messages must be given.", hint=f"Send {_EXAMPLE}.", param="prompt"
        )
    if messages is not None:
        check_messages(messages)
        check_tools(told)
    elif not isinstance(prompt, str):
        raise RequestMalformed("prompt must be a string.", param="prompt")
    for name in ("add_special_tokens", "add_generation_prompt"):
        flag_of(told, name)
    return ChatRequest(
        body=told,
        body_bytes=body_bytes,
        surface=Surface.TOKENIZE,
        model=model_of(body.get("model")),
        hints=read_hints(headers, {}),
    )


def describe_tokenize(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request for tokens; any length may be counted, so no window has to hold it."""
    if "messages" in request.body:
        needs = describe_chat(request, text_limit_chars=text_limit_chars)
        return replace(needs, surface=Surface.TOKENIZE, capabilities=frozenset(), largest_prompt_bytes=0)
    prompt, hints = request.body["prompt"], request.hints
    return Needs(
        text=prompt[:text_limit_chars],
        prompt_bytes=utf8_bytes(prompt),
        largest_prompt_bytes=0,
        messages=1,
        capabilities=frozenset(),
        surface=Surface.TOKENIZE,
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens,
        history_length=hints.history_length or 0,
        task_type=hints.task_type,
    )
