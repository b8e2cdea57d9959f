"""Engines' tokenizers: vLLM's form is what callers speak; llama.cpp's is said in it."""

import json
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event


def plain_tokens(body: bytes) -> PlainReply:
    """Return vLLM's answer to `/tokenize` as a Reply after checking that it holds tokens.

    Raises:
        EngineError: it holds none.
    """
    document = parse_document(body)
    if document.get("error"):
        raise fault_from_event(document["error"])
    if not isinstance(document.get("tokens"), list):
        raise EngineBroken("The engine's answer holds no tokens.", status=200)
    return _reply(body)


def plain_count(body: bytes) -> PlainReply:
    """Return an answer to `/v1/messages/count_tokens` as a Reply after checking that it holds a count.

    Raises:
        EngineError: it holds none.
    """
    document = parse_document(body)
    if document.get("error"):
        raise fault_from_event(document["error"])
    if not isinstance(document.get("input_tokens"), int):
        raise EngineBroken("The engine's answer holds no count of tokens.", status=200)
    return _reply(body)


def llamacpp_prompt(body: dict[str, Any], text: str) -> dict[str, Any]:
    """Return the body that llama.cpp's `/tokenize` wants for a text."""
    special = body.get("add_special_tokens")
    return {
        "content": text,
        # As vLLM by default: a plain prompt gets its beginning, a conversation's template has it.
        "add_special": ("messages" not in body) if special is None else special,
        "parse_special": True,
    }


def llamacpp_template(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body that llama.cpp's `/apply-template` wants for a conversation."""
    wanted = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt")
    return {name: body[name] for name in wanted if body.get(name) is not None}


def plain_template(body: bytes) -> PlainReply:
    """Return what llama.cpp made of a conversation as a Reply after checking that it is text.

    Raises:
        EngineBroken: it is none.
    """
    if not isinstance(parse_document(body).get("prompt"), str):
        raise EngineBroken("The engine's answer holds no prompt.", status=200)
    return _reply(body)


def template_text(body: bytes) -> str:
    """Return the text of an answer that `plain_template` has checked."""
    return str(parse_document(body)["prompt"])


def as_vllm(reply: PlainReply) -> PlainReply:
    """Return llama.cpp's tokens in vLLM's form."""
    tokens = parse_document(reply.body or b"")["tokens"]
    told = {"count": len(tokens), "max_model_len": None, "tokens": tokens}
    return _reply(json.dumps(told, separators=(",", ":")).encode())


def _reply(body: bytes) -> PlainReply:
    return PlainReply(body=body, usage=None, finished=True, content_events=0, content_bytes=0)
