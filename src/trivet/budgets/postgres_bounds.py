"""What binds whom, as this replica last read it. The store tells by a version when that is no longer true."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from trivet.budgets.calendar import LedgerCalendar
from trivet.budgets.postgres_batch import Standing, windows_as_text, windows_from_text
from trivet.budgets.rows import Cap, DefaultLimits
from trivet.budgets.sqlite_bounds import Bounds, Plan
from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope, organisation
from trivet.storage.postgres import PlainSql, PostgresDatabase, driver_connection
from trivet.storage.schema import ledger_heads, tenants

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoreClock:
    """The store's clock as seen from here: its last answer, and what this machine counted since.

    An answer is always a little old when it arrives, so this clock is behind the store's, never ahead.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._store_ns = 0
        self._seen_ns = clock.monotonic_ns()

    def observe(self, at_ns: int) -> None:
        """Take an instant that the store has just told."""
        self._store_ns, self._seen_ns = at_ns, self._clock.monotonic_ns()

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        passed_ns = self._clock.monotonic_ns() - self._seen_ns
        return _EPOCH + timedelta(microseconds=(self._store_ns + passed_ns) // 1000)

    def monotonic_ns(self) -> int:
        """Return this machine's monotonic clock."""
        return self._clock.monotonic_ns()


class SharedBounds:
    """Limits, overrides, zones and windows, read together. For the ledger's own thread."""

    def __init__(self, database: PostgresDatabase, calendar: LedgerCalendar, defaults: DefaultLimits) -> None:
        self._database = database
        self._calendar = calendar
        self._bounds = _Bounds(calendar, defaults)
        self._versions: dict[Scope, int] = {}

    def refresh(self, now_ns: int) -> None:
        """Read everything anew, on one snapshot.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        heads, zones = self._database.read(lambda connection: self._read(connection, now_ns))
        for scope, zone in zones.items():
            self._calendar.set_zone(scope, ZoneInfo(zone))
        self._versions = {scope: version for scope, (version, _) in heads.items()}
        for scope, (_, windows) in heads.items():
            if windows is not None:
                self._calendar.adopt(scope, windows_from_text(windows), now_ns)

    def standing(self, scope: Scope, now_ns: int) -> Standing:
        """Return what plans for a scope rest on."""
        owner = organisation(scope)
        return Standing(self._versions.get(owner, 0), windows_as_text(self._calendar.windows(owner, now_ns)))

    def plan(self, scope: Scope, task: str | None, session: str | None, now_ns: int) -> Plan:
        """Return the rows that a request touches, and what bounds them."""
        return self._bounds.plan(_NO_CONNECTION, scope, task, session, now_ns)

    def caps(self, text: str, now_ns: int) -> tuple[Cap, ...]:
        """Return what bounds rows that are stored as `text`."""
        return self._bounds.caps(_NO_CONNECTION, text, now_ns)

    def _read(
        self, connection: Connection, now_ns: int
    ) -> tuple[Mapping[Scope, tuple[int, str | None]], Mapping[Scope, str]]:
        self._bounds.read(PlainSql(driver_connection(connection)), now_ns)
        heads = {
            Scope(row.organisation): (int(row.version), row.windows)
            for row in connection.execute(select(ledger_heads))
        }
        zones = {Scope(row.scope): str(row.time_zone) for row in connection.execute(select(tenants))}
        return heads, zones


class _Bounds(Bounds):
    """Bounds that are read when they are told to, not when they are needed."""

    def read(self, connection: Any, now_ns: int) -> None:
        """Read limits and overrides."""
        self._forget()
        self._load(connection, now_ns)


_NO_CONNECTION: Any = None
