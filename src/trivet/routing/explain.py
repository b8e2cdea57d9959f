"""A decision as JSON: the fields of `POST /api/v1/route`, a contract that others call."""

from typing import Any

from trivet.domain.decisions import Decision, Rejection


def decision_as_json(decision: Decision) -> dict[str, Any]:
    """Return the decision with every reason, candidate and rejection. The door adds `budget`."""
    chosen = decision.deployment
    complexity, estimated = decision.complexity, decision.estimated
    lowered = {} if decision.downgraded_from is None else {"downgraded_from": decision.downgraded_from}
    return {
        **lowered,
        "decision_id": decision.decision_id,
        "tier": chosen.tier.name,
        "model": chosen.model,
        "deployment": chosen.name,
        "complexity": {
            "score": complexity.score,
            "factors": dict(complexity.factors),
            "recommended_tier": complexity.recommended_tier,
        },
        "confidence": decision.confidence,
        "policy": decision.policy,
        "strategy": decision.strategy,
        "reasons": [{"code": reason.code, "text": reason.text} for reason in decision.reasons],
        "candidates": [
            {
                "tier": candidate.deployment.tier.name,
                "model": candidate.deployment.model,
                "deployment": candidate.deployment.name,
                "score": candidate.score,
                "terms": dict(candidate.terms),
            }
            for candidate in decision.candidates
        ],
        "rejected": [rejection_as_json(rejection) for rejection in decision.rejected],
        "estimated": {
            "prompt_tokens": estimated.prompt_tokens,
            "max_output_tokens": estimated.max_output_tokens,
            "usd_micros": estimated.usd_micros,
            "device_s": estimated.device_s,
            "latency_ms": estimated.latency_ms,
        },
    }


def rejection_as_json(rejection: Rejection) -> dict[str, Any]:
    """Return one rejection as decisions and refusals list it."""
    return {
        "tier": rejection.deployment.tier.name,
        "model": rejection.deployment.model,
        "code": rejection.code,
        "reason": rejection.reason,
        "cost_difference": rejection.cost_difference,
        "quality_difference": rejection.quality_difference,
    }
