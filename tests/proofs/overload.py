"""Offer an engine five times what it can do; judge who was served, how promptly, what the rest was told.

`scripts/overload`. One `trivet serve` on SQLite stands in front of an engine stand-in of known pace, each in
a process of its own; the clients here speak HTTP and stream. First a few critical requests at a time tell the
time to first token without load, then as many clients as the engine has slots tell the peak, then Poisson
arrivals at five times the peak come from three tenants, a few of them critical, a third batch.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.doubles.programs import Programs
from tests.proofs.provenance import provenance
from tests.proofs.servers import PEPPER, Server, heed_signals
from trivet.access import Keyring
from trivet.config.settings import AccessSettings
from trivet.domain.budgets import Priority
from trivet.domain.clock import SystemClock
from trivet.domain.scopes import Scope
from trivet.storage.database import Database

TENANTS = ("acme.search", "acme.mail", "beta.bots")
PUSH = (1, 2, 5)
"""How much more the later tenants ask for."""
GOODPUT_MIN = 0.9
TTFT_RATIO_MAX = 1.5
UNLOADED_AT_ONCE = 4
QUEUED = re.compile(r"It waited ([0-9.]+) s for its turn")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One overload."""

    slots: int = 32
    first_ms: float = 1000.0
    total_ms: float = 4000.0
    spread: float = 0.5
    """How much longer or shorter than that an answer may take, as a part of it."""
    factor: float = 5.0
    seconds: float = 60.0
    unloaded: int = 40
    critical_share: float = 0.02
    batch_share: float = 0.33
    max_wait_s: float = 8.0
    seed: int = 1

    @property
    def capacity_per_s(self) -> float:
        """Return what the engine can do."""
        return self.slots * 1000.0 / self.total_ms


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    first_ms: dict[str, list[float]] = field(default_factory=dict)
    """From sending to the first content, by priority."""
    queued_s: dict[str, list[float]] = field(default_factory=dict)
    """Waits for a turn, by priority, as Trivet tells them among its reasons."""
    served: Counter[str] = field(default_factory=Counter)
    """By tenant, non-critical ones."""
    ends_s: list[float] = field(default_factory=list)
    """When whole answers ended, since the begin."""
    refused: Counter[str] = field(default_factory=Counter)
    """By priority."""
    retry_after_s: list[int] = field(default_factory=list)
    refused_in_ms: list[float] = field(default_factory=list)
    refused_late: int = 0
    """Who was let into the queue and waited in vain; told at the end of the stream."""
    failures: Counter[str] = field(default_factory=Counter)


class Clients:
    """Asks one Trivet."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, keys: dict[tuple[str, Priority], str]
    ) -> None:
        self._session = session
        self._url = url
        self._keys = keys
        self._begun_s = time.monotonic()

    def begin(self) -> None:
        """Count seconds from now on."""
        self._begun_s = time.monotonic()

    async def ask(self, seen: Seen, scope: str, priority: Priority) -> None:
        """Ask once and note what came of it."""
        sent_s = time.monotonic()
        body = {
            "model": "openai/light",
            "messages": [{"role": "user", "content": f"Hello {sent_s}"}],
            "max_tokens": 8,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {self._keys[scope, priority]}"}
        try:
            async with self._session.post(
                f"{self._url}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                if answer.status != 200:
                    self._refused(seen, priority, answer, await answer.json(), sent_s)
                    return
                await self._read(seen, scope, priority, answer, sent_s)
        except (aiohttp.ClientError, TimeoutError) as fault:
            seen.failures[type(fault).__name__] += 1

    def _refused(
        self,
        seen: Seen,
        priority: Priority,
        answer: aiohttp.ClientResponse,
        told: dict[str, Any],
        sent_s: float,
    ) -> None:
        if told["error"]["code"] != "overloaded":
            seen.failures[f"{answer.status} {told['error']['code']}"] += 1
            return
        seen.refused[priority] += 1
        seen.retry_after_s.append(int(answer.headers["retry-after"]))
        seen.refused_in_ms.append((time.monotonic() - sent_s) * 1000)

    async def _read(
        self, seen: Seen, scope: str, priority: Priority, answer: aiohttp.ClientResponse, sent_s: float
    ) -> None:
        told = QUEUED.search(answer.headers["x-trivet-reason"])
        seen.queued_s.setdefault(priority, []).append(float(told[1]) if told else 0.0)
        whole, first = False, True
        async for line in answer.content:
            if first and b'"content"' in line:
                first = False
                seen.first_ms.setdefault(priority, []).append((time.monotonic() - sent_s) * 1000)
            whole = whole or line.startswith(b"data: [DONE]")
            if line.startswith(b"data: {") and b'"error"' in line:
                code = json.loads(line[6:])["error"]["code"]
                seen.refused_late += code == "overloaded"
                seen.failures.update([code] if code != "overloaded" else [])
        if whole:
            seen.ends_s.append(time.monotonic() - self._begun_s)
            if priority != "critical":
                seen.served[scope] += 1


def run(plan: Plan) -> dict[str, Any]:
    """Run an overload and return its figures."""
    with (
        tempfile.TemporaryDirectory(prefix="trivet-overload-") as directory,
        _serving(plan, Path(directory)) as found,
    ):
        url, engine_url, keys = found
        return asyncio.run(_measured(plan, url, engine_url, keys))


async def _measured(
    plan: Plan, url: str, engine_url: str, keys: dict[tuple[str, Priority], str]
) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = Clients(session, url, keys)
        idle, full, over = Seen(), Seen(), Seen()
        for _ in range(plan.unloaded // UNLOADED_AT_ONCE):
            asking = (clients.ask(idle, TENANTS[0], "critical") for _ in range(UNLOADED_AT_ONCE))
            await asyncio.gather(*asking)
        peak = await _peak(plan, clients, full)
        watch = asyncio.create_task(_watch(session, url))
        await _overload(plan, clients, over, plan.factor * peak)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        async with session.get(f"{engine_url}/count") as answer:
            engine = await answer.json()
        gate = await _gate(session, url, keys["", "critical"])
    return judged(plan, idle, peak, over, engine, gate)


async def _peak(plan: Plan, clients: Clients, seen: Seen) -> float:
    """Return the answers per second of as many clients as the engine has slots."""
    seconds = 3 * plan.total_ms / 1000
    clients.begin()
    stop_s = time.monotonic() + seconds

    async def one(scope: str) -> None:
        while time.monotonic() < stop_s:
            await clients.ask(seen, scope, "interactive")

    await asyncio.gather(*(one(TENANTS[index % len(TENANTS)]) for index in range(plan.slots)))
    warm_s = plan.total_ms / 1000
    return sum(warm_s < end_s <= seconds for end_s in seen.ends_s) / (seconds - warm_s)


async def _overload(plan: Plan, clients: Clients, seen: Seen, rate_per_s: float) -> None:
    dice = random.Random(plan.seed)
    clients.begin()
    asking: set[asyncio.Task[None]] = set()
    next_s = begun_s = time.monotonic()
    while next_s - begun_s < plan.seconds:
        next_s += dice.expovariate(rate_per_s)
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        drawn = dice.random()
        priority: Priority = "interactive"
        if drawn < plan.critical_share:
            priority = "critical"
        elif drawn < plan.critical_share + plan.batch_share:
            priority = "batch"
        scope = dice.choices(TENANTS, PUSH)[0]
        task = asyncio.create_task(clients.ask(seen, scope, priority))
        asking.add(task)
        task.add_done_callback(asking.discard)
    while asking:
        await asyncio.wait(asking)


async def _watch(session: aiohttp.ClientSession, url: str) -> None:
    """Keep a scrape going, as Prometheus would."""
    while True:
        async with session.get(f"{url}/metrics") as answer:
            await answer.read()
        await asyncio.sleep(1.0)


async def _gate(session: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    async with session.get(f"{url}/api/v1/deployments", headers={"authorization": f"Bearer {key}"}) as answer:
        listed = (await answer.json())["deployments"]
    found: dict[str, Any] = next(each["admission"] for each in listed if each["admission"])
    return found


def judged(
    plan: Plan, idle: Seen, peak: float, over: Seen, engine: dict[str, Any], gate: dict[str, Any]
) -> dict[str, Any]:
    """Return the figures of an overload that is over, without the time in which the queue fills."""
    warm_s = plan.max_wait_s + plan.total_ms / 1000
    goodput = sum(warm_s < end_s <= plan.seconds for end_s in over.ends_s) / (plan.seconds - warm_s)
    unloaded = quantile(idle.first_ms["critical"], 0.99)
    critical = quantile(over.first_ms.get("critical", []), 0.99)
    waits = sorted(ms / 1000 for name in ("interactive", "batch") for ms in over.first_ms.get(name, []))
    figures = {
        "peak_per_s": round(peak, 2),
        "goodput_per_s": round(goodput, 2),
        "goodput_ratio": round(goodput / peak, 3),
        "critical_ttft_p99_ms": round(critical, 1),
        "unloaded_ttft_p99_ms": round(unloaded, 1),
        "ttft_ratio": round(critical / unloaded, 3),
        "queue_max": gate["queued_most"],
        "shed": sum(gate["shed"].values()),
        "shed_by_priority": gate["shed"],
        "served": len(over.ends_s),
        "critical_served": len(over.first_ms.get("critical", [])),
        "critical_queued_p50_s": quantile(over.queued_s.get("critical", []), 0.5),
        "critical_queued_p99_s": quantile(over.queued_s.get("critical", []), 0.99),
        "critical_refused": over.refused["critical"],
        "refused_late": over.refused_late,
        "served_by_tenant": dict(sorted(over.served.items())),
        "waited_p50_s": round(quantile(waits, 0.5), 2),
        "waited_p99_s": round(quantile(waits, 0.99), 2),
        "retry_after_p50_s": quantile(over.retry_after_s, 0.5),
        "retry_after_max_s": max(over.retry_after_s, default=0),
        "refused_in_p99_ms": round(quantile(over.refused_in_ms, 0.99), 1),
        "engine": engine,
        "capacity_per_s": plan.capacity_per_s,
        "failures": dict(over.failures + idle.failures),
        **provenance(plan.seed),
        "plan": asdict(plan),
    }
    figures["missed"] = missed(figures)
    return figures


def missed(figures: dict[str, Any]) -> list[str]:
    """Return the bars that a run misses."""
    plan = figures["plan"]
    # What fits into the bound of waiting, at the pace that was measured, and half as much again.
    queue_bound = 1.5 * figures["peak_per_s"] * plan["max_wait_s"] + plan["slots"]
    bars = {
        "goodput": figures["goodput_ratio"] >= GOODPUT_MIN,
        "critical_ttft": figures["ttft_ratio"] <= TTFT_RATIO_MAX,
        "queue": figures["queue_max"] <= queue_bound,
        "engine_queue": figures["engine"]["running_most"] <= plan["slots"]
        and figures["engine"]["waiting_most"] <= 1,
        "critical_refused": figures["critical_refused"] == 0,
        "failures": not figures["failures"],
        "shed": figures["shed"] > 0,
        # The wait was foretold too short for these.
        "refused_late": figures["refused_late"] <= 0.02 * figures["served"],
    }
    return [name for name, kept in bars.items() if not kept]


def quantile(values: list[Any], part: float) -> float:
    """Return a quantile, the nearest value above; 0 of nothing."""
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(part * len(ordered)))]) if ordered else 0.0


@contextmanager
def _serving(plan: Plan, place: Path) -> Iterator[tuple[str, str, dict[tuple[str, Priority], str]]]:
    programs = Programs()
    server: Server | None = None
    try:
        engine = programs.start(
            "tests.doubles.paced_engine",
            *("--slots", str(plan.slots), "--first-ms", str(plan.first_ms), "--total-ms", str(plan.total_ms)),
            *("--spread", str(plan.spread)),
        )
        store = place / "trivet.db"
        config = place / "trivet.yaml"
        config.write_text(yaml.safe_dump(_configuration(plan, engine.url, store)))
        with Database.open(store) as database:
            keyring = Keyring(database, AccessSettings(pepper=PEPPER), store, SystemClock())
            keys = {
                (scope, priority): keyring.create(Scope(scope), priority=priority, label="overload")[0]
                for scope in TENANTS
                for priority in _PRIORITIES
            }
            keys["", "critical"] = keyring.create(Scope("operator"), role="admin", label="overload")[0]
        server = Server(config, place / "trivet.log")
        server.start()
        yield server.url, engine.url, keys
    finally:
        if server is not None:
            server.stop()
        programs.stop()


_PRIORITIES: tuple[Priority, ...] = ("critical", "interactive", "batch")


def _configuration(plan: Plan, engine_url: str, store: Path) -> dict[str, Any]:
    ranges = {"light": [0.0, 0.5], "standard": [0.5, 1.0]}
    place = {"url": f"{engine_url}/v1", "context_tokens": 8192, "local": True, "devices": ["host"]}
    tiers = [
        {
            "name": tier,
            "cost_weight": weight,
            "complexity": ranges[tier],
            "deployments": [{"model": f"openai/{tier}", "slots": plan.slots, **place}],
        }
        for tier, weight in (("light", 1.0), ("standard", 3.0))
    ]
    # Everything goes to one engine: what is full has no other to lean on.
    tiers[1]["deployments"] = [
        {"model": "openai/standard", "url": "http://127.0.0.1:9/v1", "context_tokens": 8192}
    ]
    return {
        "store": {"path": str(store)},
        "access": {"pepper": PEPPER},
        "budgets": {"default_daily_tokens": None, "default_monthly_tokens": None},
        "logging": {"level": "warning"},
        "execution": {"admission": {"max_wait_s": plan.max_wait_s, "batch_max_wait_s": plan.max_wait_s}},
        "tiers": tiers,
    }


def main() -> int:
    """Run, print, and return 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="scripts/overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--slots", type=int, default=Plan.slots)
    parser.add_argument("--factor", type=float, default=Plan.factor)
    parser.add_argument("--max-wait-s", type=float, default=Plan.max_wait_s)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    heed_signals()
    plan = Plan(
        seconds=told.seconds, slots=told.slots, factor=told.factor, max_wait_s=told.max_wait_s, seed=told.seed
    )
    figures = run(plan)
    if told.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24} {value}")
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
