"""What the library reads off an answer."""

import httpx

from trivet.sdk.results import Facts


def test_a_stream_that_began_before_anybody_answered_has_facts() -> None:
    """While a model is loaded only the decision is known; the stream is one all the same."""
    headers = {
        "x-request-id": "r",
        "x-trivet-decision-id": "d",
        "x-trivet-complexity": "0.033",
        "x-trivet-reason": "Because.",
    }
    facts = Facts.read(httpx.Headers(headers))
    assert (facts.decision_id, facts.reason, facts.complexity) == ("d", "Because.", 0.033)
    assert (facts.tier, facts.model, facts.attempts, facts.budget_remaining) == (None, None, None, None)
