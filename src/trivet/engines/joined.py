"""A stream joined into the document that the same request would have been answered with as a whole.

llama.cpp works a plain request to its end although nobody waits for it any more, and counts only one of
several choices. A stream it stops and counts in full; so it is asked for one, and the caller gets the whole.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from trivet.domain.errors import EngineBroken
from trivet.engines.answers import PlainReply
from trivet.engines.sse import EventSplitter, choice_index, chunk_document
from trivet.engines.streams import StreamReply
from trivet.engines.usage import parse_usage, shared_prompt

STREAM_LIMIT_BYTES = 32 * 1024 * 1024

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_ENVELOPE = ("id", "created", "model", "system_fingerprint")
_OWN = (*_ENVELOPE, "object", "choices", "usage")


def joinable(body: dict[str, Any]) -> bool:
    """Tell whether llama.cpp streams what this body asks for: not log-probabilities beside tools."""
    return not (body.get("logprobs") and body.get("tools"))


class Joiner(Protocol):
    """Makes a whole answer of a stream's events."""

    def add(self, document: dict[str, Any], /) -> None:
        """Take the next event's document."""
        ...

    def document(self) -> dict[str, Any]:
        """Return the whole answer."""
        ...


async def join_stream(stream: StreamReply, joiner: Joiner | None = None) -> PlainReply:
    """Read an opened stream to its end and return it as a whole answer, by default a chat completion.

    Raises:
        StreamIncomplete: it ended without a finish reason.
        EngineError: it failed in another way, or is larger than STREAM_LIMIT_BYTES.
    """
    joiner = joiner or AnswerJoiner()
    splitter = EventSplitter()
    size = 0
    try:
        async for chunk in stream.chunks():
            size += len(chunk.data)
            if size > STREAM_LIMIT_BYTES:
                raise EngineBroken(f"The engine's answer is larger than {STREAM_LIMIT_BYTES} bytes.")
            for event in splitter.feed(chunk.data):
                document = chunk_document(event)
                if document is not None:
                    joiner.add(document)
    finally:
        await stream.aclose()
    whole = joiner.document()
    return PlainReply(
        # Escaped to ASCII: halves of a surrogate pair that came in two events meet again in the reader.
        body=json.dumps(whole, separators=(",", ":")).encode(),
        usage=parse_usage(whole.get("usage")) if isinstance(joiner, AnswerJoiner) else stream.usage,
        finished=stream.finished,
        content_events=stream.content_events,
        content_bytes=stream.content_bytes,
    )


class AnswerJoiner:
    """Joins the chunks of one chat completion. Takes any JSON; what makes no sense is passed over."""

    def __init__(self) -> None:
        self._envelope: dict[str, Any] = {}
        self._extras: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._final_usages: list[Any] = []
        self._passing_usage: Any = None

    def add(self, chunk: dict[str, Any]) -> None:
        """Take the next chunk."""
        for name in _ENVELOPE:
            if chunk.get(name) is not None:
                self._envelope.setdefault(name, chunk[name])
        # Of what an engine adds to OpenAI's fields, a whole answer has what the last chunk says: timings.
        self._extras = {name: value for name, value in chunk.items() if name not in _OWN}
        choices = chunk.get("choices")
        parts = [part for part in choices if isinstance(part, dict)] if isinstance(choices, list) else []
        for part in parts:
            self._choices.setdefault(choice_index(part), _Choice()).add(part)
        usage = chunk.get("usage")
        if usage is not None and not parts:
            self._final_usages.append(usage)
        elif usage is not None:
            self._passing_usage = usage

    def document(self) -> dict[str, Any]:
        """Return the whole answer, as far as chunks have come."""
        choices = [choice.document(index) for index, choice in sorted(self._choices.items())]
        whole = {**self._envelope, "object": "chat.completion", "choices": choices}
        usage = self._usage()
        if usage is not None:
            whole["usage"] = usage
        return whole | self._extras

    def _usage(self) -> Any:
        if not self._final_usages:
            return self._passing_usage
        last = self._final_usages[-1]
        if len(self._final_usages) == 1 or len(self._choices) < 2:
            return last
        counts = [parse_usage(usage) for usage in self._final_usages]
        readable = [count for count in counts if count is not None]
        if len(readable) < len(counts):
            return None  # without one of its parts the sum is not known
        total = shared_prompt(readable)
        joined = {
            **last,
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "total_tokens": total.total_tokens,
        }
        details = last.get("prompt_tokens_details")
        if isinstance(details, dict):
            joined["prompt_tokens_details"] = {**details, "cached_tokens": total.cached_tokens}
        return joined


@dataclass(slots=True)
class _Choice:
    """One choice, joined as far as its chunks have come."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    function_call: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    finish_reason: Any = None

    def add(self, part: dict[str, Any]) -> None:
        """Take what a chunk says of this choice."""
        delta = part.get("delta")
        for name, value in delta.items() if isinstance(delta, dict) else ():
            self._add_field(name, value)
        for name, value in part.items():
            if name == "finish_reason":
                self.finish_reason = self.finish_reason if value is None else value
            elif name == "logprobs":
                self.extras["logprobs"] = _longer(self.extras.get("logprobs"), value)
            elif name not in ("index", "delta") and (value is not None or name not in self.extras):
                self.extras[name] = value

    def document(self, index: int) -> dict[str, Any]:
        """Return it as a choice of a whole answer."""
        calls = [_as_tool_call(call) for _, call in sorted(self.calls.items())]
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        silent = None if calls or self.function_call else ""
        message = {"role": "assistant", **self.message, "content": silent, **texts}
        if calls:
            message["tool_calls"] = calls
        if self.function_call:
            message["function_call"] = self.function_call
        return {"index": index, "message": message, "finish_reason": self.finish_reason, **self.extras}

    def _add_field(self, name: str, value: Any) -> None:
        if value is None:
            return
        if name in _TEXTS:
            if isinstance(value, str) and value:
                self.texts.setdefault(name, []).append(value)
        elif name == "tool_calls":
            for position, piece in enumerate(value if isinstance(value, list) else ()):
                if isinstance(piece, dict):
                    index = piece.get("index")
                    key = index if isinstance(index, int) else position
                    _add_call(self.calls.setdefault(key, {"function": {}}), piece)
        elif name == "function_call":
            _add_function(self.function_call, value)
        else:
            self.message[name] = value


def _add_call(call: dict[str, Any], piece: dict[str, Any]) -> None:
    _add_function(call["function"], piece.get("function"))
    for name, value in piece.items():
        if name not in ("index", "function") and value and name not in call:
            call[name] = value


def _add_function(function: dict[str, Any], piece: Any) -> None:
    if not isinstance(piece, dict):
        return
    if piece.get("name"):
        function.setdefault("name", piece["name"])
    arguments = piece.get("arguments")
    if isinstance(arguments, str):
        function["arguments"] = function.get("arguments", "") + arguments


def _as_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", **call, "function": {"arguments": "", **call["function"]}}


def _longer(joined: Any, value: Any) -> Any:
    # Lists of tokens, one for the content, one for a refusal.
    if not isinstance(value, dict):
        return joined
    joined = dict(joined or {})
    for name, tokens in value.items():
        before = joined.get(name)
        if isinstance(tokens, list):
            joined[name] = [*before, *tokens] if isinstance(before, list) else tokens
        else:
            joined.setdefault(name, tokens)
    return joined
