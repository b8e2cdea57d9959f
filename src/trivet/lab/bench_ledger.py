"""How many holds the ledger makes and settles in a second, every one on disk, on this machine."""

import asyncio
import contextlib
import gc
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from trivet.budgets.ledger import Ledger
from trivet.budgets.postgres_gateway import BATCH_LIMIT as SHARED_BATCH_LIMIT
from trivet.budgets.postgres_store import PostgresLedgerStore
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Amounts, Hold, LimitKind
from trivet.domain.clock import SystemClock
from trivet.domain.errors import StoreError
from trivet.domain.ids import new_id
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope, lineage
from trivet.domain.serving import make_collections_short, new_event_loop
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage.database import SqliteDatabase
from trivet.storage.delivery import awaited
from trivet.storage.postgres import PostgresDatabase
from trivet.storage.writer import BATCH_LIMIT

Store = Literal["sqlite", "postgres"]

WINDOWS: tuple[LimitKind, ...] = ("daily", "weekly", "monthly")
ROWS = 12
"""Of one reservation: three windows on each of four scopes; the upper three are everybody's."""
WARM_UP_S = 0.5
"""At most; no more than a quarter of the measurement."""
ROUNDS = 4
"""The two sides take turns, of a second at least: what is busy for a while is so for both."""
_FSYNCS = 200
_ANSWER_WITHIN_S = 60.0


def bench_ledger(
    store: Store, *, callers: int, seconds: float, directory: Path | None = None, url: str | None = None
) -> dict[str, Any]:
    """Time pairs of a hold and its settlement, with many to a commit and with one to a commit.

    Args:
        store: which.
        callers: how many keep a pair under way, at least 1.
        seconds: how long each of the two is measured.
        directory: where the file or the scratch server lies; by default the system's place for such.
        url: a PostgreSQL database to use instead of a scratch server; its books grow by the bench's own.

    Returns:
        pairs_per_s; p50_ms and p99_ms of one pair; naive_pairs_per_s: the same statements through the same
        connection, one transaction per call; ratio of the two; fsync_p50_ms of the directory's disk; and
        what was asked.

    Raises:
        StoreUnavailable: the store cannot be had.
        StoreError: its books do not agree afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="trivet-bench-", dir=directory) as place:
        fsync_ms = _fsync_p50_ms(Path(place))
        with contextlib.ExitStack() as exits:
            if store == "postgres" and url is None:
                url = exits.enter_context(ScratchPostgres(directory=directory)).url()
            sides = []
            for name in ("naive", "grouped"):
                path = Path(place) / f"{name}.db"
                ledger = exits.enter_context(_ledger(store, path, url, naive=name == "naive"))
                sides.append(_Side(ledger, f"{name}{int(time.time())}", callers))
            runner = exits.enter_context(_as_served())
            rounds = max(1, min(ROUNDS, int(seconds)))
            for _ in range(rounds):
                for side in sides:
                    runner.run(side.measure(seconds / rounds))
            for side in sides:
                side.check()
            naive, grouped = (side.taken_ms for side in sides)
    grouped.sort()
    return {
        "store": store,
        "callers": callers,
        "rows": ROWS,
        "seconds": seconds,
        "pairs_per_s": round(len(grouped) / seconds, 1),
        "p50_ms": _percentile(grouped, 0.50),
        "p99_ms": _percentile(grouped, 0.99),
        "naive_pairs_per_s": round(len(naive) / seconds, 1),
        "ratio": round(len(grouped) / len(naive), 2) if naive else None,
        "fsync_p50_ms": fsync_ms,
    }


@contextlib.contextmanager
def _ledger(store: Store, path: Path, url: str | None, *, naive: bool) -> Iterator[Ledger]:
    settings = BudgetSettings()
    if store == "sqlite":
        with SqliteDatabase.at(path, batch_limit=1 if naive else BATCH_LIMIT) as database:
            ledger = Ledger(database, settings, SystemClock())
            ledger.recover()
            yield ledger
        return
    with PostgresDatabase.at(url or "") as shared:
        books = PostgresLedgerStore(
            shared,
            settings,
            SystemClock(),
            answer_within_s=_ANSWER_WITHIN_S,
            batch_limit=1 if naive else SHARED_BATCH_LIMIT,
        )
        ledger = Ledger(None, settings, SystemClock(), store=books)
        ledger.recover()
        yield ledger


@contextlib.contextmanager
def _as_served() -> Iterator[asyncio.Runner]:
    """Give what runs coroutines as `trivet serve` does: on its event loop, with its short collections."""
    thresholds = gc.get_threshold()
    make_collections_short()
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            yield runner
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


class _Side:
    """One of the two that are compared: its callers, and how long their pairs took."""

    def __init__(self, ledger: Ledger, organisation: str, callers: int) -> None:
        """Give each caller a scope of its own under three that all share; all have limits."""
        self._ledger = ledger
        self._scopes = [Scope(f"{organisation}.web.team.user{number}") for number in range(callers)]
        self.taken_ms: list[float] = []
        for limited in dict.fromkeys(above for scope in self._scopes for above in lineage(scope)):
            for window in WINDOWS:
                ledger.set_limit(limited, window, 2**50, author="bench").result()

    async def measure(self, seconds: float) -> None:
        """Let all callers make pairs for so long, after a while that does not count."""
        counted_from_s = time.monotonic() + min(WARM_UP_S, seconds / 4)
        until_s = counted_from_s + seconds
        await asyncio.gather(*(self._call(scope, counted_from_s, until_s) for scope in self._scopes))

    def check(self) -> None:
        """Prove the books.

        Raises:
            StoreError: they do not agree.
        """
        report = self._ledger.verify()
        if not report.ok:
            raise StoreError(f"The books do not agree after the bench: {report.differences[:3]}.")

    async def _call(self, scope: Scope, counted_from_s: float, until_s: float) -> None:
        ledger = self._ledger
        hold = Hold(scope=scope, prompt=Amounts(100, 300), output=Amounts(400, 1200), max_output=400)
        used, charged = Usage(50, 100), Amounts(150, 450)
        while (started_s := time.monotonic()) < until_s:
            name = new_id()  # as the server names holds: by the time, so that indexes grow at their ends
            await awaited(ledger.reserve(hold, reservation_id=name))
            await awaited(ledger.settle(name, used, charged))
            ended_s = time.monotonic()
            if counted_from_s <= started_s and ended_s <= until_s:
                self.taken_ms.append(1000 * (ended_s - started_s))


def _percentile(ordered: list[float], part: float) -> float | None:
    return round(ordered[math.ceil(part * len(ordered)) - 1], 2) if ordered else None


def _fsync_p50_ms(directory: Path) -> float:
    """Return how long the directory's disk takes for a page, so that the figures can be judged."""
    taken = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            file.write(bytes(4096))
            started_s = time.monotonic()
            os.fdatasync(file.fileno())
            taken.append(time.monotonic() - started_s)
    return round(1000 * sorted(taken)[_FSYNCS // 2], 3)
