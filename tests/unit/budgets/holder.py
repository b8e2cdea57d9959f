"""A replica that holds and does not settle: `python -m tests.unit.budgets.holder URL COUNT LEASE`."""

import sys

from tests.unit.budgets.stores import ledger_on
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import SystemClock
from trivet.domain.scopes import Scope
from trivet.storage.postgres import PostgresDatabase


def main(url: str, count: int, lease_s: float) -> None:
    """Hold, say so, and wait for the end."""
    with PostgresDatabase.at(url) as database:
        ledger = ledger_on(database, BudgetSettings(), SystemClock(), lease_s=lease_s)
        ledger.recover()
        for number in range(count):
            hold = Hold.of_tokens(Scope(f"acme.team{number % 3}"), 100)
            ledger.reserve(hold, reservation_id=f"held-{number}").result()
        sys.stdout.write("held\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
