"""Reserves and settles on a store until it is killed: `python -m tests.unit.budgets.spender FILE LIFE`.

Each line on its output tells what the ledger had acknowledged before the line was written.
"""

import random
import sys
import threading
from pathlib import Path

from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import SystemClock
from trivet.domain.errors import BudgetError
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.storage import Database, StoreLock

CLIENTS = 8
HOLD = 500
LIMIT = 2_000_000


def spend(ledger: Ledger, client: str) -> None:
    """Reserve and settle until the budget is used up."""
    dice, number = random.Random(client), 0
    while True:
        number += 1
        name = f"{client}-{number}"
        try:
            ledger.reserve(
                Hold.of_tokens(Scope(f"acme.team{number % 3}"), HOLD), reservation_id=name
            ).result()
        except BudgetError:
            return
        tell(f"held {name} {HOLD}")
        tokens = dice.randint(50, HOLD)
        ledger.settle(name, Usage(0, tokens)).result()
        tell(f"settled {name} {tokens}")


def tell(line: str) -> None:
    """Write one line at once, whole."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(store: Path, life: str) -> None:
    """Own the store, recover it, and spend from several threads."""
    with StoreLock.acquire(store), Database.open(store) as database:
        settings = BudgetSettings(default_daily_tokens=LIMIT, default_monthly_tokens=LIMIT)
        ledger = Ledger(database, settings, SystemClock())
        tell(f"recovered {ledger.recover()} 0")
        threads = [
            threading.Thread(target=spend, args=(ledger, f"{life}-{client}")) for client in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
