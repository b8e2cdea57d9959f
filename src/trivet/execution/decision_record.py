"""A decision and its tariff as JSON, so that another process can execute or settle it later. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

from trivet.domain.budgets import Amounts, Reservation
from trivet.domain.decisions import Candidate, Complexity, Decision, Estimate, Reason
from trivet.domain.errors import NoCandidate
from trivet.domain.prices import Price
from trivet.domain.requests import ChatRequest, Hints
from trivet.domain.scopes import Scope
from trivet.domain.tiers import Deployment
from trivet.execution.tariff import Tariff


def record_of(
    decision: Decision, request: ChatRequest, reservation: Reservation, tariff: Tariff
) -> dict[str, Any]:
    """Return all that executing or reporting needs; nothing of the prompt."""
    complexity = decision.complexity
    price = tariff.price
    return {
        "model": request.model,
        "stream": request.stream,
        "hints": asdict(request.hints) | {"capabilities": list(request.hints.capabilities)},
        "complexity": [complexity.score, complexity.factors, complexity.recommended_tier],
        "confidence": decision.confidence,
        "policy": decision.policy,
        "strategy": decision.strategy,
        "reasons": [[reason.code, reason.text] for reason in decision.reasons],
        "candidates": [[c.deployment.name, c.score, c.terms] for c in decision.candidates],
        "tier": decision.deployment.tier.name,
        "temperature": decision.temperature,
        "downgraded_from": decision.downgraded_from,
        "max_output_tokens": decision.max_output_tokens,
        "prompt_tokens": decision.estimated.prompt_tokens,
        "held": asdict(reservation.amounts) | {"max_output": reservation.max_output},
        "remaining": reservation.remaining,
        "weight": str(tariff.weight),
        "price": _price_as_json(price),
        "price_beyond": [[tokens, _price_as_json(beyond)] for tokens, beyond in price.beyond],
        "price_known": price.known,
    }


def decision_of(
    decision_id: str, record: Mapping[str, Any], deployments: Mapping[str, Deployment]
) -> Decision:
    """Return the decision as it was, without the further candidates that are configured no more.

    What was held was held for the first one, at its tier: at its weight and with its approvals. Executing at
    another one would be charged by the wrong weight, or pass by an approval.

    Raises:
        NoCandidate: the first one is configured no more, or in another tier.
    """
    chosen = deployments.get(record["candidates"][0][0])
    if chosen is None or record.get("tier", chosen.tier.name) != chosen.tier.name:
        raise NoCandidate(
            "The deployment that was decided on is not configured any more, or in another tier.",
            hint="POST /api/v1/route decides anew; an outcome of 0 tokens gives back what was held.",
        )
    candidates = tuple(
        Candidate(deployments[name], score, terms)
        for name, score, terms in record["candidates"]
        if name in deployments
    )
    return Decision(
        decision_id=decision_id,
        complexity=Complexity(*record["complexity"]),
        confidence=record["confidence"],
        policy=record["policy"],
        strategy=record["strategy"],
        reasons=tuple(Reason(code, text) for code, text in record["reasons"]),
        candidates=candidates,
        temperature=record["temperature"],
        downgraded_from=record["downgraded_from"],
        max_output_tokens=record["max_output_tokens"],
        estimated=Estimate(record["prompt_tokens"], record["max_output_tokens"]),
    )


def hints_of(record: Mapping[str, Any]) -> Hints:
    """Return the hints that the caller gave when it was decided."""
    told = dict(record["hints"])
    return Hints(**told | {"capabilities": tuple(told["capabilities"])})


def reservation_of(decision_id: str, scope: Scope, record: Mapping[str, Any]) -> Reservation:
    """Return the hold as it was granted."""
    held = dict(record["held"])
    max_output = held.pop("max_output")
    amounts = Amounts(**held)
    return Reservation(
        reservation_id=decision_id,
        scope=scope,
        amount=amounts.tokens,
        remaining=record.get("remaining"),
        amounts=amounts,
        max_output=max_output,
    )


def tariff_of(record: Mapping[str, Any]) -> Tariff:
    """Return what a token counted when the hold was made."""
    price = replace(
        _price_of(record["price"]),
        beyond=tuple((tokens, _price_of(beyond)) for tokens, beyond in record.get("price_beyond", ())),
        known=record.get("price_known", True),
    )
    return Tariff(Fraction(record["weight"]), price)


def _price_as_json(price: Price) -> list[str | None]:
    cached = None if price.cached_prompt is None else str(price.cached_prompt)
    return [str(price.prompt), str(price.completion), cached]


def _price_of(facts: Sequence[Any]) -> Price:
    prompt, completion, cached = facts
    return Price(
        prompt=Fraction(prompt),
        completion=Fraction(completion),
        cached_prompt=None if cached is None else Fraction(cached),
    )
