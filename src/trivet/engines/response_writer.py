"""The events of a response, written while the chunks of a chat completion come."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trivet.domain.outcomes import Usage
from trivet.engines.as_chat import calls_in, delta_of, event, function_of, thoughts_in
from trivet.engines.responses_as_chat import (
    call_item,
    end_of,
    envelope_of,
    message_item,
    reasoning_item,
    text_content,
    usage_as_told,
)

_KINDS = {
    "message": ("msg", "response.output_text", "output_text"),
    "reasoning": ("rs", "response.reasoning_text", "reasoning_text"),
}


@dataclass(slots=True)
class _Item:
    """An item of the output that is being written."""

    kind: str
    item_id: str
    index: int
    """Its place in the output."""
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    def document(self, *, done: bool) -> dict[str, Any]:
        """Return the item as it is told: its text only when it is done."""
        status = "completed" if done else "in_progress"
        text = "".join(self.pieces) if done else ""
        if self.kind == "message":
            return message_item(self.item_id, text, status)
        if self.kind == "reasoning":
            return reasoning_item(self.item_id, text, status)
        return call_item(self.item_id, self.call_id, self.name, text, status)


class ResponseWriter:
    """Writes one response to a body."""

    def __init__(self, body: dict[str, Any], response_id: str) -> None:
        """Take what was asked, and the response's name."""
        self._body = body
        self._id = response_id
        self._envelope: dict[str, Any] | None = None
        self._sequence = 0
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._calls: dict[int, _Item] = {}
        self._finish: str | None = None

    def feed(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        """Yield the events that a chunk makes."""
        if self._envelope is None:
            self._envelope = envelope_of(self._body, self._id, chunk.get("model"))
            yield self._event("response.created", response=self._envelope)
            yield self._event("response.in_progress", response=self._envelope)
        for choice in chunk.get("choices") or ():
            delta = delta_of(choice)
            yield from self._piece("reasoning", thoughts_in(delta))
            yield from self._piece("message", delta.get("content") or "")
            for position, call in enumerate(calls_in(delta)):
                yield from self._call(call, call.get("index", position))
            self._finish = choice.get("finish_reason") or self._finish

    def finish(self, usage: Usage | None) -> Iterator[bytes]:
        """Yield the events that end the response; the last one carries all of it."""
        yield from self._close()
        for item in self._calls.values():
            arguments = "".join(item.pieces)
            yield self._of(item, "response.function_call_arguments.done", arguments=arguments, name=item.name)
            yield self._event(
                "response.output_item.done", output_index=item.index, item=item.document(done=True)
            )
        end = end_of(self._finish)
        output = [item.document(done=True) for item in self._items]
        whole = {**(self._envelope or {}), **end, "output": output, "usage": usage_as_told(usage)}
        yield self._event(f"response.{end['status']}", response=whole)

    def _piece(self, kind: str, text: str) -> Iterator[bytes]:
        if not text:
            return
        _, name, part = _KINDS[kind]
        if self._open is None or self._open.kind != kind:
            yield from self._close()
            self._open = item = self._begun(kind, f"{_KINDS[kind][0]}_{self._id}_{len(self._items)}")
            yield self._added(item)
            yield self._of(item, "response.content_part.added", content_index=0, part=_part_of(part, ""))
        self._open.pieces.append(text)
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        yield self._of(self._open, f"{name}.delta", content_index=0, delta=text, **more)

    def _close(self) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        _, name, part = _KINDS[item.kind]
        text = "".join(item.pieces)
        more: dict[str, Any] = {"logprobs": []} if item.kind == "message" else {}
        yield self._of(item, f"{name}.done", content_index=0, text=text, **more)
        yield self._of(item, "response.content_part.done", content_index=0, part=_part_of(part, text))
        yield self._event("response.output_item.done", output_index=item.index, item=item.document(done=True))

    def _call(self, call: dict[str, Any], index: int) -> Iterator[bytes]:
        function = function_of(call)
        item = self._calls.get(index)
        if item is None:
            yield from self._close()
            item = self._calls[index] = self._begun("call", f"fc_{self._id}_{len(self._items)}")
            item.call_id, item.name = str(call.get("id") or ""), str(function.get("name") or "")
            yield self._added(item)
        if function.get("arguments"):
            item.pieces.append(function["arguments"])
            yield self._of(item, "response.function_call_arguments.delta", delta=function["arguments"])

    def _begun(self, kind: str, item_id: str) -> _Item:
        item = _Item(kind, item_id, len(self._items))
        self._items.append(item)
        return item

    def _added(self, item: _Item) -> bytes:
        return self._event(
            "response.output_item.added", output_index=item.index, item=item.document(done=False)
        )

    def _of(self, item: _Item, event_name: str, /, **fields: Any) -> bytes:
        return self._event(event_name, item_id=item.item_id, output_index=item.index, **fields)

    def _event(self, event_name: str, /, **fields: Any) -> bytes:
        self._sequence += 1
        return event(event_name, {"sequence_number": self._sequence - 1, **fields})


def _part_of(kind: str, text: str) -> dict[str, Any]:
    return text_content(text) if kind == "output_text" else {"type": kind, "text": text}
