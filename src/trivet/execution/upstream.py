"""What goes to an engine, and how far what comes back is believed."""

from typing import Any

from trivet.domain.decisions import Decision
from trivet.domain.outcomes import Usage
from trivet.domain.requests import ChatRequest
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment

_CAP_KEYS = {
    Surface.COMPLETIONS: "max_tokens",
    Surface.MESSAGES: "max_tokens",
    Surface.RESPONSES: "max_output_tokens",
}
_EVERY_CAP = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Whatever an engine takes for a cap: none but Trivet's goes on."""
_ASKED_FOR_USAGE = frozenset({Surface.CHAT, Surface.COMPLETIONS})
"""Surfaces whose streams tell their usage only when asked."""


def upstream_body(request: ChatRequest, decision: Decision, deployment: Deployment) -> dict[str, Any]:
    """Return the body to send: the caller's, with only what Trivet owns rewritten.

    The output is always capped, so that the ledger's hold is a true ceiling of what the engine can do.
    """
    body = dict(request.body)
    body["model"] = deployment.model
    surface = request.surface
    if not surface.generates:
        return body
    cap_key = _CAP_KEYS.get(surface) or (
        "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    )
    for key in _EVERY_CAP:
        body.pop(key, None)
    body[cap_key] = decision.max_output_tokens
    if decision.temperature is not None and body.get("temperature") is None:
        body["temperature"] = decision.temperature
    if surface is Surface.RESPONSES:
        body["store"] = False  # nor shall an engine keep prompts
    if request.stream and surface in _ASKED_FOR_USAGE:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    else:
        body.pop("stream_options", None)
    return body


def believable(
    usage: Usage | None, *, output_ceiling: int, context_tokens: int, content_events: int
) -> Usage | None:
    """Return the engine's usage if it can be true, else None (facts: engines report wrong numbers).

    It cannot be true when more tokens were generated than `output_ceiling` (the cap, or the bytes that
    arrived, if an engine ignored the cap: then its word is charged, as an overrun), when the prompt alone
    exceeds the context window, or when nothing is said to have been generated although content arrived.
    """
    if usage is None:
        return None
    if not 0 <= usage.completion_tokens <= output_ceiling:
        return None
    if not 0 <= usage.prompt_tokens <= context_tokens:
        return None
    if usage.completion_tokens == 0 and content_events > 0:
        return None
    return usage
