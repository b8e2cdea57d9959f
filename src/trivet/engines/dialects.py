"""How each surface is spoken to an engine that speaks it itself: path, events, whole answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trivet.domain.surfaces import Surface
from trivet.engines.addresses import api_url, server_url
from trivet.engines.answers import PlainReply, plain_reply
from trivet.engines.chat_wire import ChatEvents
from trivet.engines.completions_wire import (
    CompletionEvents,
    CompletionJoiner,
    answers_of,
    joinable_completion,
    plain_completion,
)
from trivet.engines.joined import AnswerJoiner, Joiner, joinable
from trivet.engines.messages_wire import MessageEvents, plain_message
from trivet.engines.responses_wire import ResponseEvents, plain_response
from trivet.engines.sse import EventReader
from trivet.engines.tokens_wire import plain_count, plain_template, plain_tokens
from trivet.engines.vectors_wire import plain_vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What the relay has to know of a surface."""

    path: str
    """Below `/v1`, or with a slash in front below the server's root."""
    plain: Callable[[bytes], PlainReply]
    """Makes a Reply of a whole answer; raises EngineError where it is none."""
    answers: Callable[[dict[str, Any]], int] = lambda _: 1
    """How many answers a body asks for."""
    events: Callable[[int], EventReader] | None = None
    """Makes the reader of a stream of so many answers; None: there are no streams."""
    joinable: Callable[[dict[str, Any]], bool] = lambda _: False
    """Whether a stream of this body holds all that the whole answer would."""
    joiner: Callable[[], Joiner] | None = None
    asks_usage: bool = False
    """Whether a stream tells its usage only if `stream_options` asks for it."""

    def url(self, base: str) -> str:
        """Return the surface's address at a server."""
        return f"{server_url(base)}{self.path}" if self.path.startswith("/") else api_url(base, self.path)


def _choices(body: dict[str, Any]) -> int:
    wanted = body.get("n")
    return wanted if isinstance(wanted, int) and wanted > 0 else 1


DIALECTS: Mapping[Surface, Dialect] = {
    Surface.CHAT: Dialect(
        path="chat/completions",
        plain=plain_reply,
        answers=_choices,
        events=lambda _: ChatEvents(),
        joinable=joinable,
        joiner=AnswerJoiner,
        asks_usage=True,
    ),
    Surface.COMPLETIONS: Dialect(
        path="completions",
        plain=plain_completion,
        answers=answers_of,
        events=CompletionEvents,
        joinable=joinable_completion,
        joiner=CompletionJoiner,
        asks_usage=True,
    ),
    Surface.RESPONSES: Dialect(
        path="responses",
        plain=plain_response,
        events=lambda _: ResponseEvents(),
    ),
    Surface.MESSAGES: Dialect(
        path="messages",
        plain=plain_message,
        events=lambda _: MessageEvents(),
    ),
    Surface.EMBEDDINGS: Dialect(path="embeddings", plain=plain_vectors),
    Surface.TOKENIZE: Dialect(path="/tokenize", plain=plain_tokens),
    Surface.COUNT_TOKENS: Dialect(path="messages/count_tokens", plain=plain_count),
}

TEMPLATE = Dialect(path="/apply-template", plain=plain_template)
"""llama.cpp's way from a conversation to the text that its model reads."""
