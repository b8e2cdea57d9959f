"""The storms and the kills in small: whole servers, an engine that counts for itself, the same judges."""

import itertools
from typing import Any

import pytest

from tests.counts import scaled
from tests.proofs.kill_storm import KillPlan, kill_storm
from tests.proofs.storm import Plan, is_clean, storm
from trivet.lab.scratch_postgres import ScratchPostgres

STORMS = [
    Plan(store="sqlite", processes=1, clients=24, seed=1, ladder="strict", limit_min=20_000),
    Plan(store="postgres", processes=2, clients=24, seed=2, level="ledger", limit_min=10_000),
]
LONG_STORMS = [
    Plan(store=store, processes=processes, clients=clients, seed=seed, ladder=ladder, mode=mode)
    for seed, store, processes, clients, ladder, mode in itertools.product(
        range(10),
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


def test_kills() -> None:
    """Lives that end at random moments and at failpoints leave books that can be proven."""
    figures: dict[str, Any] = kill_storm(KillPlan(kills=scaled(2), seed=5, clients=8))
    assert (figures["kills"], figures["overspend"], figures["violations"]) == (scaled(2), 0, 0), figures
