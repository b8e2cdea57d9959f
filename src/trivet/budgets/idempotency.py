"""What a repeated idempotency key means. Pure."""

from trivet.domain.budgets import Amounts, Idempotency, ReservationState
from trivet.domain.errors import (
    IdempotencyCompleted,
    IdempotencyError,
    IdempotencyInFlight,
    IdempotencyMismatch,
)

KEPT_NS = 24 * 3600 * 1_000_000_000
"""A key is remembered for a day."""


def repeated(
    asked: Idempotency, fingerprint: str, state: ReservationState | None, charged: Amounts | None
) -> IdempotencyError | None:
    """Return why a request whose key is known is not served; None when it may be tried again.

    It may when the earlier one was given back uncharged: nothing was generated for it.

    Args:
        asked: the key and the digest of the request now.
        fingerprint: the digest of the request that the key stood for.
        state: what became of that one's reservation; None: it is gone.
        charged: what it was charged.
    """
    if fingerprint != asked.fingerprint:
        return IdempotencyMismatch(
            "This idempotency key stood for a request with another content.",
            hint="Use a new key for a new request.",
            param="Idempotency-Key",
        )
    if state in (None, "released"):
        return None
    if state == "held":
        return IdempotencyInFlight(
            "The request of this idempotency key is still running.",
            hint="Wait for its answer, or try again later.",
            param="Idempotency-Key",
            retry_after_s=1.0,
        )
    return IdempotencyCompleted(
        "The request of this idempotency key has been answered and charged; it is not run again.",
        hint="Answers are not kept. Use a new key to ask anew.",
        param="Idempotency-Key",
        details={"usage": None if charged is None else charged.as_json()},
    )
