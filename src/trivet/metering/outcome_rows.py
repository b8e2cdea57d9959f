"""What is written about one request: a row for it, a row for each attempt. Never a prompt or an answer."""

import json
from functools import cache
from operator import itemgetter
from typing import Any

from trivet.domain.outcomes import Attempt, Outcome
from trivet.domain.scopes import organisation
from trivet.domain.tiers import is_gpu
from trivet.metering.wall_anchor import WallAnchor
from trivet.storage.entering import enter_later
from trivet.storage.writes import Writes

Row = dict[str, Any]

_OUTCOME = (
    "request_id",
    "at_ns",
    "organisation",
    "scope",
    "key_id",
    "decision_id",
    "task_type",
    "task_id",
    "worker",
    "session",
    "policy",
    "complexity",
    "stream",
    "tier",
    "deployment",
    "model",
    "status",
    "attempts",
    "fallbacks",
    "prompt_tokens",
    "completion_tokens",
    "usage_source",
    "weighted_tokens",
    "usd_micros",
    "latency_ms",
    "first_token_ms",
    "error_code",
    "saved_device_ns",
    "reasons",
)
_ATTEMPT = (
    "attempt_id",
    "request_id",
    "tier",
    "deployment",
    "devices",
    "model",
    "gpu",
    "dispatched_ns",
    "ended_ns",
    "device_ns",
    "prompt_tokens",
    "completion_tokens",
    "status",
    "error_code",
)
_outcome_values = itemgetter(*_OUTCOME)
_attempt_values = itemgetter(*_ATTEMPT)


@cache
def _insert_outcomes(count: int) -> str:
    # A request id that was seen before keeps its first row; the attempts' device time is never lost.
    return _insert("outcomes", _OUTCOME, count) + " ON CONFLICT (request_id) DO NOTHING"


@cache
def _insert_attempts(count: int) -> str:
    return _insert("attempts", _ATTEMPT, count)


def _insert(table: str, columns: tuple[str, ...], count: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * count)}"  # noqa: S608 - ours


def insert_rows(connection: Writes, outcome: Row, attempts: list[Row]) -> None:
    """Insert what `outcome_row` and `attempt_rows` made."""
    enter_later(connection, _insert_outcomes, [_outcome_values(outcome)])
    if attempts:
        enter_later(connection, _insert_attempts, [_attempt_values(attempt) for attempt in attempts])


def outcome_row(outcome: Outcome, anchor: WallAnchor) -> Row:
    """Return the request's row.

    Tier, deployment and model are those that served it, or those that were chosen for it when none did.
    The tokens are those charged to the tenant.
    """
    decision, hints, usage = outcome.decision, outcome.hints, outcome.usage
    deployment = outcome.served_by or decision.deployment
    first_token_ns = outcome.attempts[-1].first_token_ns if outcome.attempts else None
    return {
        "request_id": outcome.request_id,
        "at_ns": anchor.epoch_ns(outcome.ended_ns),
        "organisation": organisation(outcome.scope),
        "scope": outcome.scope,
        "key_id": outcome.key_id,
        "decision_id": decision.decision_id,
        "task_type": hints.task_type,
        "task_id": hints.task_id,
        "worker": hints.worker,
        "session": hints.session,
        "policy": decision.policy,
        "complexity": decision.complexity.score,
        "stream": outcome.stream,
        "tier": deployment.tier.name,
        "deployment": deployment.name,
        "model": deployment.model,
        "status": outcome.status,
        "attempts": len(outcome.attempts),
        "fallbacks": outcome.fallbacks,
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
        "usage_source": usage.source if usage else None,
        "weighted_tokens": outcome.charged.weighted_tokens,
        "usd_micros": outcome.charged.usd_micros,
        "latency_ms": (outcome.ended_ns - outcome.started_ns) / 1e6,
        "first_token_ms": None if first_token_ns is None else (first_token_ns - outcome.started_ns) / 1e6,
        "error_code": outcome.error_code,
        "saved_device_ns": outcome.saved_device_ns,
        "reasons": json.dumps([{"code": reason.code, "text": reason.text} for reason in decision.reasons]),
    }


def attempt_rows(outcome: Outcome, anchor: WallAnchor) -> list[Row]:
    """Return a row for each attempt, the failed ones included."""
    rows = []
    for attempt in outcome.attempts:
        prompt_tokens, completion_tokens = _known_tokens(attempt)
        deployment = attempt.deployment
        rows.append(
            {
                "attempt_id": attempt.attempt_id,
                "request_id": outcome.request_id,
                "tier": deployment.tier.name,
                "deployment": deployment.name,
                "devices": ",".join(deployment.devices),
                "model": deployment.model,
                "gpu": any(is_gpu(device) for device in deployment.devices),
                "dispatched_ns": anchor.epoch_ns(attempt.dispatched_ns),
                "ended_ns": anchor.epoch_ns(
                    outcome.ended_ns if attempt.ended_ns is None else attempt.ended_ns
                ),
                "device_ns": attempt.device_ns,
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "status": _status(outcome, attempt),
                "error_code": attempt.error_code,
            }
        )
    return rows


def _known_tokens(attempt: Attempt) -> tuple[int | None, int | None]:
    """Return the tokens that the engine really read and wrote; None where only a ceiling is known.

    The tenant may owe a ceiling, but what HEAVY would have needed must not be computed from one.
    """
    usage = attempt.usage
    if usage is None or usage.source == "ceiling":
        return None, None
    return (usage.prompt_tokens if usage.source == "engine" else None), usage.completion_tokens


def _status(outcome: Outcome, attempt: Attempt) -> str:
    """Return ok, cut or cancelled for the attempt that delivered, failed for the others."""
    if attempt is outcome.attempts[-1]:
        if outcome.status == "cut" or (outcome.status in ("ok", "cancelled") and attempt.error_code is None):
            return outcome.status
        if outcome.status == "cancelled" and attempt.error_code == "cancelled":
            return "cancelled"
    return "failed"
