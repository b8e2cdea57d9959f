"""What the Ollama stand-in has, holds and did: installed and loaded models, counts, faults to come."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.doubles import ollama_wire as wire

TOO_LONG = "the prompt is longer than the context length currently available to the model; shorten it"


@dataclass(slots=True)
class Loaded:
    """A model in memory."""

    context_tokens: int
    expires_at: datetime
    shift: bool = True
    running: int = 0


@dataclass(slots=True)
class State:
    """What the stand-in has, holds and did."""

    backends: dict[str, str]
    """Base URL of the llama.cpp server behind each installed model."""
    default_backend: str
    context_tokens: int
    loaded: dict[str, Loaded] = field(default_factory=dict)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    requests: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    aborted: int = 0
    last_chat: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, float] = field(default_factory=dict)

    def take(self, fault: str) -> bool:
        """Tell whether the next chat shall fail so, and count it."""
        left = self.faults.get(fault, 0)
        self.faults[fault] = max(0, left - 1)
        return left > 0


class ProtocolError(Exception):
    """An error that is answered with a status and a text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def named(state: State, body: dict[str, Any]) -> str:
    """Return the installed model that the body names, tag included."""
    given = body.get("model") or body.get("name")
    if not given:
        raise ProtocolError(400, "model is required")
    name = given if ":" in given else f"{given}:latest"
    if name not in state.backends:
        raise ProtocolError(404, f"model '{given}' not found")
    return str(name)


async def load(state: State, name: str, body: dict[str, Any]) -> int:
    """Put a model into memory unless it is there, loaded the same way; return the time taken in ns.

    As in Ollama, the window and `shift` are told to a model when it is loaded.
    """
    options = body.get("options") or {}
    window = int(options.get("num_ctx") or state.context_tokens)
    shift = body.get("shift") is not False
    started_ns = time.monotonic_ns()
    async with state.loading:
        held = state.loaded.get(name)
        if held is None or (held.context_tokens, held.shift) != (window, shift):
            await asyncio.sleep(state.faults.get("load_delay_s", 0))
            state.loads[name] += 1
            state.loaded[name] = Loaded(window, datetime.now(UTC), shift, held.running if held else 0)
    return time.monotonic_ns() - started_ns


def shortened(messages: list[dict[str, Any]], *, shift: bool) -> list[dict[str, Any]]:
    """Return a chat that is too long without its oldest words, as Ollama does without a word.

    The oldest message goes that is neither a system's nor the last; then half of the longest text, if the
    model was loaded to shift its context.
    """
    oldest = next((index for index, each in enumerate(messages[:-1]) if each.get("role") != "system"), None)
    if oldest is not None:
        return messages[:oldest] + messages[oldest + 1 :]
    longest = max(range(len(messages)), key=lambda index: len(messages[index].get("content") or ""))
    text = messages[longest].get("content") or ""
    if not shift or len(text) < 2:
        raise ProtocolError(400, TOO_LONG)
    cut = messages[longest] | {"content": text[len(text) // 2 :]}
    return [*messages[:longest], cut, *messages[longest + 1 :]]


def keep(state: State, name: str, body: dict[str, Any]) -> None:
    """Set until when a model stays in memory."""
    seconds = wire.keep_alive_s(body.get("keep_alive")) or state.faults.get("unload_delay_s", 0.0)
    stay = wire.FOR_EVER if seconds < 0 else timedelta(seconds=seconds)
    if name in state.loaded:
        state.loaded[name].expires_at = datetime.now(UTC) + stay
