"""What a request holds on its way from one candidate to the next."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.unit.metering.makers import HEAVY, LIGHT, decision, deployment
from trivet.budgets import Ledger, OverrideRequest
from trivet.config.settings import BudgetSettings
from trivet.domain.clock import ManualClock
from trivet.domain.decisions import Estimate
from trivet.domain.prices import NoPrices
from trivet.domain.requests import ChatRequest, Principal
from trivet.domain.scopes import Scope
from trivet.execution.run import Budgeting, Desk, Run
from trivet.execution.settler import Settler
from trivet.storage import Database

ACME = Scope("acme")
NEAR = deployment("near", LIGHT)
FAR = deployment("far", replace(HEAVY, cost_weight=LIGHT.cost_weight))


@pytest.mark.parametrize("approved", [False, True])
async def test_the_dearest_tier_takes_an_approval_whatever_it_weighs(approved: bool) -> None:
    """A fallback to the dearest tier is asked of the ladder even where nothing is to be held anew."""
    with Database.open(None) as database:
        ledger = Ledger(database, BudgetSettings(ladder="strict"), ManualClock())
        ledger.recover()
        ledger.set_limit(ACME, "daily", 1000, author="me").result()
        ledger.record(ACME, 860).result()
        if approved:
            asked = OverrideRequest(
                override_id="o",
                kind="approval",
                scope=ACME,
                requester="ana",
                reason="the demo",
                expires_at=datetime(2026, 2, 1, tzinfo=UTC),
            )
            ledger.request_override(asked).result()
            ledger.decide_override("o", approve=True, decider="bob").result()
        settler = Settler(ledger)
        desk = Desk(
            settler=settler,
            budget=Budgeting(
                prices=NoPrices(),
                dearest_order=HEAVY.order,
                wait_s=0.0,
                minimum_output_tokens=None,
                outside_hold_s=60.0,
                deadline_s=60.0,
            ),
            clock=ManualClock(),
            row_writer=lambda _: lambda _: None,
            announce=lambda _: None,
        )
        run = Run(
            desk,
            request_id="r",
            principal=Principal(key_id="key", scope=ACME),
            request=ChatRequest(body={}, body_bytes=1, model="auto"),
            decision=replace(decision(NEAR, FAR), max_output_tokens=20, estimated=Estimate(10, 20)),
            started_ns=0,
        )
        await run.hold()
        assert await run.weigh(NEAR)
        assert await run.weigh(FAR) is approved
        run.close("failed")
        await settler.drain()
        assert ledger.verify().ok
