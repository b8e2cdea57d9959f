"""Tells of budgets while Trivet runs: the courier's deliveries, and the gauges that a scrape may not wait for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import structlog

from trivet.budgets import Ledger
from trivet.config.signal_settings import SignalSettings
from trivet.domain.budgets import BudgetRow
from trivet.domain.clock import Clock
from trivet.domain.errors import StoreError
from trivet.metering import TrivetCollector
from trivet.signals import Courier, Outbox, couriers
from trivet.storage import Database

log = structlog.get_logger(__name__)

READ_EVERY_S = 15.0
ORGANISATIONS_SHOWN = 100
"""The fullest ones; a scrape must not grow with the number of tenants."""

_LABELS = ("scope", "meter", "window")


@dataclass(slots=True)
class Signalling:
    """The outbox, who empties it (nobody without engines), and what was last read for the gauges."""

    outbox: Outbox
    courier: Courier | None
    rows: tuple[BudgetRow, ...] = field(default=())

    def register(self, collector: TrivetCollector) -> None:
        """Register the gauges of budgets and deliveries."""
        for name, meaning, value in (
            ("limit", "The limit itself, in units of its meter.", lambda row: float(row.limit)),
            ("used_ratio", "Settled use as a part of the limit.", lambda row: _part(row.used, row.limit)),
            ("held_ratio", "Open holds as a part of the limit.", lambda row: _part(row.held, row.limit)),
        ):
            collector.register_snapshot(
                f"trivet_budget_{name}",
                f"{meaning} Of organisations' limits, the {ORGANISATIONS_SHOWN} fullest at most.",
                _LABELS,
                lambda value=value: [((r.scope, r.meter, r.window), value(r)) for r in self.rows],
            )
        courier = self.courier
        if courier is not None:
            collector.register_snapshot(
                "trivet_outbox_items",
                "Alerts in the outbox: waiting to be delivered, or dead letters.",
                ("state",),
                lambda: [
                    (("waiting",), float(courier.state.waiting)),
                    (("dead",), float(courier.state.dead)),
                ],
            )


@contextlib.asynccontextmanager
async def signalling(
    database: Database, ledger: Ledger, settings: SignalSettings, clock: Clock, *, delivering: bool
) -> AsyncIterator[Signalling]:
    """Deliver and read while the block runs; without `delivering` only make the outbox known."""
    outbox = Outbox(database, clock)
    if not delivering:
        yield Signalling(outbox, None)
        return
    async with couriers(Courier(outbox, settings, clock)) as courier:
        found = Signalling(outbox, courier)
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


def _part(amount: int, limit: int | None) -> float:
    return amount / limit if limit else 1.0
