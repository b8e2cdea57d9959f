"""What each attempt of a request is charged, and that it stays within what was held for all of them."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.metering.makers import HEAVY, LIGHT, decision, deployment
from trivet.domain.budgets import Amounts
from trivet.domain.decisions import Estimate
from trivet.domain.outcomes import Attempt, OutcomeStatus, Usage
from trivet.domain.prices import FREE, Price
from trivet.domain.tiers import Deployment
from trivet.engines.answers import PlainReply
from trivet.execution.charging import Bill, Charges
from trivet.execution.tariff import Tariff

NEAR, FAR = deployment("near", LIGHT), deployment("far", HEAVY)
TARIFFS = {
    "near": Tariff(Fraction(1), FREE),
    "far": Tariff(Fraction(10), Price(prompt=Fraction(2), completion=Fraction(8))),
}
PROMPT, CAP = 100, 50


def attempt(at: Deployment, code: str | None = "upstream_timeout") -> Attempt:
    """Return an ended attempt."""
    return Attempt(attempt_id=f"at-{at.name}", deployment=at, dispatched_ns=0, ended_ns=1, error_code=code)


def reply(prompt: int, completion: int, *, content_bytes: int = 400) -> PlainReply:
    """Return a whole answer with the engine's usage."""
    return PlainReply(
        b"{}", Usage(prompt, completion), finished=True, content_events=1, content_bytes=content_bytes
    )


def charges(
    *attempts: Attempt,
    status: OutcomeStatus = "ok",
    answer: PlainReply | None = None,
    held_at: str = "far",
    stream: bool = True,
) -> Charges:
    """Charge a request of 100 prompt tokens at most and 50 output tokens, held for one of the tariffs."""
    held = TARIFFS[held_at].prompt(PROMPT) + TARIFFS[held_at].output(CAP)
    bill = Bill(
        decision=replace(decision(NEAR, FAR), estimated=Estimate(PROMPT, CAP)),
        stream=stream,
        output_cap=CAP,
        held=held,
        tariffs=TARIFFS,
    )
    return bill.charges(attempts, status, answer)


def test_a_silent_attempt_has_its_own_tariff() -> None:
    """The light engine that may have read the prompt is charged as light, the other one as heavy."""
    found = charges(attempt(NEAR), attempt(FAR, None), answer=reply(20, 10))
    assert [(each.attempt.deployment.name, each.charged) for each in found.earlier] == [
        ("near", Amounts(100, 100, 0))
    ]
    assert found.last is not None
    assert found.last.usage == Usage(20, 10)
    assert found.last.charged == Amounts(30, 300, 120)
    assert found.usage == Usage(120, 10, "ceiling")
    assert found.charged == Amounts(130, 400, 120)
    assert found.own == (Usage(20, 10), Amounts(30, 300, 120))
    assert [(each.attempt_id, each.deployment, each.tier, each.charged) for each in found.entries] == [
        ("at-near", "near", "light", Amounts(100, 100, 0))
    ]


def test_only_silence_costs_before_content() -> None:
    """What was refused, or broke, before it produced anything costs nothing, first or last."""
    for kind in ("unavailable", "busy", "error", "loading", "incomplete"):
        code = f"upstream_{kind}"
        assert charges(attempt(NEAR, code), attempt(FAR, code), status="failed") == Charges()
        found = charges(attempt(NEAR, code), attempt(FAR, None), answer=reply(20, 10))
        assert (found.earlier, found.usage) == ((), Usage(20, 10))


def test_silence_before_a_refusal_is_charged() -> None:
    """The last attempt owes nothing, the silent one before it does."""
    found = charges(attempt(NEAR), attempt(FAR, "upstream_unavailable"), status="failed")
    assert (found.last, found.usage, found.charged) == (None, Usage(100, 0, "ceiling"), Amounts(100, 100, 0))
    assert found.own == (Usage(0, 0, "ceiling"), Amounts())


@pytest.mark.parametrize(("stream", "completion"), [(True, 0), (False, CAP)])
def test_a_last_attempt_that_is_silent(stream: bool, completion: int) -> None:
    """A plain answer shows nothing of how far it came, so its whole ceiling is charged."""
    found = charges(attempt(FAR), status="failed", stream=stream)
    assert found.usage == Usage(PROMPT, completion, "ceiling")


def test_weighed_for_a_cheaper_one_meanwhile() -> None:
    """The heavy attempt fell silent, then the hold was weighed for a light candidate that was not asked."""
    found = charges(attempt(FAR), status="failed", held_at="near")
    assert found.charged == Amounts(100, 150, 0)


@given(st.lists(st.sampled_from([NEAR, FAR]), max_size=6), st.integers(0, PROMPT), st.integers(1, CAP))
def test_never_more_than_was_held(before: list[Deployment], prompt: int, completion: int) -> None:
    """However many attempts fell silent, all charges together stay within the hold, on every meter."""
    found = charges(*map(attempt, before), attempt(FAR, None), answer=reply(prompt, completion))
    held = TARIFFS["far"].prompt(PROMPT) + TARIFFS["far"].output(CAP)
    assert (found.charged - held).at_least(0) == Amounts()
    assert found.usage is not None
    assert found.usage.total_tokens == found.charged.tokens
    assert all(each.charged.tokens == each.usage.total_tokens for each in found.earlier)
