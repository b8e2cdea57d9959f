"""OpenAI's responses as engines speak them: events, and whole answers."""

import json
import re
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.domain.outcomes import Usage
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event
from trivet.engines.sse import ChatEvent, read_event, skim_nothing
from trivet.engines.usage import parse_usage

_DELTA = re.compile(rb'"delta":\s*"((?:[^"\\]|\\.)*)"')
_TEXT_DELTA = b'"type":"response.output_text.delta"'
_ENDS = frozenset({"response.completed", "response.incomplete"})
_CONTENT = ChatEvent("content")
_FIRST = frozenset({0})


class ResponseEvents:
    """The reader of a stream of response events; keeps nothing between them."""

    skim = staticmethod(skim_nothing)

    def classify(self, event: bytes) -> ChatEvent:
        """Tell what an event is; a piece of text is recognised without parsing it.

        A quote inside a JSON string is always escaped, so the type never matches in text.
        """
        return _CONTENT if _TEXT_DELTA in event else self.classify_parsed(event)

    def classify_parsed(self, event: bytes) -> ChatEvent:
        """Tell what an event is, reading all of it."""
        document = read_event(event)
        if isinstance(document, ChatEvent):
            return document
        kind = document.get("type")
        if not isinstance(kind, str):
            return ChatEvent("broken")
        if kind.endswith(".delta"):
            return _CONTENT
        response = document.get("response")
        if kind in _ENDS and isinstance(response, dict):
            return ChatEvent("finish", seen=_FIRST, ended=_FIRST, usage=response_usage(response.get("usage")))
        if kind == "response.failed":
            return ChatEvent("error", error=(response or {}).get("error") or "The response failed.")
        if kind == "error":
            return ChatEvent("error", error=document)
        return ChatEvent("role")

    def content_size(self, event: bytes) -> int:
        """Return the bytes of text in a content event, escapes included, and at least 1."""
        return sum(len(text) for text in _DELTA.findall(event)) or (1 if _DELTA.search(event) else len(event))


def response_usage(reported: Any) -> Usage | None:
    """Return the usage in a response's `usage`, or None where it cannot be a token count."""
    if not isinstance(reported, dict):
        return None
    return parse_usage(
        {
            "prompt_tokens": reported.get("input_tokens"),
            "completion_tokens": reported.get("output_tokens"),
            "prompt_tokens_details": reported.get("input_tokens_details"),
        }
    )


def plain_response(body: bytes) -> PlainReply:
    """Return a whole response as a Reply after checking that it is one.

    Raises:
        EngineError: it is none, or it says that it failed.
    """
    document = parse_document(body)
    output = document.get("output")
    if document.get("error") and (not output or document.get("status") == "failed"):
        raise fault_from_event(document["error"])
    if not isinstance(output, list) or not all(isinstance(item, dict) for item in output):
        raise EngineBroken("The engine's answer has no `output`.", status=200)
    return PlainReply(
        body=body,
        usage=response_usage(document.get("usage")),
        finished=document.get("status") in ("completed", "incomplete"),
        content_events=len(output),
        content_bytes=len(json.dumps(output)) if output else 0,
    )
