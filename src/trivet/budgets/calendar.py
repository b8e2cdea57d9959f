"""The ledger's time: a clock that never goes back, and the windows that are open."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from trivet.budgets.rows import RowKey
from trivet.budgets.windows import window_at
from trivet.domain.budgets import WINDOW_KINDS, WindowKind
from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope, lineage
from trivet.storage.instants import ns_of

_NS_PER_S = 1_000_000_000


class LedgerCalendar:
    """Tells the time and the current windows; usable from any thread.

    A wall clock that is set back would reopen a window that was used up, so the last instant seen counts
    until the clock has passed it again. A change of the time zone applies from the next window.
    """

    def __init__(
        self,
        clock: Clock,
        zone: ZoneInfo,
        last_seen_ns: int,
        open_windows: Mapping[WindowKind, tuple[int, int]],
    ) -> None:
        """Take what the store knows: the instant of its last entry, and the windows then open, in seconds."""
        self._clock = clock
        self._zone = zone
        self._last_seen_ns = last_seen_ns
        self._open = dict(open_windows)
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        """Return nanoseconds since 1970, never less than before."""
        with self._lock:
            self._last_seen_ns = max(self._last_seen_ns, ns_of(self._clock.now()))
            return self._last_seen_ns

    def windows(self, now_ns: int) -> dict[WindowKind, tuple[int, int]]:
        """Return the bounds, in seconds, of each kind of window at an instant that `now_ns` gave."""
        now_s = now_ns // _NS_PER_S
        with self._lock:
            for kind in WINDOW_KINDS:
                bounds = self._open.get(kind)
                if bounds is None or now_s >= bounds[1]:
                    window = window_at(kind, datetime.fromtimestamp(now_s, UTC), self._zone)
                    self._open[kind] = int(window.start.timestamp()), int(window.end.timestamp())
            return dict(self._open)

    def rows(self, scope: Scope, now_ns: int) -> list[RowKey]:
        """Return every row that a request of `scope` touches: itself and all above it, in each window."""
        windows = self.windows(now_ns)
        return [RowKey(above, kind, *windows[kind]) for above in lineage(scope) for kind in WINDOW_KINDS]
