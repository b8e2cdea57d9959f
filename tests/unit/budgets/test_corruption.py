"""Whatever single counter, entry, reservation or rule is changed, in whatever column: verify names it."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, update

from tests.counts import scaled
from trivet.budgets import Ledger, OverrideRequest
from trivet.domain.budgets import Amounts, Hold
from trivet.domain.clock import ManualClock
from trivet.domain.errors import BudgetError, StoreError
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database
from trivet.storage.schema import counters, entries, limits, overrides, reservations, tenants

SCOPES = tuple(Scope(text) for text in ("acme", "acme.a", "acme.a.ana", "globex.b", "globex"))
TABLES = (counters, entries, reservations, limits, overrides, tenants)
UNPROVEN: dict[Table, frozenset[str]] = {
    # An entry's place in its chain is proven, not its number; a swap of two is in test_verify.
    entries: frozenset({"seq"}),
    # What no admission and no status reads, or what only speeds up a query.
    reservations: frozenset(
        {"organisation", "owner", "decision_id", "created_ns", "closed_ns", "remaining", "expires_ns"}
        | {"max_output", "priority", "scope"}
    ),
    limits: frozenset({"version", "author", "updated_ns"}),
    overrides: frozenset({"decided_ns"}),
    tenants: frozenset({"author", "updated_ns"}),
}


def live(ledger: Ledger, clock: ManualClock, dice: random.Random) -> None:
    """Give the ledger a past in which everything has happened."""
    ledger.set_time_zone(Scope("globex"), "Europe/Vienna", author="me").result()
    ledger.set_limit(Scope("acme"), "weekly", 5_000, author="me", allowance=10).result()
    for number in range(24):
        name, scope = f"r{number}", dice.choice(SCOPES)
        until = round((clock.now() + timedelta(minutes=5)).timestamp()) * 10**9 if number % 6 == 5 else None
        hold = Hold(
            scope=scope,
            prompt=Amounts(20, 60, 5),
            output=Amounts(30, 90, 7),
            max_output=30,
            min_output=5,
            expires_at_ns=until,
        )
        try:
            ledger.reserve(hold, reservation_id=name).result()
        except BudgetError:
            continue
        if number % 6 in (0, 1):
            left = AttemptCharge(
                attempt_id=f"a{number}",
                deployment="silent",
                tier="light",
                usage=Usage(3, 0, "ceiling"),
                charged=Amounts(3, 6, 1),
            )
            used = Usage(dice.randint(1, 20), dice.randint(0, 30))
            ledger.settle(name, used, earlier=[left] * (number % 6)).result()
        elif number % 6 == 2:
            ledger.release(name).result()
        elif number % 6 == 3:
            ledger.reweight(name, Amounts(20, 20), Amounts(30, 30)).result()
        clock.advance(dice.choice((10, 3_600, 90_000)))
    ledger.expire().result()
    ledger.record(Scope("acme.a"), 7, note="batch").result()
    ledger.set_limit(Scope("acme.a"), "total", 9_000, author="me", meter="weighted_tokens").result()
    ledger.request_override(
        OverrideRequest(
            override_id="o1",
            kind="amount",
            scope=Scope("acme"),
            amount=25,
            requester="ana",
            reason="the demo",
            expires_at=clock.now() + timedelta(days=3),
        )
    ).result()
    ledger.decide_override("o1", approve=True, decider="bob").result()
    for event in ("created", "revoked"):
        ledger.enter_key(Scope("acme.a"), event, author="me", key_id="k1", role="tenant").result()


def another(value: Any, column: str, dice: random.Random) -> Any:
    """Return a value of the same kind that is not the same."""
    if value is None:
        return None
    if isinstance(value, int):
        if column.endswith("_ns") and column != "at_ns":
            return value + 1_000_000_000  # instants are told in microseconds
        return value + dice.choice((-1, 1, 7, 1_000_000))
    text = str(value)
    if not text:
        return "x"
    place = dice.randrange(len(text))
    return dice.choice((text[:place] + text[place + 1 :], text[:place] + "~" + text[place:], text + "0"))


def run(database: Database, op: Callable[[Connection], Any]) -> Any:
    """Change the store behind the ledger's back."""
    return database.transact(op).result()


def spoil(database: Database, table: Table, dice: random.Random) -> tuple[str, Callable[[], None]] | None:
    """Change or drop one row at random; return what was done and how to undo it."""
    names = [column.name for column in table.columns]
    found = run(database, lambda connection: [tuple(row) for row in connection.execute(select(table))])
    row = dict(zip(names, dice.choice(found), strict=True))
    this = [column == row[column.name] for column in table.primary_key.columns]
    dropped = dice.random() < 0.1
    column = dice.choice([name for name in names if name not in UNPROVEN.get(table, frozenset())])
    spoiled = row | {column: another(row[column], column, dice)}
    if not dropped and spoiled == row:
        return None

    def replace_with(new: dict[str, Any] | None, where: list[Any]) -> None:
        def op(connection: Connection) -> None:
            if new is None:
                connection.execute(delete(table).where(*where))
            else:
                connection.execute(update(table).where(*where).values(**new))

        run(database, op)

    if dropped:
        replace_with(None, this)
        return f"{table.name} without {row}", lambda: run(
            database, lambda connection: connection.execute(insert(table).values(**row))
        )
    try:
        replace_with(spoiled, this)
    except StoreError:
        return None  # the store's own constraints stand in the way
    there = [c == spoiled[c.name] for c in table.primary_key.columns]
    return f"{table.name}.{column}: {row[column]!r} -> {spoiled[column]!r}", lambda: replace_with(row, there)


@pytest.mark.parametrize("seed", range(scaled(1)))
def test_any_change_is_found(ledger: Ledger, database: Database, clock: ManualClock, seed: int) -> None:
    """Dozens of random changes, each alone, are all found; when they are undone there is nothing to find."""
    dice = random.Random(seed)
    live(ledger, clock, dice)
    assert ledger.verify().ok
    tried = 0
    for _ in range(100):
        table = dice.choice((counters, entries, *TABLES))
        spoiled = spoil(database, table, dice)
        if spoiled is None:
            continue
        what, undo = spoiled
        assert not ledger.verify().ok, what
        undo()
        tried += 1
    assert tried > 60
    assert ledger.verify().ok
