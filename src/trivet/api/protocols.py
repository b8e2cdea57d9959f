"""Errors in the shape of each surface's protocol: whole answers, and the last event of a broken stream."""

import json
from typing import Any

from trivet.api.errors import error_body, error_event, http_status, sentence, told_details
from trivet.domain.errors import TrivetError
from trivet.domain.surfaces import Surface

_ANTHROPIC = frozenset({Surface.MESSAGES, Surface.COUNT_TOKENS})

_PROMPT_FIELDS = {Surface.COMPLETIONS: "prompt", Surface.EMBEDDINGS: "input", Surface.RESPONSES: "input"}
"""What `messages`, by which errors name the prompt, is called where it is not called so."""

# https://docs.claude.com/en/api/errors
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_document(
    error: TrivetError, *, status: int, request_id: str, surface: Surface = Surface.CHAT
) -> dict[str, Any]:
    """Return the error as the surface's clients read it; what has no field there is under `trivet`."""
    if surface not in _ANTHROPIC:
        document = error_body(error, status=status, request_id=request_id)
        if error.param == "messages":
            document["error"]["param"] = _PROMPT_FIELDS.get(surface, "messages")
        return document
    kind = _ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    facts = {"code": error.code, "param": error.param, **told_details(error)}
    return {
        "type": "error",
        "error": {"type": kind, "message": sentence(error), "trivet": facts},
        "request_id": request_id,
    }


def broken_stream_event(error: TrivetError, *, request_id: str, surface: Surface = Surface.CHAT) -> bytes:
    """Return the event that ends a broken stream, in place of the one that ends a whole one."""
    if surface in _ANTHROPIC:
        document = error_document(error, status=http_status(error), request_id=request_id, surface=surface)
        return _named("error", document)
    if surface is Surface.RESPONSES:
        body = error_body(error, status=http_status(error), request_id=request_id)["error"]
        # The protocol's own fields, and `error`, by which OpenAI's clients know that they must raise.
        fields = {"code": error.code, "message": sentence(error), "param": error.param}
        return _named("error", {"type": "error", **fields, "error": body})
    return error_event(error, request_id=request_id)


def _named(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document, separators=(',', ':'))}\n\n".encode()
