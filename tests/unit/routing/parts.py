"""Makes the values that routing works on, with only what a test is about spelled out."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, settings

from trivet.config.settings import RoutingSettings
from trivet.domain.budgets import Pressure
from trivet.domain.decisions import Decision, Offer
from trivet.domain.requests import Principal
from trivet.domain.surfaces import Surface
from trivet.domain.tiers import Deployment, EngineKind, Tier
from trivet.routing import Router, describe, parse_request
from trivet.routing.complexity import DEFAULT_TIERS

LIGHT, STANDARD, HEAVY = DEFAULT_TIERS
ALL_CAPABILITIES = frozenset({"tools", "vision", "json_schema", "logprobs"})

TOOL = {"type": "function", "function": {"name": "f"}}

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests on a shared machine, where an example may take its time."""

ZERO_TRUST = """
    Analyze the security implications of implementing a
    zero-trust architecture with mutual TLS authentication...
    """


def deployment(
    name: str,
    tier: Tier,
    *,
    model: str | None = None,
    engine: EngineKind = "llamacpp",
    context_tokens: int = 8192,
    slots: int = 4,
    capabilities: frozenset[str] = ALL_CAPABILITIES,
    local: bool = True,
    template_tokens: int = 64,
) -> Deployment:
    """Return a deployment that can do everything unless told otherwise."""
    return Deployment(
        name=name,
        tier=tier,
        engine=engine,
        model=model or f"{name}-model",
        transport="relay",
        url="http://127.0.0.1:1",
        context_tokens=context_tokens,
        slots=slots,
        devices=(),
        capabilities=capabilities,
        local=local,
        template_tokens=template_tokens,
    )


def three_offers(**states: str) -> list[Offer]:
    """Return one offer per default tier, named after it: `three_offers(light="down")`."""
    return [Offer(deployment(f"{t.name}-1", t), state=states.get(t.name, "ready")) for t in DEFAULT_TIERS]


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Return a chat body with one user message."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def decide(
    body: dict[str, Any],
    offers: Sequence[Offer] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    principal: Principal | None = None,
    routing: RoutingSettings | None = None,
    tiers: Sequence[Tier] = DEFAULT_TIERS,
    pressure: Pressure | None = None,
    surface: Surface = Surface.CHAT,
) -> Decision:
    """Send a body through all of routing: parse, describe, decide."""
    routing = routing or RoutingSettings()
    request = parse_request(surface, body, body_bytes=0, headers=headers or {})
    needs = describe(request, text_limit_chars=routing.text_limit_chars)
    return Router(routing, tiers).decide(
        request,
        needs,
        three_offers() if offers is None else offers,
        principal=principal,
        decision_id="d-1",
        pressure=pressure,
    )


def codes(decision: Decision) -> list[str]:
    """Return the codes of a decision's reasons, in order."""
    return [reason.code for reason in decision.reasons]


def order(decision: Decision) -> list[str]:
    """Return the names of a decision's candidates, in order."""
    return [candidate.deployment.name for candidate in decision.candidates]
