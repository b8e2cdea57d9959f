"""Checking and describing completions and embeddings: one or several prompts, as text or as tokens."""

from collections.abc import Mapping
from typing import Any

from trivet.domain.errors import RequestMalformed
from trivet.domain.requests import ChatRequest, Needs
from trivet.domain.surfaces import Surface
from trivet.routing.fields import (
    cap_of,
    choices_of,
    document_of,
    flag_of,
    forwarded,
    model_of,
    object_of,
)
from trivet.routing.hints import read_hints
from trivet.routing.prompt_size import other_bytes, utf8_bytes
from trivet.routing.refused_fields import refuse_fields
from trivet.routing.request import check_min_tokens

ANSWERS_LIMIT = 64
"""Prompts times choices of one request."""
INPUTS_LIMIT = 2048

_COMPLETION = '{"prompt": "Once upon a time"}'
_EMBEDDING = '{"input": ["a text", "another"]}'
_FORMS = "a string, a list of strings, a list of token numbers, or a list of such lists"
_OTHER_PROMPTS = ("messages", "prompt_embeds")
_NOT_PROMPT = frozenset(
    {
        "dimensions",
        "encoding_format",
        "input",
        "logit_bias",
        "metadata",
        "model",
        "prompt",
        "stop",
        "stream_options",
        "user",
    }
)


def parse_completion(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /v1/completions`; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    body = document_of(body, example=_COMPLETION)
    _refuse_fields(body)
    if flag_of(body, "echo"):
        raise RequestMalformed(
            "echo is not accepted: not every engine repeats the prompt.",
            hint="Put the prompt before the answer yourself.",
            param="echo",
        )
    prompts = _prompts(body.get("prompt"), "prompt", limit=ANSWERS_LIMIT)
    answers = choices_of(body.get("n")) * len(prompts)
    if answers > ANSWERS_LIMIT:
        raise RequestMalformed(
            f"{len(prompts)} prompts with several choices each are {answers} answers;"
            f" {ANSWERS_LIMIT} are allowed.",
            param="n",
        )
    metadata = object_of(body, "metadata")
    max_tokens = cap_of(body, "max_tokens")
    check_min_tokens(body.get("min_tokens"), max_tokens)
    return ChatRequest(
        body=forwarded(body, metadata),
        body_bytes=body_bytes,
        surface=Surface.COMPLETIONS,
        model=model_of(body.get("model")),
        stream=flag_of(body, "stream"),
        include_usage=flag_of(object_of(body, "stream_options"), "include_usage", inside="stream_options."),
        max_tokens=max_tokens,
        n=answers,
        hints=read_hints(headers, metadata),
    )


def parse_embeddings(body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a body of `POST /v1/embeddings`; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    body = document_of(body, example=_EMBEDDING)
    _refuse_fields(body)
    _prompts(body.get("input"), "input", limit=INPUTS_LIMIT)
    if flag_of(body, "stream"):
        raise RequestMalformed("stream is not offered here: vectors come as a whole.", param="stream")
    metadata = object_of(body, "metadata")
    return ChatRequest(
        body=forwarded(body, metadata),
        body_bytes=body_bytes,
        surface=Surface.EMBEDDINGS,
        model=model_of(body.get("model")),
        hints=read_hints(headers, metadata),
    )


def describe_prompts(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request for completions or embeddings; see `describe_chat`.

    Each prompt has to fit the window by itself; what is read of all of them is held.
    """
    body, hints = request.body, request.hints
    prompts = _listed(body["input" if request.surface is Surface.EMBEDDINGS else "prompt"])
    sizes = [utf8_bytes(each) if isinstance(each, str) else len(each) for each in prompts]
    others = other_bytes(body, _NOT_PROMPT)
    text = next((each for each in reversed(prompts) if isinstance(each, str)), "")
    # Completions have log-probabilities for a number, 0 included.
    logprobs = body.get("logprobs") not in (None, False)
    return Needs(
        text=text[:text_limit_chars],
        prompt_bytes=sum(sizes) + others * len(prompts),
        largest_prompt_bytes=max(sizes) + others,
        messages=len(prompts),
        capabilities=frozenset({"logprobs"}) if logprobs else frozenset(),
        surface=request.surface,
        agent_capabilities=hints.capabilities,
        context_tokens=hints.context_tokens,
        history_length=hints.history_length or 0,
        task_type=hints.task_type,
    )


def _refuse_fields(body: Mapping[str, Any]) -> None:
    """Refuse what may not be said, and prompts in fields that vLLM would read in place of the checked one."""
    refuse_fields(body)
    for name in _OTHER_PROMPTS:
        if body.get(name) is not None:
            raise RequestMalformed(f"{name} is not accepted here.", hint="Send text or tokens.", param=name)


def _prompts(value: Any, param: str, *, limit: int) -> list[Any]:
    """Return the prompts, at least one, none of them empty where it is tokens."""
    if value is None:
        raise RequestMalformed(f"{param} is missing.", hint=f"It is {_FORMS}.", param=param)
    prompts = _listed(value)
    if not prompts or not all(isinstance(each, str) or _is_tokens(each) for each in prompts):
        raise RequestMalformed(f"{param} must be {_FORMS}.", param=param)
    if len(prompts) > limit:
        raise RequestMalformed(f"{param} has {len(prompts)} entries; {limit} are allowed.", param=param)
    return prompts


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list) and not _is_tokens(value):
        return value
    return [value]


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int and each >= 0 for each in value)
