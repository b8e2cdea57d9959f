"""A decision that waited in the store while the configuration changed."""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.unit.metering.makers import HEAVY, LIGHT, decision, deployment
from trivet.domain.budgets import Amounts, Reservation
from trivet.domain.errors import NoCandidate
from trivet.domain.prices import FREE, UNKNOWN, Price
from trivet.domain.requests import ChatRequest
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment
from trivet.execution.decision_record import decision_of, record_of, tariff_of
from trivet.execution.tariff import Tariff

NEAR, FAR = deployment("near", LIGHT), deployment("far", HEAVY)
FLAT = Tariff(Fraction(1), FREE)


def record(tariff: Tariff = FLAT) -> dict[str, Any]:
    """Return what the store keeps of a hold for the first of two candidates."""
    held = Reservation(
        reservation_id="d",
        scope=Scope("acme"),
        amount=30,
        remaining=None,
        amounts=Amounts(30, 30),
        max_output=20,
    )
    request = ChatRequest(body={}, body_bytes=1, model="auto")
    facts: dict[str, Any] = json.loads(json.dumps(record_of(decision(NEAR, FAR), request, held, tariff)))
    return facts


def configured(*deployments: Deployment) -> dict[str, Deployment]:
    """Return what a configuration names."""
    return {each.name: each for each in deployments}


def test_it_comes_back_as_it_was() -> None:
    """The candidates stay in order; a further one may have gone meanwhile."""
    both = decision_of("d", record(), configured(NEAR, FAR))
    assert [each.deployment for each in both.candidates] == [NEAR, FAR]
    alone = decision_of("d", record(), configured(NEAR))
    assert [each.deployment for each in alone.candidates] == [NEAR]


@pytest.mark.parametrize("now", [(FAR,), (), (replace(NEAR, tier=HEAVY), FAR)])
def test_what_was_held_for_must_still_be_there(now: tuple[Deployment, ...]) -> None:
    """What was held at one tier is never executed at another: not at its weight, and not past an approval."""
    with pytest.raises(NoCandidate):
        decision_of("d", record(), configured(*now))


def test_records_of_before_are_read() -> None:
    """A record that does not say its tier is taken at its word."""
    old = record()
    del old["tier"]
    assert decision_of("d", old, configured(NEAR, FAR)).deployment == NEAR


@pytest.mark.parametrize(
    "price",
    [
        UNKNOWN,
        Price(
            prompt=Fraction(1, 3),
            completion=Fraction(2),
            cached_prompt=Fraction(0),
            beyond=((200_000, Price(prompt=Fraction(2, 3), completion=Fraction(4))),),
        ),
    ],
)
def test_the_price_of_then_is_kept_whole(price: Price) -> None:
    """What counts for long prompts, and that a price is not known, are kept too."""
    tariff = Tariff(Fraction(5, 2), price)
    assert tariff_of(record(tariff)) == tariff
