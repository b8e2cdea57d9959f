"""The traffic: varied chat requests, some streamed, and what became of each as its client saw it."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from trivet.lab.demo.tenants import User

BUDGET_CODES = frozenset({"budget_exhausted", "budget_contended", "request_too_large"})

SIMPLE = (
    "Hello!",
    "What time is it in Lima?",
    "Translate 'good morning' into French.",
    "Is 91 a prime number?",
    "Give me a synonym for quick.",
)
MEDIUM = (
    (
        "Summarise the main differences between TCP and UDP for a new colleague, with one example of each, "
        "and explain when a retransmission is worth its latency."
    ),
    (
        "Write a short function that merges two sorted lists, then explain its complexity and compare it "
        "with sorting the concatenation. Mention the trade-offs for memory as well."
    ),
    (
        "Our nightly job analyzes log files and sometimes fails with a timeout after the second retry. "
        "Explain what could cause it and how we would debug it step by step."
    ),
)
HARD = (
    (
        "Analyze the security implications of our multi-tenant architecture: each service authenticates with "
        "mutual TLS, the audit pipeline is asynchronous, and the compliance report must evaluate each "
        "cross-region failover. Design a threat model, compare two mitigations and justify the choice."
    ),
    (
        "Evaluate a migration strategy from a monolith to an event-driven distributed system. Analyze the "
        "consistency guarantees, the concurrency hazards and the rollback plan, and design an architecture "
        "that keeps the security boundary while we optimize the throughput."
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to be sent."""

    user: User
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        """Tell whether it asks for a stream."""
        return bool(self.body.get("stream"))


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    requests: int = 0
    errors: int = 0
    cut_streams: int = 0
    refused: int = 0
    fallbacks: int = 0
    by_tier: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def make_calls(users: Sequence[User], count: int, dice: random.Random) -> list[Call]:
    """Return a reproducible mixture: simple, medium and hard prompts, by tier name, streamed or not."""
    crowd = [user for user in users for _ in range(user.share)]
    return [Call(dice.choice(crowd), _body(dice)) for _ in range(count)]


def standard_burst(users: Sequence[User], count: int, dice: random.Random) -> list[Call]:
    """Return plain requests to the STANDARD tier that are long enough to be caught in flight."""
    rich = [user for user in users if not user.scope.endswith("dana")]
    body = {"model": "standard", "messages": [{"role": "user", "content": MEDIUM[0]}], "max_tokens": 160}
    return [Call(dice.choice(rich), dict(body)) for _ in range(count)]


async def send(http: httpx.AsyncClient, call: Call, tally: Tally) -> None:
    """Send one request and note what its client saw."""
    tally.requests += 1
    try:
        async with http.stream(
            "POST",
            "/v1/chat/completions",
            json=call.body,
            headers={"authorization": f"Bearer {call.user.api_key}"},
        ) as response:
            if response.status_code != 200:
                _note_refusal(response.status_code, await response.aread(), tally)
                return
            tier = response.headers["x-trivet-tier"]
            tally.by_tier[tier] = tally.by_tier.get(tier, 0) + 1
            tally.fallbacks += int(response.headers["x-trivet-attempts"]) - 1
            body = await response.aread()
            if call.stream and not body.endswith(b"data: [DONE]\n\n"):
                tally.cut_streams += 1
    except httpx.TransportError as error:
        tally.errors += 1
        tally.complaints.append(f"{type(error).__name__}: {error}")


def _note_refusal(status: int, body: bytes, tally: Tally) -> None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"code": "not_json", "message": body[:200].decode("utf-8", "replace")}
    if error["code"] in BUDGET_CODES:
        tally.refused += 1
    else:
        # A healthy candidate exists throughout: only one engine of three is ever down.
        tally.errors += 1
        tally.complaints.append(f"{status} {error['code']}: {error['message']}")


def _body(dice: random.Random) -> dict[str, Any]:
    kind = dice.choices(("simple", "medium", "hard", "task", "pinned"), weights=(45, 22, 15, 12, 6))[0]
    body: dict[str, Any] = {
        "model": "auto",
        "max_tokens": dice.choice((8, 16, 24, 48)),
        "seed": dice.randrange(1000),
    }
    metadata: dict[str, Any] = {}
    text = dice.choice({"medium": MEDIUM, "hard": HARD}.get(kind, SIMPLE))
    if kind == "hard":
        metadata |= {"capabilities": "security_analysis,architecture", "context_tokens": "4096"}
    elif kind == "task":
        metadata |= {
            "task_type": dice.choice(("fix_bug", "simple_query", "analyze_logs", "investigate_error"))
        }
        text = dice.choice(SIMPLE + MEDIUM)
    elif kind == "pinned":
        body["model"] = dice.choice(("light", "standard", "heavy"))
    if metadata:
        body["metadata"] = metadata
    body["messages"] = [{"role": "user", "content": text}]
    if dice.random() < 0.4:
        body["stream"] = True
    return body
