"""Clients that hold budget through the supervisor of holds until it is exhausted, no server in between.

`python -m tests.proofs.ledger_clients`, told what by JSON on stdin. The engine is a pair of dice here;
it counts what it worked.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.proofs.clients import CAPACITY, OUTPUTS, POLICY, STOPS, Refusal, Tally
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Priority
from trivet.domain.clock import SystemClock
from trivet.domain.errors import BudgetError, TrivetError
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.execution import Settler
from trivet.storage.database import Database
from trivet.storage.postgres import PostgresDatabase

PROMPT = 180
MINIMUM_OUTPUT = 64
WAIT_S = 2.0


@dataclass(slots=True, kw_only=True)
class LedgerOrders:
    """What one process is told."""

    path: str | None
    url: str | None
    organisation: str
    scopes: list[str]
    limits: dict[str, int]
    window: str
    ladder: str
    first_client: int
    clients: int
    seed: int


@dataclass(slots=True)
class LedgerTally(Tally):
    """What the clients saw, and what the engine counted."""

    worked: dict[str, int] = field(default_factory=dict)


def settings_of(ladder: str) -> BudgetSettings:
    """Return settings without default limits."""
    return BudgetSettings.model_validate(
        {"default_daily_tokens": None, "default_monthly_tokens": None, "ladder": ladder}
    )


class LedgerClient:
    """One client."""

    def __init__(self, orders: LedgerOrders, number: int, settler: Settler, tally: LedgerTally) -> None:
        self._orders = orders
        self._number = number
        self._settler = settler
        self._tally = tally
        self._dice = random.Random(f"{orders.seed}-{number}")
        self._scopes = list(orders.scopes)
        self._dice.shuffle(self._scopes)
        self._priority: Priority = "batch" if number % 8 == 7 else "interactive"
        self._sent = 0

    async def run(self) -> None:
        """Ask until nothing is left to ask for."""
        while self._scopes:
            await self._ask_once()

    async def _ask_once(self) -> None:
        dice, tally = self._dice, self._tally
        self._sent += 1
        scope = Scope(self._scopes[self._sent % len(self._scopes)])
        output, weight = dice.choice(OUTPUTS), dice.choice((1, 1, 3, 10))
        hold = Hold(
            scope=scope,
            prompt=Amounts(PROMPT, PROMPT * weight),
            output=Amounts(output, output * weight),
            max_output=output,
            min_output=MINIMUM_OUTPUT,
            priority=self._priority,
            tier="heavy" if weight == 10 else "light",
            dearest=weight == 10,
        )
        sent_ns = time.time_ns()
        tally.requests += 1
        try:
            held = await self._settler.hold(hold, wait_s=WAIT_S)
        except BudgetError as refused:
            self._refused(scope, refused, sent_ns)
            return
        except TrivetError as error:
            tally.failed(error.code)
            await asyncio.sleep(0.05)
            return
        finally:
            tally.latencies_ms.append((time.time_ns() - sent_ns) / 1e6)
        if dice.random() < 0.1:
            await self._settler.release(held.reservation_id, nothing_to_write)
            return
        prompt = dice.randint(PROMPT // 4, PROMPT)
        completion = held.max_output if dice.random() < 0.25 else dice.randint(1, held.max_output)
        tenant = self._orders.organisation
        tally.worked[tenant] = tally.worked.get(tenant, 0) + prompt + completion
        await asyncio.sleep(dice.uniform(0, 0.004))
        charged = Amounts(prompt + completion, (prompt + completion) * weight)
        usage = Usage(prompt, completion)
        await self._settler.settle(held.reservation_id, usage, charged, nothing_to_write)
        tally.served += 1

    def _refused(self, scope: Scope, refused: BudgetError, sent_ns: int) -> None:
        facts = refused.details
        if refused.code in CAPACITY:
            self._tally.refusals.append(
                Refusal(
                    refused.code,
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
        elif refused.code in POLICY:
            self._tally.policy_refusals += 1
        if refused.code in STOPS and facts["scope"] == self._orders.organisation:
            self._scopes.clear()
        elif refused.code in STOPS:
            self._scopes.remove(scope)


def nothing_to_write() -> Callable[[Any], None]:
    """Write no outcome: there is no request."""
    return lambda _: None


async def run(orders: LedgerOrders, ledger: Ledger) -> LedgerTally:
    """Set the limits, which is the same whoever does it, and run the clients to their end."""
    tally = LedgerTally()
    for scope, amount in orders.limits.items():
        setting = ledger.set_limit(Scope(scope), orders.window, amount, author="storm")  # type: ignore[arg-type]
        await asyncio.wrap_future(setting)
    numbers = range(orders.first_client, orders.first_client + orders.clients)
    settler = Settler(ledger)
    await asyncio.gather(*(LedgerClient(orders, number, settler, tally).run() for number in numbers))
    await settler.drain()
    return tally


def main() -> None:
    """Read the orders, carry them out, tell what was seen."""
    orders = LedgerOrders(**json.loads(sys.stdin.buffer.readline()))
    database: Database
    if orders.url is not None:
        database = PostgresDatabase.at(orders.url)
    else:
        database = Database.open(Path(orders.path or ""))
    with database:
        ledger = Ledger(database, settings_of(orders.ladder), SystemClock())
        ledger.recover()
        tally = asyncio.run(run(orders, ledger))
    sys.stdout.write(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
