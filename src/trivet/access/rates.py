"""Rate limits: requests a minute, tokens a minute, requests at once, on any scope; the strictest wins.

Soft, unlike budgets: they smooth load, in this process's memory, and a restart begins them anew. A minute's
amount is a bucket that refills steadily, so no burst at the turn of a minute gets twice as much. What a
request may take of the tokens is estimated when it comes and corrected when it ends. `shared_rates` counts
the same for several replicas.
"""

import threading
from collections.abc import Sequence

from sqlalchemy import Connection, delete, select, update
from sqlalchemy import insert as insert_row

from trivet.access.gauges import UNLIMITED, Admitted, Gauge, RateLimit, check, rate_headers, resized
from trivet.domain.clock import Clock
from trivet.domain.scopes import Scope, lineage
from trivet.storage.database import Database
from trivet.storage.instants import ns_of
from trivet.storage.schema import rate_limits


class RateLimits:
    """All rate limits, and what is left of them. Usable from any thread; admitting never blocks for long."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Load the limits; blocks."""
        self._database = database
        self._clock = clock
        self._gate = threading.Lock()
        self._gauges: dict[Scope, Gauge] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the limits anew: another replica may have changed some. What is used of them stays; blocks."""
        found = self._database.read(_load)
        with self._gate:
            for scope in self._gauges.keys() - found.keys():
                del self._gauges[scope]
            for limit in found.values():
                self._take_up(limit)

    def limits(self) -> list[RateLimit]:
        """Return every limit, by scope."""
        with self._gate:
            return sorted((gauge.limit for gauge in self._gauges.values()), key=lambda limit: limit.scope)

    def binding(self, scope: Scope) -> list[RateLimit]:
        """Return the limits that bind a scope: its own and those above, the organisation's first."""
        if not self._gauges:
            return []
        with self._gate:
            return [self._gauges[above].limit for above in lineage(scope) if above in self._gauges]

    def set_limit(self, limit: RateLimit, *, author: str) -> None:
        """Set what a scope may do, all of it anew; blocks."""
        now_ns = ns_of(self._clock.now())
        self._database.transact(lambda connection: _put(connection, limit, author, now_ns)).result()
        with self._gate:
            self._take_up(limit)

    def clear(self, scope: Scope) -> None:
        """Remove a scope's limits; nothing if it has none; blocks."""
        self._database.transact(lambda connection: _remove(connection, scope)).result()
        with self._gate:
            self._gauges.pop(scope, None)

    def admit(self, scope: Scope, estimated_tokens: int) -> Admitted:
        """Let a request in, on its scope and all above, or on none of them.

        Args:
            scope: whose request it is.
            estimated_tokens: what it will probably use, prompt and output.

        Raises:
            RateLimitExceeded: with the seconds after which it would be let in, if nothing else comes.
        """
        if not self._gauges:
            return UNLIMITED
        with self._gate:
            gauges = [gauge for above in lineage(scope) if (gauge := self._gauges.get(above)) is not None]
            if not gauges:
                return UNLIMITED
            now_ns = self._clock.monotonic_ns()
            for gauge in gauges:
                check(gauge, estimated_tokens, now_ns)
            for gauge in gauges:
                gauge.running += 1
                if gauge.requests is not None:
                    gauge.requests.level -= 1
                if gauge.tokens is not None:
                    gauge.tokens.level -= estimated_tokens
            headers = rate_headers(gauges)

        def end(tokens: int | None) -> None:
            self._left(gauges, 0 if tokens is None else estimated_tokens - tokens)

        return Admitted(headers, end)

    def _left(self, gauges: Sequence[Gauge], given_back: int) -> None:
        with self._gate:
            for gauge in gauges:
                gauge.running -= 1
                if gauge.tokens is not None:
                    gauge.tokens.level += given_back

    def _take_up(self, limit: RateLimit) -> None:
        """Gauge a limit; what runs and what was used of an earlier one counts on."""
        known, now_ns = self._gauges.get(limit.scope), self._clock.monotonic_ns()
        if known is not None and known.limit == limit:
            return
        if known is None:
            requests = resized(None, limit.requests_per_minute, now_ns)
            tokens = resized(None, limit.tokens_per_minute, now_ns)
            self._gauges[limit.scope] = Gauge(limit, requests, tokens)
            return
        known.requests = resized(known.requests, limit.requests_per_minute, now_ns)
        known.tokens = resized(known.tokens, limit.tokens_per_minute, now_ns)
        known.limit = limit


def _load(connection: Connection) -> dict[Scope, RateLimit]:
    return {
        Scope(row.scope): RateLimit(
            scope=Scope(row.scope),
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            concurrent=row.concurrent,
        )
        for row in connection.execute(select(rate_limits))
    }


def _put(connection: Connection, limit: RateLimit, author: str, now_ns: int) -> None:
    values = {
        "requests_per_minute": limit.requests_per_minute,
        "tokens_per_minute": limit.tokens_per_minute,
        "concurrent": limit.concurrent,
        "author": author,
        "updated_ns": now_ns,
    }
    changed = connection.execute(
        update(rate_limits)
        .where(rate_limits.c.scope == limit.scope)
        .values(**values, version=rate_limits.c.version + 1)
    )
    if not changed.rowcount:
        connection.execute(insert_row(rate_limits).values(**values, scope=limit.scope, version=1))


def _remove(connection: Connection, scope: Scope) -> None:
    connection.execute(delete(rate_limits).where(rate_limits.c.scope == scope))
