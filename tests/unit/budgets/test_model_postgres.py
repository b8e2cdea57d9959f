"""The model ledger against PostgreSQL: its rules are written anew there, so they are proven anew."""

import itertools
from datetime import datetime
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.counts import scaled
from tests.doubles.shared_store import SharedStore
from tests.unit.budgets.model import Books
from tests.unit.budgets.stores import bury_owners, close_ledgers, ledger_on
from tests.unit.budgets.test_model import SETTINGS, LedgerModel
from trivet.domain.clock import ManualClock
from trivet.storage.database import Database


class PostgresModel(LedgerModel):
    """The same rules, the same history, another store."""

    shared: ClassVar[SharedStore]

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        self.database: Database = self.shared.emptied()
        self.clock = ManualClock(datetime.fromisoformat("2026-01-30T00:00:00+00:00"))
        self.numbers = itertools.count()
        self.books = Books(daily=100, monthly=300)
        self.start()

    def start(self) -> int:
        """Open the ledger after the death of its owner; return how many holds it recovered."""
        bury_owners(self.database)
        self.ledger = ledger_on(self.database, SETTINGS, self.clock)
        return self.ledger.recover()

    def teardown(self) -> None:
        """Prove the books at the end."""
        try:
            assert self.ledger.verify().differences == ()
        finally:
            close_ledgers(self.database)
            self.database.close()


def test_the_books_on_postgres_follow_the_model(shared_store: SharedStore) -> None:
    """Whatever is done in whatever order, counters, grants and refusals are what the history says."""

    class Model(PostgresModel):
        shared = shared_store

    searching = settings(
        max_examples=scaled(8),
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Model, settings=searching)
