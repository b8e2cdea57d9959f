"""What is written about one request, never a prompt or an answer.

Its row tells of the attempt that served it, too; the others have rows of their own.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from typing import Any

from trivet.domain.decisions import Reason
from trivet.domain.outcomes import Attempt, Outcome
from trivet.domain.scopes import organisation
from trivet.domain.tiers import is_gpu
from trivet.metering.wall_anchor import WallAnchor
from trivet.storage.entering import enter_later
from trivet.storage.writes import Writes

Row = tuple[Any, ...]
"""Values in the order of the columns."""

_SERVED = (
    "devices",
    "gpu",
    "dispatched_ns",
    "served_ns",
    "device_ns",
    "engine_prompt_tokens",
    "engine_completion_tokens",
)
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
    *_SERVED,
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

_NOT_TOLD: Row = (None,) * len(_SERVED)
_BOTH = "coalesce(outcomes.device_ns + excluded.device_ns, outcomes.device_ns, excluded.device_ns)"


@cache
def _insert_outcomes(count: int) -> str:
    # A request id that was seen before keeps its first row; no attempt's device time is ever lost.
    kept = [f"{name} = coalesce(outcomes.{name}, excluded.{name})" for name in _SERVED if name != "device_ns"]
    again = f" ON CONFLICT (request_id) DO UPDATE SET device_ns = {_BOTH}, {', '.join(kept)}"
    return _insert("outcomes", _OUTCOME, count) + again


@cache
def _insert_attempts(count: int) -> str:
    return _insert("attempts", _ATTEMPT, count)


def _insert(table: str, columns: tuple[str, ...], count: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * count)}"  # noqa: S608 - ours


def insert_rows(connection: Writes, outcome: Row, attempts: list[Row]) -> None:
    """Insert what `outcome_row` and `attempt_rows` made."""
    enter_later(connection, _insert_outcomes, [outcome])
    if attempts:
        enter_later(connection, _insert_attempts, attempts)


def rows_of(outcome: Outcome, anchor: WallAnchor) -> tuple[Row, list[Row]]:
    """Return the request's row, and a row for each attempt that it does not tell of."""
    attempts = outcome.attempts
    if not attempts:
        return outcome_row(outcome, None, anchor), []
    last = attempts[-1]
    if outcome.status == _status(outcome, last) != "failed" and last.error_code == outcome.error_code:
        others = attempt_rows(outcome, attempts[:-1], anchor) if len(attempts) > 1 else []
        return outcome_row(outcome, last, anchor), others
    return outcome_row(outcome, None, anchor), attempt_rows(outcome, attempts, anchor)


def outcome_row(outcome: Outcome, served: Attempt | None, anchor: WallAnchor) -> Row:
    """Return the request's row; `served` is the attempt that it tells of.

    Tier, deployment and model are those that served it, or those that were chosen for it when none did.
    The tokens are those charged to the tenant.
    """
    decision, hints, usage, charged = outcome.decision, outcome.hints, outcome.usage, outcome.charged
    attempts, scope = outcome.attempts, outcome.scope
    started_ns, ended_ns = outcome.started_ns, outcome.ended_ns
    deployment = outcome.served_by or decision.deployment
    first_token_ns = attempts[-1].first_token_ns if attempts else None
    # Whoever ran it elsewhere need not tell how long that took.
    timed = ended_ns != started_ns or usage is None or usage.source != "reported"
    return (
        outcome.request_id,
        ended_ns + anchor.offset_ns,
        organisation(scope),
        scope,
        outcome.key_id,
        decision.decision_id,
        hints.task_type,
        hints.task_id,
        hints.worker,
        hints.session,
        decision.policy,
        decision.complexity.score,
        outcome.stream,
        deployment.tier.name,
        deployment.name,
        deployment.model,
        outcome.status,
        len(attempts),
        outcome.fallbacks,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        usage.source if usage else None,
        charged.weighted_tokens,
        charged.usd_micros,
        (ended_ns - started_ns) / 1e6 if timed else None,
        None if first_token_ns is None else (first_token_ns - started_ns) / 1e6,
        outcome.error_code,
        outcome.saved_device_ns,
        *(_NOT_TOLD if served is None else _served(outcome, served, anchor)),
        _as_json(decision.reasons),
    )


def attempt_rows(outcome: Outcome, attempts: Sequence[Attempt], anchor: WallAnchor) -> list[Row]:
    """Return a row for each of these attempts."""
    rows: list[Row] = []
    for attempt in attempts:
        devices, gpu, dispatched_ns, ended_ns, device_ns, *tokens = _served(outcome, attempt, anchor)
        deployment = attempt.deployment
        rows.append(
            (
                attempt.attempt_id,
                outcome.request_id,
                deployment.tier.name,
                deployment.name,
                devices,
                deployment.model,
                gpu,
                dispatched_ns,
                ended_ns,
                device_ns,
                *tokens,
                _status(outcome, attempt),
                attempt.error_code,
            )
        )
    return rows


def _served(outcome: Outcome, attempt: Attempt, anchor: WallAnchor) -> Row:
    """Return devices, whether these are GPUs, begin, end, device time, and the tokens known of an attempt."""
    offset_ns, ended_ns = anchor.offset_ns, attempt.ended_ns
    devices, gpu = _in_words(attempt.deployment.devices)
    prompt_tokens, completion_tokens = _known_tokens(attempt)
    return (
        devices,
        gpu,
        attempt.dispatched_ns + offset_ns,
        (outcome.ended_ns if ended_ns is None else ended_ns) + offset_ns,
        attempt.device_ns,
        prompt_tokens,
        completion_tokens,
    )


@lru_cache
def _in_words(devices: tuple[str, ...]) -> tuple[str, bool]:
    """Return the devices' names in one, and whether a GPU is among them."""
    return ",".join(devices), any(map(is_gpu, devices))


def _as_json(reasons: Sequence[Reason]) -> str:
    """Return what `json.dumps` makes of the reasons."""
    quoted = encode_basestring_ascii
    each = [f'{{"code": {quoted(reason.code)}, "text": {quoted(reason.text)}}}' for reason in reasons]
    return f"[{', '.join(each)}]"


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
