"""Each surface's check and description, in one table."""

from collections.abc import Mapping
from typing import Any, Protocol

from trivet.domain.requests import ChatRequest, Needs
from trivet.domain.surfaces import Surface
from trivet.routing.anthropic import describe_messages, parse_count_tokens, parse_messages
from trivet.routing.features import describe_chat
from trivet.routing.prompts import describe_prompts, parse_completion, parse_embeddings
from trivet.routing.request import parse_chat
from trivet.routing.responses import describe_responses, parse_responses
from trivet.routing.tokenizing import describe_tokenize, parse_tokenize


class Parse(Protocol):
    """See `parse_chat`."""

    def __call__(self, body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
        """Check a decoded body and return it with its hints apart."""
        ...


class Describe(Protocol):
    """See `describe_chat`."""

    def __call__(self, request: ChatRequest, *, text_limit_chars: int) -> Needs:
        """Describe a checked request."""
        ...


_TABLE: Mapping[Surface, tuple[Parse, Describe]] = {
    Surface.CHAT: (parse_chat, describe_chat),
    Surface.COMPLETIONS: (parse_completion, describe_prompts),
    Surface.EMBEDDINGS: (parse_embeddings, describe_prompts),
    Surface.RESPONSES: (parse_responses, describe_responses),
    Surface.MESSAGES: (parse_messages, describe_messages),
    Surface.TOKENIZE: (parse_tokenize, describe_tokenize),
    Surface.COUNT_TOKENS: (parse_count_tokens, describe_messages),
}


def parse_request(surface: Surface, body: Any, *, body_bytes: int, headers: Mapping[str, str]) -> ChatRequest:
    """Check a decoded body of a surface; see `parse_chat`.

    Raises:
        RequestMalformed: with `param` naming the field at fault.
    """
    return _TABLE[surface][0](body, body_bytes=body_bytes, headers=headers)


def describe(request: ChatRequest, *, text_limit_chars: int) -> Needs:
    """Describe a checked request of any surface; see `describe_chat`."""
    return _TABLE[request.surface][1](request, text_limit_chars=text_limit_chars)
