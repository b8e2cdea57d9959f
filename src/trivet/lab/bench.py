"""How long a routing decision takes on this machine: parse, describe, decide; JSON is not decoded."""

import gzip
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trivet.config.settings import RoutingSettings
from trivet.domain.decisions import Offer
from trivet.domain.errors import ConfigError
from trivet.domain.tiers import Deployment, Tier
from trivet.routing.complexity import DEFAULT_TIERS
from trivet.routing.request import parse_chat
from trivet.routing.router import Router
from trivet.routing.surfaces import describe

DEFAULT_LENGTHS: tuple[int | None, ...] = (None, 3000, 32000)
WARM_UP = 50

# What an OpenAI client sends along; the hints among them are read.
_HEADERS = {
    "host": "127.0.0.1:8748",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python",
    "accept": "application/json",
    "x-trivet-task-type": "fix_bug",
    "x-trivet-session": "bench",
}


def bench_decide(
    prompts: Sequence[str], *, lengths: Sequence[int | None] = DEFAULT_LENGTHS, n: int
) -> list[dict[str, Any]]:
    """Time `n` decisions for each length, over one ready deployment in each of the three default tiers.

    Args:
        prompts: texts of the user message, taken evenly over the whole list.
        lengths: characters to cut or pad (by repetition) each prompt to; None leaves it as it is.
        n: decisions timed for each length, at least 1.

    Returns:
        A row `{chars, n, p50_us, p99_us}` for each length: wall time in microseconds; `chars` of the
        prompts as they are is their median.

    Raises:
        ConfigError: there are no prompts, or one is empty and cannot be padded.
    """
    if not prompts or n < 1:
        raise ConfigError("There is nothing to time.", hint="Give at least one prompt and n of at least 1.")
    settings = RoutingSettings()
    router = Router(settings, DEFAULT_TIERS)
    offers = [_offer(tier) for tier in DEFAULT_TIERS]
    rows: list[dict[str, Any]] = []
    for length in lengths:
        chosen = [prompts[i * len(prompts) // n if n < len(prompts) else i % len(prompts)] for i in range(n)]
        for text in chosen[:WARM_UP]:
            _decision_ns(router, offers, settings, _fitted(text, length))
        taken = sorted(_decision_ns(router, offers, settings, _fitted(text, length)) for text in chosen)
        rows.append(
            {
                "chars": length if length is not None else sorted(len(text) for text in chosen)[n // 2],
                "n": n,
                "p50_us": round(taken[math.ceil(0.50 * n) - 1] / 1000, 1),
                "p99_us": round(taken[math.ceil(0.99 * n) - 1] / 1000, 1),
            }
        )
    return rows


def load_prompts(path: Path | str) -> list[str]:
    """Read the `prompt` of each row of a JSONL file, gzipped if its name ends in `.gz`.

    Raises:
        ConfigError: the file cannot be read, or a row has no text under `prompt`.
    """
    path = Path(path)
    prompts: list[str] = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8") as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    prompts.append(_prompt(json.loads(line), path, number))
    except (OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON lines: {error}.", param="data") from error
    return prompts


def built_in_prompts(count: int = 400) -> list[str]:
    """Return made-up prompts of many lengths and kinds, always the same ones."""
    return [_made_up(index) for index in range(count)]


_OPENINGS = (
    "Hello, can you tell me {x}?",
    "Summarise in two sentences what is known about {x}.",
    "Analyze the security implications of {x} and compare two alternatives.",
    "Write a function that computes {x}, with tests, and explain its complexity.",
    "A train leaves at {n}:15 and covers {n}7 km per hour; how does that bear on {x}?",
    "Bitte erkl\u00e4re Schritt f\u00fcr Schritt, wie {x} funktioniert.",
)
_TOPICS = (
    "the opening hours of the library",
    "a zero-downtime migration of a payments database",
    "sorting a list of intervals by their end",
    "the harvest of winter wheat",
    "mutual authentication between two services",
    "a deadlock between two worker threads",
    "the shortest tour through eleven towns",
)
_DETAILS = (
    "Assume that the budget is limited and that nobody may be disturbed at night.",
    "Keep to 120 words; use a table where it helps: name, amount, date.",
    "The log says: connection reset after 30.5 s (attempt 3 of 5), retrying in 250 ms.",
    "Consider, among other things, the cost, the risk of data loss, and who has to approve it.",
    "for row in rows:\n    total += row['amount'] * (1 - row['discount'])\n",
)


def _made_up(index: int) -> str:
    opening = _OPENINGS[index % len(_OPENINGS)]
    text = opening.format(x=_TOPICS[index // 3 % len(_TOPICS)], n=1 + index % 9)
    # Zero to forty further sentences, mostly few, as in real traffic.
    details = (
        _DETAILS[(index + step) % len(_DETAILS)] for step in range((index * index) % 41 // (1 + index % 4))
    )
    return " ".join((text, *details))


def _prompt(row: Any, path: Path, number: int) -> str:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise ConfigError(f"{path}, line {number}: there is no text under `prompt`.", param="data")
    return prompt


def _fitted(text: str, length: int | None) -> str:
    if length is None:
        return text
    if not text:
        raise ConfigError("An empty prompt cannot be padded.", param="data")
    repeated = text if len(text) >= length else f"{text} " * (length // (len(text) + 1) + 1)
    return repeated[:length]


def _decision_ns(router: Router, offers: Sequence[Offer], settings: RoutingSettings, text: str) -> int:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "temperature": 0.2}
    started_ns = time.perf_counter_ns()
    request = parse_chat(body, body_bytes=len(text), headers=_HEADERS)
    needs = describe(request, text_limit_chars=settings.text_limit_chars)
    router.decide(request, needs, offers, principal=None, decision_id="bench")
    return time.perf_counter_ns() - started_ns


def _offer(tier: Tier) -> Offer:
    return Offer(
        Deployment(
            name=f"bench/{tier.name}",
            tier=tier,
            engine="vllm",
            model=f"{tier.name}-model",
            transport="relay",
            url="http://127.0.0.1:8000",
            context_tokens=131_072,
            slots=8,
            devices=(),
        )
    )
