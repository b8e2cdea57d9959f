"""Which of several errors a request's caller is shown, and what else it is told."""

from collections.abc import Sequence

from trivet.domain.errors import (
    ContextOverflow,
    EngineBroken,
    EngineBusy,
    EngineError,
    EngineIncapable,
    EngineLoading,
    EngineTimeout,
    EngineUnavailable,
)
from trivet.domain.outcomes import Attempt

DOCTOR_HINT = "`trivet doctor` shows what each engine says."

_TELLING: dict[type[EngineError], int] = {
    EngineBusy: 1,
    EngineLoading: 2,
    EngineTimeout: 3,
    EngineBroken: 4,
    EngineUnavailable: 5,
    ContextOverflow: 6,
    EngineIncapable: 7,
}


def _tells_less(error: EngineError) -> int:
    """Rank errors by what they tell the caller: the request's own fault first, then what a wait may cure.

    What one engine cannot do matters only if nothing else went wrong on the way.
    """
    return 0 if not error.retryable else _TELLING.get(type(error), len(_TELLING) + 1)


def most_telling(
    errors: Sequence[EngineError], attempts: Sequence[Attempt], retry_after_s: float | None
) -> EngineError:
    """Choose the error to show when every candidate failed, and list what was tried."""
    if not errors:
        return EngineUnavailable(
            "No engine can take the request now: the circuit breakers of all candidates are open.",
            hint=DOCTOR_HINT,
            retry_after_s=retry_after_s or 1.0,
        )
    error = min(errors, key=_tells_less)
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
    if error.retry_after_s is None and isinstance(error, EngineBusy | EngineUnavailable):
        error.retry_after_s = retry_after_s or 1.0
    return error
