"""How long the response cache takes to find an answer, and whether it finds wrong ones, on this machine."""

import asyncio
import contextlib
import json
import math
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

from trivet.cache import Entry, RedisShelf, ResponseCache, Shelf, SqliteShelf, opened_cache
from trivet.config.cache_settings import CacheSettings
from trivet.domain.clock import SystemClock
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment, Tier
from trivet.lab.question_pairs import likeness_table, unlike_pairs
from trivet.lab.scratch_redis import ScratchRedis
from trivet.storage.redis_link import RedisLink

Store = Literal["sqlite", "redis"]

ORGANISATIONS = 10
ANSWER_BYTES = 1200
_AT_ONCE = 512
_TOPICS = (
    "router",
    "gateway",
    "firewall",
    "switch",
    "proxy",
    "cache",
    "queue",
    "broker",
    "server",
    "cluster",
)
_VERBS = (
    "restart",
    "upgrade",
    "inspect",
    "replace",
    "migrate",
    "drain",
    "resize",
    "secure",
    "watch",
    "archive",
)
_TIER = Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)
_DEPLOYMENT = Deployment(
    name="bench",
    tier=_TIER,
    engine="openai",
    model="bench",
    transport="relay",
    url=None,
    context_tokens=8192,
    slots=1,
    devices=(),
)


def bench_cache(
    *, entries: int, lookups: int, store: Store = "sqlite", directory: Path | None = None
) -> dict[str, Any]:
    """Fill a cache, then time lookups one after the other: the same question, another wording, none like it.

    Args:
        entries: answers that it holds, of ten organisations, each of 1,200 bytes.
        lookups: of each kind.
        store: what holds them; redis is a server made for this.
        directory: where the file lies; by default the system's place for such.

    Returns:
        For exact, similar and miss: p50, p99 and CPU (of this process, all threads) of a lookup, from the
        request's body to the answer; filled_per_s; bytes; wrong: lookups that gave another question's answer,
        or none; machine_p99_ms: what a tenth of a millisecond of computing, and nothing else, takes here at
        the 99th percentile, so that the figures can be judged; false_hits: of our own pairs that do not say
        the same, how many the cache took for the same; pairs: the same without a store, and what character
        trigrams would do (see `question_pairs`).
    """
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=directory) as place:
        return asyncio.run(_bench(entries, lookups, store, Path(place)))


async def _bench(entries: int, lookups: int, store: Store, place: Path) -> dict[str, Any]:
    settings = CacheSettings(enabled=True, mode="similar", max_bytes=2**40)
    measured: dict[str, Any] = {"store": store, "entries": entries, "lookups": lookups}
    async with (
        _shelf(store, place, settings.max_bytes) as shelf,
        opened_cache(shelf, bytes(32), settings, SystemClock()) as cache,
    ):
        measured["filled_per_s"] = round(entries / await _fill(cache, entries), 1)
        measured["bytes"] = cache.filling.bytes
        dice = random.Random(7)  # noqa: S311 - chooses what is looked up
        numbers = [dice.randrange(entries) for _ in range(lookups)]
        wrong = 0
        for kind, asked in (
            ("exact", _question),
            ("similar", _reworded),
            ("miss", lambda n: _question(n + entries)),
        ):
            figures, found_wrong = await _timed(cache, kind, numbers, asked)
            measured |= figures
            wrong += found_wrong
        measured["machine_p99_ms"] = _machine_p99_ms(lookups)
        measured |= {"wrong": wrong, "false_hits": await _false_hits(cache)}
    return measured | {"pairs": likeness_table(settings.similarity_threshold)}


@contextlib.asynccontextmanager
async def _shelf(store: Store, place: Path, max_bytes: int) -> AsyncIterator[Shelf]:
    if store == "sqlite":
        yield SqliteShelf(place / "cache.db", max_bytes=max_bytes)
        return
    with ScratchRedis() as server:
        link = RedisLink(server.url, timeout_s=5.0, clock=SystemClock())
        yield RedisShelf(link, max_bytes=max_bytes)
        await link.aclose()


async def _fill(cache: ResponseCache, entries: int) -> float:
    begun_s = time.monotonic()
    for first in range(0, entries, _AT_ONCE):
        for number in range(first, min(entries, first + _AT_ONCE)):
            _keep(cache, _scope(number), _question(number), _answer(number))
        await cache.settled()
    return time.monotonic() - begun_s


async def _timed(
    cache: ResponseCache, kind: str, numbers: list[int], asked: Callable[[int], str]
) -> tuple[dict[str, Any], int]:
    taken_ms: list[float] = []
    wrong = 0
    cpu_s = time.process_time()
    for number in numbers:
        body = _body(asked(number))
        begun_s = time.perf_counter()
        found = await cache.find(cache.place_of(_scope(number), _DEPLOYMENT, body))
        taken_ms.append(1000 * (time.perf_counter() - begun_s))
        expected = None if kind == "miss" else _answer(number)
        wrong += (None if found is None else found.body) != expected
    cpu_s = time.process_time() - cpu_s
    taken_ms.sort()
    return {
        f"{kind}_p50_ms": _percentile(taken_ms, 0.50),
        f"{kind}_p99_ms": _percentile(taken_ms, 0.99),
        f"{kind}_cpu_ms": round(1000 * cpu_s / len(numbers), 3),
    }, wrong


async def _false_hits(cache: ResponseCache) -> int:
    """Keep the answer to the first of each pair, and ask the second, in one organisation."""
    scope = Scope("pairs")
    hits = 0
    for first, second in unlike_pairs():
        _keep(cache, scope, first, first.encode())
        await cache.settled()
        found = await cache.find(cache.place_of(scope, _DEPLOYMENT, _body(second)))
        # What was kept for an earlier pair may be this very question.
        hits += found is not None and found.body == first.encode()
    return hits


def _machine_p99_ms(times: int) -> float:
    taken_ms = []
    for _ in range(times):
        begun_s = time.perf_counter()
        while time.perf_counter() - begun_s < 1e-4:
            pass
        taken_ms.append(1000 * (time.perf_counter() - begun_s))
    return _percentile(sorted(taken_ms), 0.99)


def _keep(cache: ResponseCache, scope: Scope, question: str, answer: bytes) -> None:
    expires_ns = cache.expiry_ns()

    def entry() -> Entry:
        return Entry(
            place=cache.place_of(scope, _DEPLOYMENT, _body(question)),
            scope=scope,
            tier=_TIER.name,
            deployment=_DEPLOYMENT.name,
            body=answer,
            device_ns=1_000_000_000,
            worth_ns=1_000_000_000,
            expires_ns=expires_ns,
        )

    cache.keep(entry)


def _scope(number: int) -> Scope:
    return Scope(f"org-{number % ORGANISATIONS}")


def _question(number: int) -> str:
    verb, topic = _VERBS[number % 10], _TOPICS[number // 10 % 10]
    return f"How do I {verb} the {topic} number {number} in rack {number % 97} of the second building?"


def _reworded(number: int) -> str:
    return f"Hi, h{_question(number)[1:]} Thanks!"


def _answer(number: int) -> bytes:
    return json.dumps({"number": number, "text": ""}).encode().ljust(ANSWER_BYTES)


def _body(question: str) -> dict[str, Any]:
    system = {"role": "system", "content": "You are the assistant of a data centre. Answer briefly."}
    return {"messages": [system, {"role": "user", "content": question}], "max_tokens": 256, "temperature": 0}


def _percentile(ordered: list[float], part: float) -> float:
    return round(ordered[math.ceil(part * len(ordered)) - 1], 3)
