"""The storms and the kills in small: whole servers, an engine that counts for itself, the same judges."""

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.counts import scaled
from tests.proofs.clients import Refusal
from tests.proofs.kill_storm import KillPlan
from tests.proofs.kills import one
from tests.proofs.matrix import read_lines, run
from tests.proofs.oracle import History
from tests.proofs.provenance import commit
from tests.proofs.storm import Plan, is_clean, storm
from trivet.budgets import Ledger
from trivet.config.settings import BudgetSettings
from trivet.domain.budgets import Hold
from trivet.domain.clock import SystemClock
from trivet.domain.errors import BudgetContended
from trivet.domain.outcomes import Usage
from trivet.domain.scopes import Scope
from trivet.lab.scratch_postgres import ScratchPostgres
from trivet.storage import Database

ACME = Scope("acme")

STORMS = [
    Plan(store="sqlite", processes=1, clients=24, seed=1, ladder="strict", limit_min=20_000),
    Plan(store="postgres", processes=2, clients=24, seed=2, level="ledger", limit_min=10_000),
]
LONG_STORMS = [
    Plan(store=store, processes=processes, clients=clients, seed=5, ladder=ladder, mode=mode)
    for store, processes, clients, ladder, mode in itertools.product(
        ("sqlite", "postgres"),
        (1, 2, 4),
        (1, 32, 256),
        ("default", "strict"),
        ("plain", "stream"),
    )
]


def name_of(plan: Plan) -> str:
    """Return a storm in short."""
    return f"{plan.level}-{plan.store}-{plan.processes}x{plan.clients}-{plan.ladder}-{plan.mode}-{plan.seed}"


@pytest.mark.parametrize("plan", STORMS if scaled(1) == 1 else [*STORMS, *LONG_STORMS], ids=name_of)
def test_storm(plan: Plan, postgres: ScratchPostgres) -> None:
    """Nothing is overspent, nobody is refused falsely, nothing stays held, and less than one hold is left
    over."""
    figures = storm(plan, postgres=postgres)
    assert is_clean(figures), figures


# A replica's holds are charged once its lease is over: 15 s are too long for every day.
@pytest.mark.parametrize("store", ["sqlite"] if scaled(1) == 1 else ["sqlite", "postgres"])
def test_kills(store: str) -> None:
    """Lives that end at random moments and at failpoints leave books that can be proven."""
    figures: dict[str, Any] = one(KillPlan(kills=scaled(2), seed=5, store=store, clients=8))
    assert (figures["kills"], figures["overspend"], figures["violations"]) == (scaled(2), 0, 0), figures


def test_a_matrix_goes_on_where_it_ended(tmp_path: Path) -> None:
    """What this commit has done is not done again, half a line is none, a failed storm is tried again, and a
    deadline leaves the rest."""
    out = tmp_path / "storms.jsonl"
    ran: list[int] = []

    def one(plan: Plan) -> dict[str, Any]:
        ran.append(plan.seed)
        if ran == [1, 2]:
            raise RuntimeError("the machine was switched off")
        return {"plan": asdict(plan), "commit": commit()}

    wanted = [Plan(store="sqlite", processes=1, clients=1, seed=seed) for seed in (1, 2, 3)]
    assert run(wanted, out, deadline_s=0, one=one) == ([], 0)
    assert run(wanted[:2], out, deadline_s=60, one=one)[1] == 1
    with out.open("a") as half:
        half.write('{"plan": {"sto')
    lines, failures = run(wanted, out, deadline_s=60, one=one)
    assert (ran, failures) == ([1, 2, 2, 3], 0)
    assert [line["plan"]["seed"] for line in lines] == [1, 2, 3]
    assert sum("failed" not in line for line in read_lines(out)) == 3


def test_the_judge_sees() -> None:
    """A right refusal is right; one with room, of books that never stood, or after a wait in vain is not."""
    with Database.open(None) as database:
        settings = BudgetSettings(default_daily_tokens=1_000, default_monthly_tokens=None)
        ledger = Ledger(database, settings, SystemClock())
        ledger.reserve(Hold.of_tokens(ACME, 800), reservation_id="first").result()
        sent_ns = time.time_ns()
        refused = ledger.reserve(Hold.of_tokens(ACME, 300), reservation_id="second").exception()
        assert isinstance(refused, BudgetContended)
        facts = {name: refused.details[name] for name in ("window", "used", "held", "limit")}
        refusal = Refusal(
            code=refused.code,
            scope=ACME,
            sent_ns=sent_ns,
            received_ns=time.time_ns(),
            row_scope=ACME,
            **facts,
        )
        history = database.read(History.read)
        assert history.is_false(refusal, 300) is None
        assert history.is_false(refusal, 200) == "the least useful hold fitted"
        assert "never stood" in str(history.is_false(replace(refusal, used=1), 300))
        assert "never stood" in str(history.is_false(replace(refusal, held=700, used=100), 300))
        ledger.settle("first", Usage(5, 5)).result()
        assert "had ended" in str(database.read(History.read).is_false(refusal, 300))
