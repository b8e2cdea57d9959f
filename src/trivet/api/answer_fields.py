"""What the head of an answer tells of the decision behind it: lines of a head, as they go over the wire."""

from functools import lru_cache

from trivet.api.asgi import clean_text
from trivet.api.attempt_path import path_of
from trivet.domain.decisions import Decision
from trivet.execution import Answer


def answer_fields(answer: Answer) -> str:
    """Return the fields that explain the answer, each with its line end."""
    run = answer.run
    decision, served = run.decision, answer.deployment
    told = (
        f"{decision_fields(run.request_id, decision)}{_served(served.tier.name, served.model)}"
        f"x-trivet-attempts: {len(run.attempts)}\r\n"
    )
    if run.saved_device_ns is None:  # else an answer was kept, which needs no engine and no budget
        remaining = run.budget_remaining
        told += (
            f"x-trivet-attempt-path: {path_of(run.attempts)}\r\n"
            f"x-trivet-budget-remaining: {'unlimited' if remaining is None else remaining}\r\n"
        )
    if run.cache_headers:
        told += _lines(run.cache_headers)
    if run.clamped:
        told += f"x-trivet-max-tokens: {decision.max_output_tokens}\r\n"
    if run.admitted.headers:
        told += _lines(run.admitted.headers)
    if run.downgraded_from:
        told += _lines({"x-trivet-downgraded": f"{run.downgraded_from}->{served.tier.name}"})
    return told


def decision_fields(request_id: str, decision: Decision) -> str:
    """Return the fields that explain the decision, before it is known who answers."""
    reason = " ".join([reason.text for reason in decision.reasons])
    return (
        f"x-request-id: {request_id}\r\n"
        f"x-trivet-decision-id: {clean_text(decision.decision_id)}\r\n"
        f"x-trivet-complexity: {decision.complexity.score:.3f}\r\n"
        f"x-trivet-reason: {clean_text(reason)}\r\n"
    )


def mapping_of(fields: str) -> dict[str, str]:
    """Return the same fields by name, for a server that takes no lines."""
    return dict(line.split(": ", 1) for line in fields.split("\r\n") if line)


@lru_cache(maxsize=1024)
def _served(tier: str, model: str) -> str:
    return _lines({"x-trivet-tier": tier, "x-trivet-model": model})


def _lines(headers: dict[str, str]) -> str:
    return "".join([f"{name}: {clean_text(value)}\r\n" for name, value in headers.items()])
