"""A ledger's life in virtual time: the real supervisor, line and admission, and dice for everything else.

Each world has a seed, which decides who asks for what, how long engines work, who goes away, when the store
stalls or fails, when the process dies. The same seed is the same world, so what fails can be looked at. The
first day ends in the middle of it. Run it by `scripts/simulate-ledger`.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trivet.budgets import Ledger
from trivet.budgets.sqlite_reserving import Reserving
from trivet.budgets.sqlite_settling import Settling
from trivet.budgets.sqlite_store import SqliteLedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, Priority, Reservation
from trivet.domain.errors import (
    BudgetContended,
    BudgetError,
    BudgetExhausted,
    RequestTooLarge,
    StoreError,
)
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.execution.settler import Settler
from trivet.lab.ledger_judge import WEIGHTED, Judge, Verdict, judged, noted, ns_of
from trivet.lab.virtual_store import Medium, StoreFaults, VirtualDatabase
from trivet.lab.virtual_time import LoopClock, run

ORGANISATIONS = ("acme", "globex")
SCOPES = tuple(
    Scope(f"{org}.t{team}.u{user}") for org in ORGANISATIONS for team in range(2) for user in range(2)
)
BEGIN_S = 86_400 - 25.0
"""Shortly before midnight of the first day."""
WAIT_S = 2.0
SWEEP_S = 5.0
MINIMUM_OUTPUT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a simulation is made of. Probabilities are per request, times in seconds."""

    requests: int = 1_000
    clients: int = 40
    seed: int = 1
    ladder: str = "default"
    deaths: float = 0.002
    leaves: float = 0.1
    outside: float = 0.1
    falls_back: float = 0.15
    faults: StoreFaults = field(default_factory=StoreFaults)
    organisation_tokens: int = 60_000
    """A day's limit. A team has 60 % of it, an organisation's weighted tokens three times as much."""
    reserving: type[Reserving] = Reserving
    settling: type[Settling] = Settling
    """Other ones are for simulations that plant faults."""


class Simulation:
    """One world while it runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = random.Random(world.seed)  # noqa: S311 - dice
        self._medium = Medium()
        self._clock = LoopClock()
        self._limits = _limits(world)
        self._judge = Judge(world.seed, self._clock, self._medium.connection, self._limits)
        self.verdict = self._judge.verdict
        self._left = world.requests
        self._limited = False
        self._outside: set[asyncio.Task[None]] = set()

    async def run(self) -> Verdict:
        """Live through it, process after process, and judge."""
        await asyncio.sleep(BEGIN_S)
        try:
            while self._left > 0:
                await self._life()
            self._open()
            await self._drain()
            self._judge.judge(self._ledger.verify())
        finally:
            self._medium.close()
        self.verdict.simulated_s = asyncio.get_running_loop().time() - BEGIN_S
        return self.verdict

    # Processes

    def _open(self) -> None:
        """Start a process: it takes the books over and charges what the last one held."""
        world, settings = self._world, _settings(self._world)
        self._database = VirtualDatabase(self._medium, self._dice, world.faults, self._judge.check_rows)
        store = SqliteLedgerStore(
            self._database,
            settings,
            self._clock,
            reserving=judged(world.reserving, self._judge),
            settling=noted(world.settling, self._judge),
        )
        self._ledger = Ledger(None, settings, self._clock, store=store)
        self._ledger.recover()
        if not self._limited:
            self._set_limits()
        self._settler = Settler(self._ledger)
        self._database.begin()

    async def _life(self) -> None:
        """Serve until the requests are over, or death."""
        self._open()
        death = asyncio.Event()
        clients = [
            asyncio.create_task(self._client(death), name=f"client {number}")
            for number in range(self._world.clients)
        ]
        sweeping = asyncio.create_task(self._sweep(), name="sweeper")
        over = asyncio.create_task(asyncio.wait(clients), name="over")
        dying = asyncio.create_task(death.wait(), name="death")
        await asyncio.wait({over, dying}, return_when=asyncio.FIRST_COMPLETED)
        if death.is_set():
            self.verdict.deaths += 1
            self._database.close()
        else:
            await self._drain()
        await self._end()
        for task in clients:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or RuntimeError
        self._judge.note(f"end of a life, {sweeping.get_name()}")

    async def _drain(self) -> None:
        """Let who holds from outside report, and every settlement arrive."""
        if self._outside:
            await asyncio.wait(set(self._outside))
        await asyncio.sleep(12)
        swept = False
        while not swept:
            with contextlib.suppress(StoreError):
                await asyncio.wrap_future(self._ledger.expire())
                swept = True
        await self._settler.drain()

    async def _end(self) -> None:
        """End all tasks of the process; what they still ask of a dead store never happens."""
        keep = {asyncio.current_task(), *self._outside}
        while others := [task for task in asyncio.all_tasks() if task not in keep]:
            for task in sorted(others, key=lambda task: task.get_name()):
                task.cancel()
            await asyncio.wait(others)

    # What happens

    async def _client(self, death: asyncio.Event) -> None:
        dice = self._dice
        while self._left > 0 and not death.is_set():
            self._left -= 1
            self.verdict.requests += 1
            await asyncio.sleep(dice.expovariate(4.0))
            if dice.random() < self._world.deaths:
                asyncio.get_running_loop().call_later(dice.uniform(0, 1), death.set)
            if dice.random() < self._world.outside:
                await self._from_outside()
                continue
            request = asyncio.create_task(self._request(), name=f"request {self._left}")
            leaving = None
            if dice.random() < self._world.leaves:
                leaving = asyncio.get_running_loop().call_later(dice.expovariate(1.0), request.cancel)
            await asyncio.wait({request})
            if leaving is not None:
                leaving.cancel()
            if request.cancelled():
                self.verdict.left += 1
            elif request.exception() is not None:
                raise request.exception() or RuntimeError

    async def _request(self) -> None:
        """Hold, perhaps fall back, work, settle: what a run does, with an engine made of dice."""
        held = await self._hold(None)
        if held is None:
            return
        dice, weight, began = self._dice, 1, False
        usage = Usage(0, 0)
        try:
            if dice.random() < self._world.falls_back:
                weight = dice.choice((1, 3, 10))
                output = held.max_output
                prompt = held.amount - output
                try:
                    await self._settler.reweight(
                        held.reservation_id,
                        Amounts(prompt, prompt * weight),
                        Amounts(output, output * weight),
                        tier="other",
                        dearest=weight == 10,
                    )
                except (BudgetError, StoreError):
                    weight = 1
            began = True
            usage = self._work(held)
            await asyncio.sleep(dice.choice((0.01, 0.1, 0.3, 1.0, 1.5, 3.0)) * dice.random())
        except asyncio.CancelledError:
            # Nobody knows how far the engine came: the ceiling.
            usage = Usage(held.amount - held.max_output, held.max_output, "ceiling")
            raise
        finally:
            tokens = usage.total_tokens
            charged = Amounts(tokens, tokens * weight)
            ending = (
                self._settler.settle(held.reservation_id, usage, charged, _nothing)
                if began
                else self._settler.release(held.reservation_id, _nothing)
            )
        await ending

    async def _from_outside(self) -> None:
        """Hold for a caller that executes by itself and reports in time, late or never."""
        dice = self._dice
        until_ns = ns_of(self._clock.now()) + round(dice.uniform(1, 6) * 1e9)
        held = await self._hold(until_ns)
        if held is None or dice.random() < 0.2:
            if held is not None:
                self._work(held)
            return
        usage = self._work(held)
        after_s, times = dice.uniform(0, 10), dice.choice((1, 1, 2))

        async def report() -> None:
            await asyncio.sleep(after_s)
            # To whichever process lives by then.
            charged = Amounts(usage.total_tokens, usage.total_tokens)
            for _ in range(times):  # whose first answer was lost reports again
                self._settler.settle(held.reservation_id, usage, charged, _nothing)

        task = asyncio.create_task(report(), name=f"report {held.reservation_id}")
        self._outside.add(task)
        task.add_done_callback(self._outside.discard)

    async def _hold(self, until_ns: int | None) -> Reservation | None:
        dice = self._dice
        output = dice.choice((16, 64, 200, 800))
        prompt = dice.choice((20, 100, 400))
        priority: Priority = dice.choice(("interactive", "interactive", "batch", "critical"))
        hold = Hold(
            scope=dice.choice(SCOPES),
            prompt=Amounts(prompt, prompt),
            output=Amounts(output, output),
            max_output=output,
            min_output=min(output, MINIMUM_OUTPUT) if dice.random() < 0.8 else output,
            priority=priority,
            expires_at_ns=until_ns,
        )
        asked_ns = ns_of(self._clock.now())
        try:
            held = await self._settler.hold(hold, wait_s=WAIT_S)
        except BudgetError as refused:
            self._refused(refused, asked_ns)
            return None
        except StoreError:
            self.verdict.unavailable += 1
            return None
        self.verdict.granted += 1
        self.verdict.clamped += held.clamped
        return held

    def _refused(self, refused: BudgetError, asked_ns: int) -> None:
        verdict = self.verdict
        self._judge.note(refused.code)
        if isinstance(refused, BudgetExhausted):
            verdict.exhausted += 1
        elif isinstance(refused, RequestTooLarge):
            verdict.too_large += 1
        elif isinstance(refused, BudgetContended):
            verdict.contended += 1
            self._judge.check_wait(refused, asked_ns)
        else:
            verdict.policy += 1

    def _work(self, held: Reservation) -> Usage:
        """Let an engine work within the hold; it is done even if nobody hears of it."""
        dice = self._dice
        output = held.max_output if dice.random() < 0.3 else dice.randint(0, held.max_output)
        usage = Usage(dice.randint(1, held.amount - held.max_output), output)
        self._judge.worked(held, usage.total_tokens)
        return usage

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.verdict.expired += await asyncio.wrap_future(self._ledger.expire())
            except StoreError:
                continue

    # Limits

    def _set_limits(self) -> None:
        self._limited = True
        for scope, amount in self._limits.items():
            self._ledger.set_limit(Scope(scope), "daily", amount, author="world").result()
            if "." not in scope:
                self._ledger.set_limit(
                    Scope(scope), "daily", WEIGHTED * amount, author="world", meter="weighted_tokens"
                ).result()


def simulate(world: World) -> Verdict:
    """Live through a world and return what was found."""

    async def live() -> Verdict:
        return await Simulation(world).run()

    return run(live())


def _limits(world: World) -> dict[str, int]:
    day = world.organisation_tokens
    teams = {f"{org}.t{team}": day * 6 // 10 for org in ORGANISATIONS for team in range(2)}
    return {**dict.fromkeys(ORGANISATIONS, day), **teams}


def _settings(world: World) -> BudgetSettings:
    return BudgetSettings.model_validate(
        {"default_daily_tokens": None, "default_monthly_tokens": None, "ladder": world.ladder}
    )


def _nothing() -> Callable[[Any], None]:
    return lambda _: None
