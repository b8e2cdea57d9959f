"""The judge of a simulated ledger: what stood when, by the reservations and the engines' own count."""

import asyncio
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trivet.budgets.sqlite_reserving import Reserving
from trivet.budgets.sqlite_settling import Settling
from trivet.budgets.verify import VerifyReport
from trivet.domain.budgets import Hold, Reservation
from trivet.domain.clock import Clock
from trivet.domain.errors import BudgetContended, BudgetError, BudgetExhausted, RequestTooLarge
from trivet.domain.scopes import lineage
from trivet.lab.virtual_time import EPOCH

DAY_NS = 86_400 * 10**9
WAIT_NS = 2 * 10**9
WEIGHTED = 3
"""An organisation's weighted tokens are limited to so many times its tokens."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found in one world."""

    seed: int
    requests: int = 0
    granted: int = 0
    clamped: int = 0
    exhausted: int = 0
    contended: int = 0
    too_large: int = 0
    policy: int = 0
    unavailable: int = 0
    deaths: int = 0
    left: int = 0
    expired: int = 0
    simulated_s: float = 0.0
    overspend: int = 0
    leaked_holds: int = 0
    false_refusals: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    digest: int = 0
    """Of all that happened, in its order; the same seed has the same."""

    @property
    def ok(self) -> bool:
        """Tell whether every promise was kept."""
        return not (self.overspend or self.leaked_holds or self.false_refusals or self.violations)


class Judge:
    """Knows the limits, sees holds begin and end from inside their transactions, counts the engines' work."""

    def __init__(self, seed: int, clock: Clock, connection: Any, limits: dict[str, int]) -> None:
        """Watch a world.

        Args:
            seed: the world's.
            clock: the world's.
            connection: the store's, in which this only reads.
            limits: tokens a day, by scope.
        """
        self._clock = clock
        self._connection = connection
        self._limits = limits
        self._worked: Counter[tuple[str, int]] = Counter()
        self._lives: dict[str, list[Any]] = {}
        """Of each hold: scope, begin, end in nanoseconds; None while it is open."""
        self.verdict = Verdict(seed=seed)

    def worked(self, held: Reservation, tokens: int) -> None:
        """Count what an engine works, by the scopes and the day of admission."""
        day = self._lives[held.reservation_id][1] // DAY_NS
        for scope in lineage(held.scope):
            self._worked[scope, day] += tokens

    def check_rows(self) -> None:
        """After each commit: no row is beyond its limit."""
        beyond = self._connection.execute(
            "SELECT counters.scope, counters.meter, used, held FROM counters JOIN limits"
            " USING (scope, meter, window) WHERE used + held > amount"
        ).fetchall()
        if beyond:
            self.verdict.violations.append(f"beyond its limit at {self._clock.now()}: {beyond[0]}")

    def check_wait(self, refused: BudgetContended, asked_ns: int) -> None:
        """A contended refusal is false unless a hold stood on the row throughout a wait of two seconds.

        That goes for everybody, however many had come before.
        """
        row, at_ns = refused.details["scope"], refused.contention.at_ns
        since_ns = at_ns - WAIT_NS
        lasting = any(
            row in lineage(life[0])
            and life[1] // DAY_NS == at_ns // DAY_NS
            and life[1] <= since_ns
            and (life[2] is None or life[2] >= at_ns)
            for life in self._lives.values()
        )
        if asked_ns > since_ns or not lasting:
            self.verdict.false_refusals.append(
                f"contended on {row} at {self._clock.now()}, although no hold had stood for two seconds"
            )

    def refused_in_transaction(self, connection: Any, hold: Hold, refused: BudgetError, now_ns: int) -> None:
        """A refusal is false if the least useful hold fitted, by the reservations alone."""
        if not isinstance(refused, BudgetExhausted | BudgetContended | RequestTooLarge):
            return
        least = hold.amounts(hold.min_output)
        day_ns = now_ns // DAY_NS * DAY_NS
        for scope in lineage(hold.scope):
            if scope not in self._limits:
                continue
            tokens, weighted = connection.execute(
                "SELECT coalesce(sum(CASE state WHEN 'held' THEN tokens ELSE charged_tokens END), 0),"
                " coalesce(sum(CASE state WHEN 'held' THEN weighted_tokens ELSE charged_weighted END), 0)"
                " FROM reservations WHERE created_ns >= ? AND created_ns < ? AND (scope = ? OR scope LIKE ?)",
                (day_ns, day_ns + DAY_NS, scope, f"{scope}.%"),
            ).fetchone()
            if tokens + least.tokens > self._limits[scope]:
                return
            if "." not in scope and weighted + least.weighted_tokens > WEIGHTED * self._limits[scope]:
                return
        self.verdict.false_refusals.append(f"{refused.code} at {now_ns}, although {least} fitted: {refused}")

    def began(self, reservation: Reservation, now_ns: int) -> None:
        """A hold was entered (its transaction may still fail)."""
        self._lives.setdefault(reservation.reservation_id, [reservation.scope, now_ns, None])
        self.note(f"held {reservation.amount}")

    def ended(self, reservation_id: str, now_ns: int) -> None:
        """A hold was closed (its transaction may still fail)."""
        if reservation_id in self._lives:
            self._lives[reservation_id][2] = now_ns
        self.note("closed")

    def judge(self, report: VerifyReport) -> None:
        """Compare books and work once all is over."""
        verdict = self.verdict
        for (scope, day), tokens in sorted(self._worked.items()):
            beyond = tokens - self._limits.get(scope, tokens)
            if beyond > 0:
                verdict.overspend += beyond
                verdict.violations.append(f"{scope} worked {beyond} beyond its limit on day {day}")
        execute = self._connection.execute
        verdict.leaked_holds = execute("SELECT count(*) FROM reservations WHERE state = 'held'").fetchone()[0]
        verdict.violations += [f"verify: {difference}" for difference in report.differences[:5]]
        used = dict(
            execute(
                "SELECT scope || '/' || (window_start_s / 86400), used FROM counters"
                " WHERE window = 'daily' AND meter = 'tokens'"
            ).fetchall()
        )
        for (scope, day), tokens in sorted(self._worked.items()):
            if used.get(f"{scope}/{day}", 0) < tokens:
                verdict.violations.append(f"{scope} was charged less than engines worked on day {day}")

    def note(self, what: str) -> None:
        """Add to the digest what happened, and when."""
        text = f"{what} {asyncio.get_running_loop().time():.9f}"
        self.verdict.digest = (self.verdict.digest * 1_000_003 + sum(text.encode())) % 2**61


def judged(reserving: type[Reserving], judge: Judge) -> type[Reserving]:
    """Return the operations, looked at from inside of each transaction."""

    class Judged(reserving):  # type: ignore[valid-type, misc]
        def reserve(
            self, connection: sqlite3.Connection, hold: Hold, reservation_id: str, *, final: bool
        ) -> Reservation:
            now_ns = self._books.calendar.now_ns()
            try:
                reservation: Reservation = super().reserve(connection, hold, reservation_id, final=final)
            except BudgetError as refused:
                if final:  # else it waits in line
                    self._books.standing.enter(connection)
                    judge.refused_in_transaction(connection, hold, refused, now_ns)
                raise
            judge.began(reservation, now_ns)
            return reservation

    return Judged


def noted(settling: type[Settling], judge: Judge) -> type[Settling]:
    """Return the operations, with a note of when each hold ended."""

    class Noted(settling):  # type: ignore[valid-type, misc]
        def _enter(self, connection: Any, stored: Any, *rest: Any) -> Any:
            judge.ended(stored.reservation_id, self._books.calendar.now_ns())
            return super()._enter(connection, stored, *rest)

    return Noted


def ns_of(instant: datetime) -> int:
    """Return nanoseconds since 1970, exactly."""
    return round((instant - EPOCH).total_seconds() * 1e9) + round(EPOCH.timestamp()) * 10**9
