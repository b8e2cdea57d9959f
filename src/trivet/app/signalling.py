"""Tells of budgets while Trivet runs: the courier's deliveries, and gauges that no scrape waits for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from trivet.budgets import Ledger
from trivet.config.signal_settings import SignalSettings
from trivet.domain.budgets import BudgetRow
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.domain.outcomes import Outcome
from trivet.metering import TrivetCollector
from trivet.signals import Courier, ModelEvents, Outbox, couriers
from trivet.storage import Database

log = structlog.get_logger(__name__)

READ_EVERY_S = 15.0
ORGANISATIONS_SHOWN = 100
"""The fullest ones; a scrape must not grow with the number of tenants."""


@dataclass(slots=True)
class Signalling:
    """The outbox, who empties it (nobody without engines), and what was last read for the gauges."""

    outbox: Outbox
    courier: Courier | None
    named: bool
    """Whether the gauges may name organisations: whoever reaches the port can read them."""
    rows: tuple[BudgetRow, ...] = field(default=())
    listener: Callable[[Outcome], None] | None = None
    """Who is told of the end of each request; None: nobody wants events."""

    def register(self, collector: TrivetCollector) -> None:
        """Register the gauges of budgets and deliveries."""
        collector.register_snapshot(
            "trivet_budget_fullest_ratio",
            "Settled use of the organisation nearest to a limit of its own, as a part of that limit.",
            (),
            lambda: [((), max(map(_used_part, self.rows), default=0.0))],
        )
        collector.register_snapshot(
            "trivet_outbox_items",
            "Alerts in the outbox: waiting to be delivered, or dead letters.",
            ("state",),
            self._items,
        )
        self._gauge(collector, "limit", "The limit itself.", _limit)
        self._gauge(collector, "used_ratio", "Settled use as a part of the limit.", _used_part)
        self._gauge(collector, "held_ratio", "Open holds as a part of the limit.", _held_part)

    def _items(self) -> list[tuple[tuple[str, ...], float]]:
        if self.courier is None:
            return []
        state = self.courier.state
        return [(("waiting",), float(state.waiting)), (("dead",), float(state.dead))]

    def _gauge(
        self, collector: TrivetCollector, name: str, meaning: str, value: Callable[[BudgetRow], float]
    ) -> None:
        collector.register_snapshot(
            f"trivet_budget_{name}",
            f"{meaning} Of the {ORGANISATIONS_SHOWN} organisations nearest to a limit of theirs.",
            ("scope", "meter", "window"),
            lambda: [((r.scope, r.meter, r.window), value(r)) for r in self.rows] if self.named else [],
        )


@contextlib.asynccontextmanager
async def signalling(
    database: Database, ledger: Ledger, settings: SignalSettings, clock: Clock, *, delivering: bool
) -> AsyncIterator[Signalling]:
    """Deliver and read while the block runs; without `delivering` only make the outbox known."""
    outbox = Outbox(database, clock)
    if not delivering:
        yield Signalling(outbox, None, named=False)
        return
    async with contextlib.AsyncExitStack() as exits:
        courier = await exits.enter_async_context(couriers(Courier(outbox, settings, clock)))
        found = Signalling(outbox, courier, named=settings.metrics_name_tenants)
        if settings.events:
            events = await exits.enter_async_context(ModelEvents(outbox, settings, clock).flushing())
            found.listener = events.note
        task = asyncio.get_running_loop().create_task(_read(ledger, found))
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.wait({task})


def fullest(rows: Iterable[BudgetRow]) -> tuple[BudgetRow, ...]:
    """Return the limited rows of the organisations that are nearest to their limits."""
    limited = [row for row in rows if row.limit is not None and "." not in row.scope]
    limited.sort(key=lambda row: (-_part(row.used + row.held, row.limit), row.scope))
    shown = set(list(dict.fromkeys(row.scope for row in limited))[:ORGANISATIONS_SHOWN])
    return tuple(row for row in limited if row.scope in shown)


async def _read(ledger: Ledger, found: Signalling) -> None:
    while True:
        try:
            found.rows = fullest(await asyncio.to_thread(ledger.organisation_rows))
        except StoreError as error:
            log.warning("signals.budgets_unread", error=str(error))
        await asyncio.sleep(READ_EVERY_S)


def _limit(row: BudgetRow) -> float:
    return float(row.limit or 0)


def _used_part(row: BudgetRow) -> float:
    return _part(row.used, row.limit)


def _held_part(row: BudgetRow) -> float:
    return _part(row.held, row.limit)


def _part(amount: int, limit: int | None) -> float:
    return amount / limit if limit else 1.0
