"""Clients that tell every engine beforehand how to fail, so that they know what they may see."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

ENGINES = ("told-light", "told-standard", "told-heavy")
"""The models, in the order in which the deployments called like them are asked."""
WORDS = "alpha beta gamma delta alpha beta gamma delta"
"""What the fault server says when it is well and is asked for eight tokens."""
BEFORE = (
    "503",
    "429-soon",
    "503-loading",
    "500",
    "html502",
    "redirect",
    "close-no-reply",
    "garbage",
    "no-choices",
    "error-in-200",
    "role-then-error",
    "404",
    "oversized",
    "hang",
)
"""Faults before any content, whether a stream is asked for or not."""
AFTER = ("cut", "stall", "early-end", "error-amid")
"""Faults after the first content of a stream; of a plain answer nothing has been seen then."""
SILENT = ("hang", "stall")
"""Faults that only a limit of time ends, which a busy machine may pass for other reasons, too."""
HARMLESS = ("no-usage", "wrong-usage-huge", "wrong-usage-negative")
STREAM_FAULTS = (*BEFORE, *AFTER, *HARMLESS)
# A plain answer has no events, and one that just lacks its finish reason is passed on as it is.
PLAIN_FAULTS = tuple(fault for fault in STREAM_FAULTS if fault not in ("oversized", "early-end"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, and what each engine is told to do with it."""

    stream: bool
    leaves: bool
    """Whether its client goes away amid the answer."""
    faults: dict[str, str]

    @classmethod
    def made(cls, dice: random.Random, fault_rate: float, *, silence: bool = True) -> "Ask":
        """Return the next request; without `silence` no engine is told to say nothing for long."""
        stream = dice.random() < 0.5
        kinds = STREAM_FAULTS if stream else PLAIN_FAULTS
        if not silence:
            kinds = tuple(kind for kind in kinds if kind not in SILENT)
        faults = {name: dice.choice(kinds) if dice.random() < fault_rate else "ok" for name in ENGINES}
        return cls(stream=stream, leaves=dice.random() < 0.02, faults=faults)

    @property
    def survivable(self) -> bool:
        """Tell whether any engine produces content."""
        broken = BEFORE if self.stream else (*BEFORE, *AFTER)
        return any(fault not in broken for fault in self.faults.values())

    def body(self, number: int) -> dict[str, Any]:
        """Return what is sent."""
        told = " ".join(f"{name}={fault}" for name, fault in self.faults.items())
        return {
            "model": "light",
            "messages": [{"role": "user", "content": f"Request {number}: {told}"}],
            "max_tokens": 8,
            "stream": self.stream,
        }


@dataclass(slots=True)
class Sight:
    """What all clients saw."""

    requests: int = 0
    ok: int = 0
    left: int = 0
    fallbacks: int = 0
    honest_cuts: int = 0
    """Streams that broke after their first content and said so."""
    honest_failures: Counter[str] = field(default_factory=Counter)
    """Refusals of requests that every engine was told to fail."""
    cut_streams_ended_as_success: int = 0
    client_failures_with_healthy_candidate: int = 0
    examples: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def bad(self, ask: Ask, why: str) -> None:
        """Keep some examples of what must not be."""
        if len(self.examples) < 10:
            self.examples.append(f"{why}: {ask.faults} stream={ask.stream}")


async def storm_of_faults(
    url: str, key: str, *, requests: int, clients: int, seed: int, fault_rate: float, silence: bool
) -> Sight:
    """Send the requests, so many at once, and return what was seen."""
    dice = random.Random(seed)
    asks = iter(enumerate([Ask.made(dice, fault_rate, silence=silence) for _ in range(requests)]))
    sight = Sight()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=180)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:

        async def client() -> None:
            for number, ask in asks:
                await _send(session, f"{url}/v1/chat/completions", key, number, ask, sight)

        await asyncio.gather(*(client() for _ in range(clients)))
    return sight


async def _send(
    session: aiohttp.ClientSession, url: str, key: str, number: int, ask: Ask, sight: Sight
) -> None:
    headers = {"authorization": f"Bearer {key}", "x-trivet-scope": f"storm.t{number % 5}"}
    sent_s = time.monotonic()
    sight.requests += 1
    async with session.post(url, json=ask.body(number), headers=headers) as answer:
        if ask.leaves:
            await answer.content.readany()
            sight.left += 1
            return
        raw = await answer.read()
    sight.latencies_ms.append((time.monotonic() - sent_s) * 1e3)
    sight.fallbacks += max(0, int(answer.headers.get("x-trivet-attempts", "1")) - 1)
    path = answer.headers.get("x-trivet-attempt-path", "")
    judge(ask, answer.status, raw, path, sight)


def judge(ask: Ask, status: int, raw: bytes, path: str, sight: Sight) -> None:
    """Count what one client saw, against what its engines were told.

    Args:
        ask: the request.
        status: of the answer.
        raw: its body.
        path: what was tried, from its header.
        sight: what all clients saw so far.
    """
    if status != 200:
        _judge_refusal(ask, status, raw, path, sight)
    elif ask.stream:
        _judge_stream(ask, raw, path, sight)
    else:
        _judge_plain(ask, raw, path, sight)


def _judge_refusal(ask: Ask, status: int, raw: bytes, path: str, sight: Sight) -> None:
    code = json.loads(raw)["error"]["code"]
    if ask.survivable:
        sight.client_failures_with_healthy_candidate += 1
        sight.bad(ask, f"{status} {code} after {path}")
    else:
        sight.honest_failures[f"{status} {code}"] += 1


def _judge_plain(ask: Ask, raw: bytes, path: str, sight: Sight) -> None:
    choice = json.loads(raw)["choices"][0]
    if (choice["finish_reason"], choice["message"]["content"]) == ("stop", WORDS):
        sight.ok += 1
    else:
        sight.cut_streams_ended_as_success += 1
        sight.bad(ask, f"half a plain answer after {path}")


def _judge_stream(ask: Ask, raw: bytes, path: str, sight: Sight) -> None:
    events = [event.removeprefix(b"data: ") for event in raw.split(b"\n\n") if event.startswith(b"data: ")]
    done = bool(events) and events[-1] == b"[DONE]"
    documents = [json.loads(event) for event in events if event != b"[DONE]"]
    choices = [choice for document in documents for choice in document.get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices).strip()
    finished = any(choice["finish_reason"] for choice in choices)
    whole = text == WORDS
    served_by = path.rpartition("/")[2].partition(":")[0]
    if done and whole and finished:
        sight.ok += 1
    elif done or finished or not documents or "error" not in documents[-1]:
        sight.cut_streams_ended_as_success += 1
        sight.bad(ask, f"a stream that ended with {events[-1:]} after {path}")
    elif ask.faults.get(served_by) in AFTER:
        sight.honest_cuts += 1
    else:
        sight.client_failures_with_healthy_candidate += 1
        sight.bad(ask, f"{documents[-1]['error']['code']} amid a stream of {served_by}")
