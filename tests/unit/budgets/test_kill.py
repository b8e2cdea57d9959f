"""kill -9 while tokens are held: nothing is lost, nothing stays held, nothing is overspent."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import sqlalchemy
from sqlalchemy import select

from tests.counts import scaled
from tests.unit.budgets.spender import CLIENTS, HOLD, LIMIT
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import SystemClock
from trivet.storage import Database
from trivet.storage.schema import reservations

REPOSITORY = Path(__file__).parents[3]


def live_and_die(store: Path, life: int, lines: int) -> list[list[str]]:
    """Start a spender, kill it after so many lines, and return all whole lines that it wrote."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.budgets.spender", str(store), str(life)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=60)
    return [line.split() for line in (*told, *rest.splitlines(keepends=True)) if line.endswith("\n")]


def stored_reservations(connection: sqlalchemy.Connection) -> dict[str, tuple[str, int]]:
    """Return state and charge of every reservation."""
    return {row.id: (row.state, row.charged_tokens) for row in connection.execute(select(reservations))}


def test_killed_owners(tmp_path: Path) -> None:
    """After every kill all that was acknowledged is there, and what was held is charged in full."""
    store = tmp_path / "trivet.db"
    settings = BudgetSettings(default_daily_tokens=LIMIT, default_monthly_tokens=LIMIT)
    told: list[list[str]] = []
    dice = random.Random(7)
    for life in range(scaled(3)):
        told += live_and_die(store, life, dice.randint(20, 300))
        with Database.open(store) as database:
            ledger = Ledger(database, settings, SystemClock())
            recovered = ledger.recover()
            stored = database.read(stored_reservations)
            assert 0 <= recovered <= CLIENTS
            assert "held" not in {state for state, _ in stored.values()}
            for what, name, tokens in told:
                if what == "settled":
                    assert stored[name] == ("settled", int(tokens))
                elif what == "held":
                    assert stored[name][0] in ("settled", "expired_charged")
            charged = sum(tokens for _, tokens in stored.values())
            expired = [tokens for state, tokens in stored.values() if state == "expired_charged"]
            assert set(expired) <= {HOLD}
            assert charged <= LIMIT
            assert {row.held for row in ledger.rows()} == {0}
            assert {row.used for row in ledger.rows() if row.scope == "acme" and row.window == "monthly"} == {
                charged
            }
            assert ledger.verify().differences == ()
            check = database.read(
                lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            )
            assert check == "ok"
