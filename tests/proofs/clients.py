"""Clients that ask until the budget is exhausted: `python -m tests.proofs.clients`, told what by stdin.

Each client goes through its scopes in an order of its own. It leaves a scope that has less than one useful
hold left, and ends when there is no scope left, or the whole organisation has no more.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

OUTPUTS = (64, 96, 128, 192, 256, 400)
PROMPT_BYTES = 96
STOPS = frozenset({"budget_exhausted", "nonessential_blocked"})
CAPACITY = frozenset({"budget_exhausted", "budget_contended", "request_too_large"})
POLICY = frozenset({"approval_required", "nonessential_blocked"})


@dataclass(slots=True, kw_only=True)
class Orders:
    """What one process of clients is told."""

    urls: list[str]
    key: str
    organisation: str
    scopes: list[str]
    first_client: int
    clients: int
    seed: int
    mode: str = "mixed"
    """plain, stream, or mixed."""
    until_killed: bool = False
    """Keep asking while the servers come and go, until standard input ends; when an organisation is
    exhausted, go on with the next: `acme0`, `acme1` ..."""


@dataclass(slots=True)
class Refusal:
    """One refusal for lack of tokens: when it was asked for and answered, and what it said."""

    code: str
    scope: str
    sent_ns: int
    received_ns: int
    row_scope: str
    window: str
    used: int
    held: int
    limit: int


@dataclass(slots=True)
class Tally:
    """What the clients of a process saw."""

    requests: int = 0
    served: int = 0
    policy_refusals: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def failed(self, why: str) -> None:
        """Count what is neither an answer nor a refusal."""
        self.failures[why] = self.failures.get(why, 0) + 1


def body_of(dice: random.Random, organisation: str, number: str, mode: str, tier: str) -> dict[str, Any]:
    """Return a request whose prompt has always the same size, so that all minimum holds are one."""
    text = f"{organisation} {number} ".ljust(PROMPT_BYTES, ".")
    stream = mode == "stream" or (mode == "mixed" and dice.random() < 0.5)
    return {
        "model": tier,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": dice.choice(OUTPUTS),
        "stream": stream,
    }


class Client:
    """One client, with one connection at a time."""

    def __init__(self, orders: Orders, number: int, session: aiohttp.ClientSession, tally: Tally) -> None:
        self._orders = orders
        self._number = number
        self._session = session
        self._tally = tally
        self._dice = random.Random(f"{orders.seed}-{number}")
        self._organisation = orders.organisation
        self._spent = 0
        self._scopes = list(orders.scopes)
        self._dice.shuffle(self._scopes)
        if orders.until_killed:
            self._next_organisation()
        self._priority = "batch" if number % 8 == 7 else "interactive"
        self._tiers = ["light", "light", "auto", "standard", "heavy"]
        self._sent = 0

    async def run(self) -> None:
        """Ask until nothing is left to ask for."""
        while self._scopes:
            await self._ask_once()

    async def _ask_once(self) -> None:
        self._sent += 1
        scope = self._scopes[self._sent % len(self._scopes)]
        body = body_of(
            self._dice,
            self._organisation,
            f"{self._number}-{self._sent}",
            self._orders.mode,
            self._dice.choice(self._tiers),
        )
        url = self._orders.urls[self._sent % len(self._orders.urls)]
        headers = {
            "authorization": f"Bearer {self._orders.key}",
            "x-trivet-scope": scope,
            "x-trivet-priority": self._priority,
        }
        sent_ns = time.time_ns()
        try:
            async with self._session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
                raw = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            if not self._orders.until_killed:
                self._tally.requests += 1
                self._tally.failed(type(error).__name__)
            await asyncio.sleep(self._dice.uniform(0.05, 0.15))
            return
        self._tally.requests += 1
        self._tally.latencies_ms.append((time.time_ns() - sent_ns) / 1e6)
        if status == 200:
            whole = raw.endswith(b"data: [DONE]\n\n") if body["stream"] else b'"usage"' in raw
            if whole:
                self._tally.served += 1
            elif not self._orders.until_killed:
                self._tally.failed("incomplete")
            return
        await self._refused(scope, status, raw, sent_ns)

    async def _refused(self, scope: str, status: int, raw: bytes, sent_ns: int) -> None:
        error = json.loads(raw)["error"]
        code, facts = error["code"], error.get("trivet") or {}
        if code in CAPACITY:
            self._tally.refusals.append(
                Refusal(
                    code,
                    scope,
                    sent_ns,
                    time.time_ns(),
                    facts["scope"],
                    facts["window"],
                    facts["used"],
                    facts["held"],
                    facts["limit"],
                )
            )
        elif code in POLICY:
            self._tally.policy_refusals += 1
        elif not self._orders.until_killed:
            self._tally.failed(f"{status} {code}")
        if code == "approval_required":
            self._tiers = ["light", "auto"]
        elif code in STOPS and self._orders.until_killed:
            if facts["scope"] == self._organisation:
                self._next_organisation()
        elif code in STOPS and facts["scope"] == self._organisation:
            self._scopes.clear()
        elif code in STOPS:
            self._scopes.remove(scope)
        elif status >= 500:
            await asyncio.sleep(0.02)

    def _next_organisation(self) -> None:
        before, self._organisation = self._organisation, f"{self._orders.organisation}{self._spent}"
        self._scopes = [scope.replace(before, self._organisation, 1) for scope in self._scopes]
        self._spent += 1


async def run(orders: Orders) -> Tally:
    """Run the clients to their end, or until standard input ends."""
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        numbers = range(orders.first_client, orders.first_client + orders.clients)
        tasks = [asyncio.create_task(Client(orders, each, session, tally).run()) for each in numbers]
        if orders.until_killed:
            ended = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
            await asyncio.wait({ended, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        else:
            await asyncio.gather(*tasks)
    return tally


def main() -> None:
    """Read the orders, carry them out, tell what was seen."""
    tally = asyncio.run(run(Orders(**json.loads(sys.stdin.buffer.readline()))))
    sys.stdout.write(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
