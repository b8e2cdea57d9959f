"""Which of several errors a request's caller is shown, and what else it is told."""

from collections.abc import Mapping, Sequence

from trivet.domain.decisions import Decision
from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineLoading,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
)
from trivet.domain.outcomes import Attempt
from trivet.domain.tiers import Deployment

DOCTOR_HINT = "`trivet doctor` shows what each engine says."

_TELLING: dict[type[EngineError], int] = {
    Overloaded: 1,
    EngineBusy: 1,
    EngineLoading: 2,
    EngineTimeout: 3,
    EngineBroken: 4,
    EngineUnavailable: 5,
    ContextOverflow: 6,
    EngineIncapable: 7,
}
LOADING_S = 5.0
"""When to ask again an engine that is loading and cannot say how long it will take."""


def _tells_less(error: EngineError) -> int:
    """Rank errors by what they tell the caller: the request's own fault first, then what a wait may cure.

    What one engine cannot do matters only if nothing else went wrong on the way.
    """
    return 0 if not error.retryable else _TELLING.get(type(error), len(_TELLING) + 1)


def most_telling(
    errors: Sequence[EngineError],
    attempts: Sequence[Attempt],
    decision: Decision,
    shut: Mapping[Deployment, float],
) -> EngineError:
    """Choose the error to show when every candidate failed, and list what was tried.

    Args:
        errors: what the candidates said.
        attempts: what was tried.
        decision: the candidates, and what was ruled out before.
        shut: candidates that were not asked, since a breaker or a retry budget was in the way, with the
            seconds until they may be.
    """
    windows = [each for each in errors if isinstance(each, ContextOverflow)]
    largest = max(windows, key=_window, default=None)
    # Where the prompt fitted none that was asked, it may still fit one that was not.
    ajar = {d: s for d, s in shut.items() if largest is None or d.context_tokens > _window(largest)}
    if not errors or (len(windows) == len(errors) and ajar):
        error: EngineError = EngineUnavailable(
            "No engine can take the request now: the circuit breakers of all "
            f"{'others' if errors else 'candidates'} are open.",
            hint=DOCTOR_HINT,
        )
    else:
        error = min(errors, key=_tells_less)
    if isinstance(error, ContextOverflow) and largest is not None:
        error = _told_of_the_window(largest, attempts, decision)
    error.details["attempts"] = [
        {
            "deployment": attempt.deployment.name,
            "tier": attempt.deployment.tier.name,
            "code": attempt.error_code,
        }
        for attempt in attempts
    ]
    if error.hint is None and type(error) in (EngineUnavailable, EngineBroken):
        tried = ", ".join(dict.fromkeys(attempt.deployment.name for attempt in attempts))
        error.hint = f"Tried: {tried}. {DOCTOR_HINT}"
    if isinstance(error, EngineBusy | EngineUnavailable):
        error.retry_after_s = min([*map(_wait_s, filter(_is_curable, errors)), *ajar.values()], default=1.0)
    return error


def _is_curable(error: EngineError) -> bool:
    return isinstance(error, EngineBusy | EngineUnavailable)


def _wait_s(error: EngineError) -> float:
    """Return when an engine may take the request, by its own word where it gave one."""
    if error.retry_after_s is not None:
        return error.retry_after_s
    return LOADING_S if isinstance(error, EngineLoading) else 1.0


def _window(error: ContextOverflow) -> int:
    tokens = error.details.get("context_tokens")
    return tokens if isinstance(tokens, int) else 0


def _told_of_the_window(
    error: ContextOverflow, attempts: Sequence[Attempt], decision: Decision
) -> ContextOverflow:
    """Say which window the prompt is too long for, and whether a larger one is out of reach."""
    tokens, name = error.details.pop("context_tokens", 0), error.details.pop("deployment", "")
    tried = {attempt.deployment.name for attempt in attempts}
    larger = [
        candidate.deployment
        for candidate in decision.candidates
        if candidate.deployment.context_tokens > tokens and candidate.deployment.name not in tried
    ]
    which = "fits none of the context windows that could be tried" if larger else "fits no context window"
    error.message = f"The prompt {which}; the largest is that of {name}: {tokens} tokens."
    error.details["largest_context_tokens"] = tokens
    above = (each.deployment for each in decision.rejected if each.code == "above_max_tier")
    if any(deployment.context_tokens > tokens for deployment in above):
        error.hint = "Shorten the prompt or drop old turns, or allow a higher tier."
    return error
