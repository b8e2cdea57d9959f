"""OpenAI's former completions as engines speak them: events, whole answers, and streams joined to such."""

import re
from dataclasses import dataclass, field
from typing import Any

from trivet.domain.errors import EngineBroken
from trivet.engines.answers import PlainReply, parse_document
from trivet.engines.faults import fault_from_event
from trivet.engines.sse import ChatEvent, EventKind, choice_index, read_event, skim_nothing
from trivet.engines.usage import parse_usage

_TEXT = re.compile(rb'"text":\s*"((?:[^"\\]|\\.)*)"')
_ENVELOPE = ("id", "created", "model", "system_fingerprint", "timings")


class CompletionEvents:
    """The reader of a stream of completions."""

    skim = staticmethod(skim_nothing)

    def __init__(self, answers: int = 1) -> None:
        """Take how many answers the stream carries.

        Of several, only the usage after all of them counts: with each of them llama.cpp tells its own.
        """
        self._answers = answers

    def classify(self, event: bytes) -> ChatEvent:
        """Tell what an event is."""
        return self.classify_parsed(event)

    def classify_parsed(self, event: bytes) -> ChatEvent:
        """Tell what an event is: also which choices it speaks of."""
        if event.strip() == b"data: null":
            return ChatEvent("comment")  # llama.cpp's first event where there are several prompts
        document = read_event(event)
        if isinstance(document, ChatEvent):
            return document
        choices = document.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return ChatEvent("broken")
        usage = parse_usage(document.get("usage"))
        if not choices:
            return ChatEvent("usage" if document.get("usage") is not None else "role", usage=usage)
        ended = frozenset(
            choice_index(choice) for choice in choices if choice.get("finish_reason") is not None
        )
        kind: EventKind = "finish" if ended else "role"
        if any(choice.get("text") or _has_logprobs(choice) for choice in choices):
            kind = "content"
        seen = frozenset(map(choice_index, choices))
        return ChatEvent(kind, seen=seen, ended=ended, usage=usage if self._answers == 1 else None)

    def content_size(self, event: bytes) -> int:
        """Return the bytes of text in a content event, escapes included, and at least 1."""
        return max(1, sum(len(text) for text in _TEXT.findall(event)))


def answers_of(body: dict[str, Any]) -> int:
    """Return how many answers a body asks for: choices, of each prompt."""
    prompt, wanted = body.get("prompt"), body.get("n")
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    prompts = len(prompt) if isinstance(prompt, list) and several else 1
    return prompts * (wanted if isinstance(wanted, int) and wanted > 0 else 1)


def plain_completion(body: bytes) -> PlainReply:
    """Return a whole completion as a Reply after checking that it is one.

    Raises:
        EngineError: it is none, or it is an error object in a 200 answer.
    """
    document = parse_document(body)
    choices = document.get("choices")
    if document.get("error") and not choices:
        raise fault_from_event(document["error"])
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, dict) and isinstance(choice.get("text"), str) for choice in choices)
    ):
        raise EngineBroken("The engine's answer has no `choices` with text.", status=200)
    return PlainReply(
        body=body,
        usage=parse_usage(document.get("usage")),
        finished=all(choice.get("finish_reason") is not None for choice in choices),
        content_events=sum(1 for choice in choices if choice["text"]),
        content_bytes=sum(len(choice["text"].encode("utf-8", "surrogatepass")) for choice in choices),
    )


def joinable_completion(body: dict[str, Any]) -> bool:
    """Tell whether a stream of this body holds all that the whole answer would."""
    return body.get("logprobs") in (None, False)


@dataclass(slots=True)
class CompletionJoiner:
    """Joins the events of a stream into the document that the whole answer would have been."""

    envelope: dict[str, Any] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=dict)
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    usage: Any = None

    def add(self, document: dict[str, Any]) -> None:
        """Take the next event's document."""
        self.envelope |= {name: document[name] for name in _ENVELOPE if document.get(name) is not None}
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            index = choice_index(choice)
            text = choice.get("text")
            self.texts.setdefault(index, []).append(text if isinstance(text, str) else "")
            self.choices.setdefault(index, {}).update(
                {name: value for name, value in choice.items() if value is not None}
            )
        self.usage = document.get("usage") or self.usage

    def document(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [
            {
                "logprobs": None,
                "finish_reason": None,
                **choice,
                "text": "".join(self.texts[index]),
                "index": index,
            }
            for index, choice in sorted(self.choices.items())
        ]
        whole = {**self.envelope, "object": "text_completion", "choices": choices}
        # Of several answers llama.cpp tells the usage of each; the last one's would pass for all.
        return whole | ({"usage": self.usage} if self.usage is not None and len(choices) == 1 else {})


def _has_logprobs(choice: dict[str, Any]) -> bool:
    # A token that adds no text yet (half a character) still shows in the log-probabilities.
    logprobs = choice.get("logprobs")
    return isinstance(logprobs, dict) and bool(logprobs.get("tokens") or logprobs.get("content"))
