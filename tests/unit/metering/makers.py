"""Tiers, deployments and outcomes with the least that a test must say."""

from trivet.domain.decisions import Candidate, Complexity, Decision, Reason
from trivet.domain.outcomes import Attempt, Outcome, OutcomeStatus, Usage
from trivet.domain.requests import Hints
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment, Tier

LIGHT = Tier(name="light", order=0, cost_weight=1.0, complexity_low=0.0, complexity_high=0.3)
STANDARD = Tier(name="standard", order=1, cost_weight=3.0, complexity_low=0.3, complexity_high=0.7)
HEAVY = Tier(name="heavy", order=2, cost_weight=10.0, complexity_low=0.7, complexity_high=1.0)
TIERS = (LIGHT, STANDARD, HEAVY)


def deployment(
    name: str, tier: Tier = LIGHT, *, devices: tuple[str, ...] = ("host",), slots: int = 1
) -> Deployment:
    """Return a deployment of a model called like it."""
    return Deployment(
        name=name,
        tier=tier,
        engine="llamacpp",
        model=f"{name}-model",
        transport="relay",
        url=None,
        context_tokens=2048,
        slots=slots,
        devices=devices,
    )


def decision(*candidates: Deployment) -> Decision:
    """Return a decision for the candidates, in order."""
    return Decision(
        decision_id="decision",
        complexity=Complexity(0.25, {"keywords": 0.25}, "light"),
        confidence=0.5,
        policy="normal",
        strategy="complexity",
        reasons=(Reason("complexity", "Scored 0.25."),),
        candidates=tuple(Candidate(candidate, 0.0, {}) for candidate in candidates),
    )


def outcome(
    request_id: str,
    attempts: list[Attempt],
    *,
    started_ns: int,
    ended_ns: int,
    status: OutcomeStatus = "ok",
    usage: Usage | None = None,
    scope: str = "acme.search",
    hints: Hints | None = None,
    error_code: str | None = None,
    chosen: Deployment | None = None,
) -> Outcome:
    """Return the outcome of a request that was sent to its attempts' deployments."""
    candidates = [attempt.deployment for attempt in attempts] or [chosen or deployment("light")]
    if attempts and status in ("ok", "cut", "cancelled"):
        attempts[-1].usage = usage
    return Outcome(
        request_id=request_id,
        key_id="key-1",
        scope=Scope(scope),
        decision=decision(*candidates),
        hints=hints or Hints(),
        stream=False,
        started_ns=started_ns,
        ended_ns=ended_ns,
        status=status,
        attempts=attempts,
        usage=usage,
        error_code=error_code,
    )
