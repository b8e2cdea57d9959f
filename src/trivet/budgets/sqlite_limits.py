"""Limits and calendars of tenants, on SQLite. Runs on the writer thread, in a savepoint of its own."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from trivet.budgets import sqlite_statements as statements
from trivet.budgets.entries import Entry, as_detail
from trivet.budgets.rows import TRACKED, RowKey, check_amount, rows_as_text, rows_from_text
from trivet.budgets.sqlite_books import Books
from trivet.domain.budgets import LIMIT_KINDS, METERS, WINDOW_KINDS, Amounts, LimitKind, Meter
from trivet.domain.errors import RequestMalformed
from trivet.domain.scopes import Scope, organisation
from trivet.storage.writes import Writes


class Limiting:
    """Set and clear limits, set time zones."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def set_limit(
        self,
        connection: Writes,
        scope: Scope,
        meter: Meter,
        kind: LimitKind,
        amount: int | None,
        allowance: int,
        author: str,
    ) -> None:
        """Set a limit; None: explicitly unlimited. Below what is used it is legal: nothing new is admitted.

        Raises:
            RequestMalformed: the meter, the kind or an amount is senseless.
        """
        check_kind(meter, kind)
        if amount is not None:
            check_amount(amount, "limit")
        check_amount(allowance, "allowance")
        books = self._books
        now_ns = books.calendar.now_ns()
        (version,) = connection.execute(
            statements.SET_LIMIT, (scope, meter, kind, amount, allowance, author, now_ns)
        ).fetchone()
        facts = {
            "meter": meter,
            "window": kind,
            "amount": amount,
            "allowance": allowance,
            "version": version,
            "author": author,
        }
        books.append(connection, Entry(at_ns=now_ns, kind="limit", scope=scope, detail=as_detail(facts)))
        books.forget_fullness(scope, meter, kind)
        if kind not in WINDOW_KINDS:
            return
        if amount is not None and (meter, kind) not in TRACKED:
            key = RowKey(scope, meter, kind, "", *books.calendar.windows(scope, now_ns)[kind])
            self._open(connection, key, now_ns)
        self.announce_passed(connection, scope, meter, kind, now_ns)

    def clear_limit(
        self, connection: Writes, scope: Scope, meter: Meter, kind: LimitKind, author: str
    ) -> None:
        """Remove a scope's own limit, so that the default counts again; nothing if it has none."""
        check_kind(meter, kind)
        self._books.forget_fullness(scope, meter, kind)
        if connection.execute(statements.CLEAR_LIMIT, (scope, meter, kind)).rowcount:
            facts = {"meter": meter, "window": kind, "cleared": True, "author": author}
            now_ns = self._books.calendar.now_ns()
            entry = Entry(at_ns=now_ns, kind="limit", scope=scope, detail=as_detail(facts))
            self._books.append(connection, entry)
            self.announce_passed(connection, scope, meter, kind, now_ns)

    def set_zone(self, connection: Writes, owner: Scope, zone: str, author: str) -> ZoneInfo:
        """Set the zone of an organisation's calendar and return it.

        Raises:
            RequestMalformed: the scope is no organisation, or the zone has no IANA name.
        """
        if owner != organisation(owner):
            raise RequestMalformed(
                f"{owner} is not an organisation, and only those have a calendar.", param="scope"
            )
        try:
            found = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise RequestMalformed(
                f"{zone[:60]!a} is not a time zone.",
                hint="Use a name such as Europe/Berlin.",
                param="time_zone",
            ) from error
        now_ns = self._books.calendar.now_ns()
        # The windows of now are those of the old zone, also where nobody has asked for them yet.
        self._books.calendar.windows(owner, now_ns)
        connection.execute(statements.SET_ZONE, (owner, zone, author, now_ns))
        detail = as_detail({"time_zone": zone, "author": author})
        self._books.append(connection, Entry(at_ns=now_ns, kind="zone", scope=owner, detail=detail))
        return found

    def announce_passed(
        self, connection: Writes, scope: Scope, meter: Meter, kind: LimitKind, now_ns: int
    ) -> None:
        """Announce what current use passes of the limit that counts from now on, its own or the default.

        And arm again what it puts out of reach; see `Books.retell`.
        """
        books = self._books
        if kind not in WINDOW_KINDS:
            return
        key = RowKey(scope, meter, kind, "", *books.calendar.windows(scope, now_ns)[kind])
        books.retell(connection, key, books.bounds.cap(connection, key, now_ns), now_ns)

    def _open(self, connection: Writes, key: RowKey, now_ns: int) -> None:
        """Begin to keep a counter in the midst of its window, as if it had been kept from the start.

        Reservations that lack it and can still change, held or charged on expiry, adopt it. A counter that
        was kept before, while it had a limit, takes in what passed it by since it was last opened.
        """
        owner, since_ns, text_of_key = (
            organisation(key.scope),
            key.start_s * 1_000_000_000,
            rows_as_text((key,)),
        )
        (last,) = connection.execute(
            statements.LAST_OPENING, (owner, since_ns, key.scope, text_of_key)
        ).fetchone()
        among = (owner, since_ns, last, *_below(key.scope))
        used, held = 0, 0
        adopted: list[str] = []
        for statement in (statements.ENDED_SINCE, statements.RECORDED_SINCE):
            for text, *sums in connection.execute(statement, among).fetchall():
                if not _holds(rows_from_text(text), key):
                    used += Amounts(*map(int, sums)).of(key.meter)
        for name, state, text, *amounts in connection.execute(statements.CHANGEABLE_SINCE, among).fetchall():
            rows = rows_from_text(text)
            if _holds(rows, key):
                continue
            if state == "held":
                held += Amounts(*amounts[:3]).of(key.meter)
            else:
                used += Amounts(*amounts[3:]).of(key.meter)
            adopted.append(name)
            wider = rows_as_text(sorted((*rows, key)))
            connection.execute(statements.ADOPT_ROW, (wider, name))
        if not used and not adopted:
            return
        onto = Amounts(**{key.meter: used}), Amounts(**{key.meter: held})
        self._books.add(connection, (key,), used=onto[0], held=onto[1])
        self._books.append(
            connection,
            Entry(
                at_ns=now_ns,
                kind="open",
                scope=key.scope,
                used=onto[0],
                held=onto[1],
                rows=text_of_key,
                detail=as_detail({"adopted": adopted}),
            ),
        )


def check_kind(meter: str, kind: str) -> None:
    """Refuse a meter or a kind of limit that does not exist.

    Raises:
        RequestMalformed: see above.
    """
    if meter not in METERS:
        raise RequestMalformed(
            f"{meter[:40]!a} is not a meter.", hint=f"Use {', '.join(METERS)}.", param="meter"
        )
    if kind not in LIMIT_KINDS:
        raise RequestMalformed(
            f"{kind[:40]!a} is not a budget window.", hint=f"Use {', '.join(LIMIT_KINDS)}.", param="window"
        )


def _below(scope: Scope) -> tuple[str, str, str]:
    """Return the scope, and the bounds between which the scopes below it sort ("/" follows ".")."""
    return scope, f"{scope}.", f"{scope}/"


def _holds(rows: tuple[RowKey, ...], key: RowKey) -> bool:
    return any(row[:5] == key[:5] for row in rows)
