"""The ledger's time: a clock that never goes back, and the windows that are open, by organisation."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, and_, select

from trivet.budgets.windows import bounds_at
from trivet.domain.budgets import WINDOW_KINDS, LimitKind
from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope, organisation
from trivet.storage.instants import ns_of
from trivet.storage.schema import counters, entries, tenants

_NS_PER_S = 1_000_000_000

Windows = Mapping[LimitKind, tuple[int, int]]
"""The bounds of each kind of window, in seconds since 1970 in UTC."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of time: its last entry's instant, the windows then open, tenants' zones."""

    last_seen_ns: int
    windows: Mapping[Scope, Windows]
    zones: Mapping[Scope, str]


class LedgerCalendar:
    """Tells the time and the current windows; usable from any thread.

    A wall clock that is set back would reopen a window that was used up, so the last instant seen counts
    until the clock has passed it again. A change of a time zone applies from the next window.
    """

    def __init__(self, clock: Clock, zone: ZoneInfo, standing: Standing) -> None:
        """Take the clock, the zone of organisations that have none of their own, and what the store knows."""
        self._clock = clock
        self._zone = zone
        self._zones = {scope: ZoneInfo(name) for scope, name in standing.zones.items()}
        self._last_seen_ns = standing.last_seen_ns
        self._open = {scope: dict(windows) for scope, windows in standing.windows.items()}
        self._until_s: dict[Scope, int] = {}
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        """Return nanoseconds since 1970, never less than before."""
        with self._lock:
            self._last_seen_ns = max(self._last_seen_ns, ns_of(self._clock.now()))
            return self._last_seen_ns

    def windows(self, scope: Scope, now_ns: int) -> Windows:
        """Return the windows of a scope's organisation at an instant that `now_ns` gave."""
        owner = organisation(scope)
        now_s = now_ns // _NS_PER_S
        with self._lock:
            windows = self._open.setdefault(owner, {})
            if now_s >= self._until_s.get(owner, 0):
                zone = self._zones.get(owner, self._zone)
                renewed = dict(windows)
                for kind in WINDOW_KINDS:
                    bounds = renewed.get(kind)
                    if bounds is None or now_s >= bounds[1]:
                        renewed[kind] = bounds_at(kind, now_s, zone)
                self._open[owner] = windows = renewed
                self._until_s[owner] = min(end_s for _, end_s in renewed.values())
            return windows

    def adopt(self, owner: Scope, windows: Windows, now_ns: int) -> None:
        """Take an organisation's open windows from the store; those that have ended are not kept."""
        now_s = now_ns // _NS_PER_S
        with self._lock:
            self._open[owner] = {kind: bounds for kind, bounds in windows.items() if now_s < bounds[1]}
            self._until_s[owner] = 0

    def zone(self, scope: Scope) -> str:
        """Return the name of the zone in which the next windows of a scope's organisation begin."""
        with self._lock:
            return self._zones.get(organisation(scope), self._zone).key

    def set_zone(self, owner: Scope, zone: ZoneInfo) -> None:
        """Change an organisation's zone, from its next windows on."""
        with self._lock:
            self._zones[owner] = zone


def read_standing(connection: Connection) -> Standing:
    """Return what the store knows of time."""
    last_seen_ns = connection.scalar(select(entries.c.at_ns).order_by(entries.c.seq.desc()).limit(1)) or 0
    last_seen_s = last_seen_ns // _NS_PER_S
    is_open = and_(
        counters.c.window.in_(WINDOW_KINDS),
        counters.c.window_end_s > last_seen_s,
        counters.c.window_start_s <= last_seen_s,
    )
    bounds = (
        select(counters.c.scope, counters.c.window, counters.c.window_start_s, counters.c.window_end_s)
        .where(is_open)
        .distinct()
        .order_by(counters.c.window_start_s)
    )
    windows: dict[Scope, dict[LimitKind, tuple[int, int]]] = {}
    # After an edit of the time zone two may overlap; the newer one counts.
    for scope, kind, start_s, end_s in connection.execute(bounds):
        windows.setdefault(organisation(Scope(scope)), {})[kind] = (start_s, end_s)
    zones = {Scope(row.scope): str(row.time_zone) for row in connection.execute(select(tenants))}
    return Standing(last_seen_ns, windows, zones)
