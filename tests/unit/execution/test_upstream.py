"""What goes upstream, and what usage is believed."""

from typing import Any

import pytest

from trivet.domain.decisions import Candidate, Complexity, Decision
from trivet.domain.outcomes import Usage
from trivet.domain.requests import ChatRequest
from trivet.domain.tiers import Deployment, Tier
from trivet.execution.upstream import believable, upstream_body

TIER = Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=1.0)
DEPLOYMENT = Deployment(
    name="light-1",
    tier=TIER,
    engine="vllm",
    model="served-name",
    transport="relay",
    url="http://127.0.0.1:1",
    context_tokens=1000,
    slots=4,
    devices=("host",),
)


def decision(**changes: Any) -> Decision:
    """Return a decision for the one deployment."""
    values: dict[str, Any] = {
        "decision_id": "d",
        "complexity": Complexity(0.1, {}, "light"),
        "confidence": 1.0,
        "policy": "normal",
        "strategy": "complexity",
        "reasons": (),
        "candidates": (Candidate(DEPLOYMENT, 1.0, {}),),
        "max_output_tokens": 77,
    }
    return Decision(**(values | changes))


def request(body: dict[str, Any], *, stream: bool = False) -> ChatRequest:
    """Return a request with the body."""
    return ChatRequest(body=body, body_bytes=1, model="auto", stream=stream)


@pytest.mark.parametrize(
    ("body", "stream", "expected"),
    [
        ({"model": "auto"}, False, {"model": "served-name", "max_tokens": 77}),
        ({"model": "auto", "max_tokens": 5000}, False, {"model": "served-name", "max_tokens": 77}),
        (
            {"model": "auto", "max_completion_tokens": 9},
            False,
            {"model": "served-name", "max_completion_tokens": 77},
        ),
        (
            {"stream": True, "stream_options": {"x": 1}},
            True,
            {
                "stream": True,
                "model": "served-name",
                "max_tokens": 77,
                "stream_options": {"x": 1, "include_usage": True},
            },
        ),
        ({"stream_options": {"x": 1}}, False, {"model": "served-name", "max_tokens": 77}),
        (
            {"tools": [{"a": 1}], "seed": 4, "stop": ["x"]},
            False,
            {"tools": [{"a": 1}], "seed": 4, "stop": ["x"], "model": "served-name", "max_tokens": 77},
        ),
    ],
)
def test_only_owned_fields_are_rewritten(
    body: dict[str, Any], stream: bool, expected: dict[str, Any]
) -> None:
    """The model, the cap and the usage option are Trivet's; everything else passes."""
    before = dict(body)
    assert upstream_body(request(body, stream=stream), decision(), DEPLOYMENT) == expected
    assert body == before


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 0.2), ({"temperature": 0.9}, 0.9), ({"temperature": 0}, 0)]
)
def test_temperature_default(given: dict[str, Any], expected: float) -> None:
    """The decision's temperature is sent only when the caller named none."""
    assert upstream_body(request(given), decision(temperature=0.2), DEPLOYMENT)["temperature"] == expected


@pytest.mark.parametrize(
    ("usage", "content_events", "believed"),
    [
        (Usage(10, 20), 20, True),
        (Usage(10, 0), 0, True),
        (Usage(10, 0), 3, False),
        (Usage(10, 101), 20, False),
        (Usage(1001, 5), 5, False),
        (Usage(-1, 5), 5, False),
        (Usage(1, -5), 5, False),
        (None, 5, False),
    ],
)
def test_what_is_believed(usage: Usage | None, content_events: int, believed: bool) -> None:
    """Usage that cannot be true is not believed."""
    found = believable(usage, output_ceiling=100, context_tokens=1000, content_events=content_events)
    assert found == (usage if believed else None)
