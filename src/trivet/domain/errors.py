"""Every failure that Trivet names, each with one stable code.

TrivetError
├── ConfigError ................ config_invalid
├── ServerUnreachable .......... server_unreachable
├── ServerDiffers .............. server_differs     (a server of another version)
├── Stopping ................... stopping
├── StoreError
│   ├── StoreLocked ............ store_locked
│   └── StoreUnavailable ....... budget_store_unavailable
├── AccessError
│   ├── KeyMissing ............. api_key_missing
│   ├── KeyInvalid ............. invalid_api_key
│   └── PermissionDenied ....... permission_denied
├── RequestError
│   ├── RequestMalformed ....... invalid_request
│   ├── BodyTooLarge ........... body_too_large
│   ├── ModelUnknown ........... model_not_found
│   ├── NotFound ............... not_found
│   ├── ContextTooLong ......... context_length_exceeded
│   ├── NoCandidate ............ no_candidate
│   ├── IdempotencyError
│   │   ├── IdempotencyInFlight  idempotency_in_flight  (the same request is running)
│   │   ├── IdempotencyMismatch  idempotency_mismatch   (the key stood for another request)
│   │   └── IdempotencyCompleted idempotency_completed  (it ran, and was charged)
│   ├── DecisionSpent .......... decision_spent      (executed, reported or run out)
│   └── RateLimitExceeded ...... rate_limit_exceeded
├── BudgetError
│   ├── BudgetExhausted ........ budget_exhausted
│   ├── BudgetContended ........ budget_contended
│   ├── RequestTooLarge ........ request_too_large
│   ├── ApprovalRequired ....... approval_required
│   ├── NonessentialBlocked .... nonessential_blocked
│   └── PriceUnknown ........... price_unknown          (a dollar limit, and no price)
└── EngineError
    ├── EngineUnavailable ...... upstream_unavailable   (refused, gone)
    │   └── EngineLoading ...... upstream_loading       (it will answer, but not in time)
    ├── EngineTimeout .......... upstream_timeout
    ├── EngineBusy ............. upstream_busy          (503 queue full, 429)
    │   └── Overloaded ......... overloaded             (Trivet's own queue before the engine)
    ├── EngineBroken ........... upstream_error         (5xx, garbage)
    ├── EngineRejected ......... upstream_rejected      (4xx: the request itself)
    ├── EngineIncapable ........ upstream_incapable     (cannot do what it asks)
    ├── ContextOverflow ........ context_length_exceeded (said by the engine)
    └── StreamIncomplete ....... upstream_incomplete    (ended without a finish)

HTTP statuses and exit codes are given at the doors (`api.errors`, `cli.exits`), never here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class TrivetError(Exception):
    """Anything that Trivet refuses or fails to do, in words a user can act on."""

    code: ClassVar[str] = "internal_error"

    outside: str | None = None
    """What callers are told in place of message and hint, where those name what is the operator's alone."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the sentence shown to the user.

        Args:
            message: what happened.
            hint: what to do next; shown after the message.
            param: the request field or config key at fault.
            retry_after_s: seconds after which a retry has an honest chance; None when it has none.
            details: machine-readable facts for `error.trivet`.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        # An engine's own words may end the message, and those end as they like.
        stop = "" if self.message.endswith((".", "!", "?", "…")) else "."
        return f"{self.message}{stop} {self.hint}"


class ConfigError(TrivetError):
    """The configuration cannot be used as it is."""

    code = "config_invalid"


class ServerUnreachable(TrivetError):
    """No Trivet answers at the URL that a client was given."""

    code = "server_unreachable"


class ServerDiffers(TrivetError, KeyError):
    """What a server answers lacks what every server of this version tells. Also the KeyError that it is."""

    code = "server_differs"


class Stopping(TrivetError):
    """Trivet was told to stop: it takes no requests, and what has not begun is refused."""

    code = "stopping"


class StoreError(TrivetError):
    """The store cannot be used."""

    code = "store_error"


class StoreLocked(StoreError):
    """Another process owns the store; `details["owner_url"]` says where it listens."""

    code = "store_locked"


class StoreUnavailable(StoreError):
    """The ledger cannot answer, so nothing that it must meter may pass."""

    code = "budget_store_unavailable"


class AccessError(TrivetError):
    """The caller may not do this."""

    code = "access_denied"


class KeyMissing(AccessError):
    """No API key was sent."""

    code = "api_key_missing"


class KeyInvalid(AccessError):
    """The API key is unknown, expired or revoked."""

    code = "invalid_api_key"


class PermissionDenied(AccessError):
    """The key is good, but its role or limits do not allow this."""

    code = "permission_denied"


class RequestError(TrivetError):
    """The request itself cannot be served."""

    code = "invalid_request"


class RequestMalformed(RequestError):
    """A field is missing, of the wrong type, or the body is not JSON."""

    code = "invalid_request"


class BodyTooLarge(RequestError):
    """The body exceeds `server.body_limit_bytes`."""

    code = "body_too_large"


class ModelUnknown(RequestError):
    """`model` is neither `auto`, nor a tier, nor a deployment."""

    code = "model_not_found"


class NotFound(RequestError):
    """The thing asked for does not exist, or is not the caller's to see."""

    code = "not_found"


class ContextTooLong(RequestError):
    """The prompt fits no deployment's context window."""

    code = "context_length_exceeded"


class NoCandidate(RequestError):
    """Every deployment was ruled out; `details["rejected"]` says why."""

    code = "no_candidate"


class IdempotencyError(RequestError):
    """An idempotency key was used before; nothing is done, or charged, twice."""

    code = "idempotency_error"


class IdempotencyInFlight(IdempotencyError):
    """The request that the key stands for is still running."""

    code = "idempotency_in_flight"


class IdempotencyMismatch(IdempotencyError):
    """The key stood for a request with another content."""

    code = "idempotency_mismatch"


class IdempotencyCompleted(IdempotencyError):
    """The request ran to its end; `details["usage"]` says what it was charged."""

    code = "idempotency_completed"


class DecisionSpent(RequestError):
    """The decision was executed or reported already, or its time has run out."""

    code = "decision_spent"


class RateLimitExceeded(RequestError):
    """Too many requests or tokens within a minute, or requests at once; `retry_after_s` says when again."""

    code = "rate_limit_exceeded"


class BudgetError(TrivetError):
    """A budget does not allow the request."""

    code = "budget_error"


class BudgetExhausted(BudgetError):
    """Used tokens leave too little for this request until the window resets."""

    code = "budget_exhausted"


class BudgetContended(BudgetError):
    """It would fit once open holds settle; they did not within the wait."""

    code = "budget_contended"

    contention: Any = None
    """The rows in the way, as the ledger knows them: it decides by them whether the wait is over."""


class RequestTooLarge(BudgetError):
    """The request's ceiling exceeds the whole limit, even of an empty window."""

    code = "request_too_large"


class ApprovalRequired(BudgetError):
    """So much of a budget is used that the dearest tier takes an approved override."""

    code = "approval_required"


class NonessentialBlocked(BudgetError):
    """So much of a budget is used that requests of this priority have to wait for its reset."""

    code = "nonessential_blocked"


class PriceUnknown(BudgetError):
    """A limit in dollars binds the scope, and no table knows what the model costs."""

    code = "price_unknown"


class EngineError(TrivetError):
    """An engine failed. Raised by engines before or after the first content byte.

    `status` is the engine's own HTTP status where there was one. `retryable` says whether another
    candidate may be tried (never after the first content byte).
    """

    code = "upstream_error"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str, *, status: int | None = None, **kwargs: Any) -> None:
        """Take what TrivetError takes, and the engine's HTTP `status`."""
        super().__init__(message, **kwargs)
        self.status = status


class EngineUnavailable(EngineError):
    """Nobody answers at the engine's address, or it says that it is still loading."""

    code = "upstream_unavailable"


class EngineLoading(EngineUnavailable):
    """The engine's model was not in memory within the time that the request could wait for it."""

    code = "upstream_loading"


class EngineTimeout(EngineError):
    """The engine did not answer, or stopped answering, in time."""

    code = "upstream_timeout"


class EngineBusy(EngineError):
    """The engine's queue is full (503) or it limits the rate (429)."""

    code = "upstream_busy"


class Overloaded(EngineBusy):
    """The request would wait too long for its turn at the engine; `retry_after_s` is the measured wait."""

    code = "overloaded"


class EngineBroken(EngineError):
    """The engine answered with a server error or with something that is not its protocol."""

    code = "upstream_error"


class EngineRejected(EngineError):
    """The engine refused the request as invalid; another engine would too."""

    code = "upstream_rejected"
    retryable = False


class EngineIncapable(EngineError):
    """This engine cannot do what the request asks; another may."""

    code = "upstream_incapable"


class ContextOverflow(EngineError):
    """The prompt does not fit this engine's context window; a larger window may serve."""

    code = "context_length_exceeded"


class StreamIncomplete(EngineError):
    """The stream ended without a finish reason: whatever was sent is not a whole answer."""

    code = "upstream_incomplete"
