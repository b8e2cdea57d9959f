"""Where one request goes next: which candidate, after what pause, or nowhere any more.

Three kinds of tries, kept apart:

- The **first** try of a request is always made.
- A **fallback** goes to a candidate that this request has not asked yet. Fallbacks are how a request survives
  a broken engine, so none to an endpoint that works is ever refused. One to an endpoint that is doubtful
  (`Condition.is_doubtful`) multiplies the load on engines that fail already, so it takes a try out of the
  tier's retry budget; without one the candidate is passed over, and the next is looked at.
- A **second try** at the same endpoint is made once at most, only when no other candidate is left, only after
  faults that a wait may cure, and takes a try out of the retry budget, too. It waits for what the engine
  asked for with `Retry-After`, else for a random time from zero on ("full jitter"), so that requests which
  failed together do not come back together.

An endpoint that asked to be left alone is tried after all others, and not before its time has come. Where the
turn at an engine, or its model, did not come within the time that others could have used, it is come back to
once these have failed, for as long as the deadline allows: it was not asked, so this is no repeated try.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from trivet.domain.decisions import Candidate
from trivet.domain.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    EngineLoading,
    EngineUnavailable,
    Overloaded,
)
from trivet.domain.tiers import Deployment
from trivet.execution.conditions import Conditions
from trivet.execution.retry_budget import RetryBudgets

CURABLE_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
"""After these the same engine may answer the same request a moment later (RFC 9110; facts: retries)."""
JITTER_S = 0.25
"""A second try without `Retry-After` waits up to so long."""
LEAST_ATTEMPT_S = 0.25
"""With less than this left of a deadline no second try is waited for."""


class Stop(NamedTuple):
    """The next place to try."""

    deployment: Deployment
    pause_s: float
    """To be waited before."""
    last: bool
    """Whether no untried candidate is left after it."""


class Itinerary:
    """One request's way through its candidates."""

    __slots__ = (
        "_budgets",
        "_conditions",
        "_counted",
        "_curable",
        "_dice",
        "_left_alone",
        "_longest_pause_s",
        "_overflowed_tokens",
        "_put_off",
        "_repeated",
        "_untried",
        "refused",
    )

    def __init__(
        self,
        candidates: Sequence[Candidate],
        conditions: Conditions,
        budgets: RetryBudgets,
        dice: random.Random,
        longest_pause_s: float,
        *,
        after: Stop | None = None,
    ) -> None:
        """Take the candidates, the best one first, and where the request has been already."""
        self._untried = [candidate.deployment for candidate in candidates]
        if after is not None:
            self._untried.remove(after.deployment)
        self._conditions = conditions
        self._budgets = budgets
        self._dice = dice
        self._longest_pause_s = longest_pause_s
        self.refused: list[Deployment] = []
        """What was not tried, or not again, because the tier's retry budget was spent."""
        self._curable: list[tuple[Deployment, float]] = []
        """What failed so that a wait may cure it, and the pause that was asked for."""
        self._overflowed_tokens = 0
        """The largest window that the prompt is known not to fit."""
        self._counted = after is not None
        self._repeated = False
        self._left_alone: EngineError | None = None
        self._put_off: list[Deployment] = []

    @property
    def left_alone(self) -> EngineError | None:
        """Return what to say of an endpoint that was not asked because it wants to be left alone."""
        return self._left_alone

    def following(self, left_s: float, *, begun: bool) -> Stop | None:
        """Return where to go next; None: nowhere.

        Args:
            left_s: what is left of the request's time; a pause must leave some of it.
            begun: whether anything was asked before, so that what follows is a fallback.
        """
        while self._untried:
            deployment, busy_s = self._preferred()
            self._untried.remove(deployment)
            if self._overflowed_tokens >= deployment.context_tokens > 0:
                continue
            if busy_s and not self._may_pause(busy_s, left_s):
                self._leave_alone(deployment, busy_s)
                continue
            if begun and self._conditions.of(deployment.name).is_doubtful and not self._paid(deployment):
                continue
            if not self._counted:
                self._counted = True
                self._budgets.of(deployment.tier.name).request()
            return Stop(deployment, self._after(busy_s) if busy_s else 0.0, last=not self._untried)
        while self._put_off:
            deployment = self._put_off.pop(0)
            if self._overflowed_tokens < deployment.context_tokens:
                return Stop(deployment, 0.0, last=True)
        return self._second_try(left_s)

    def failed(self, stop: Stop, error: EngineError) -> None:
        """Note why a candidate did not answer."""
        deployment = stop.deployment
        if isinstance(error, ContextOverflow):
            # The engine's own word counts: what is configured may be too large.
            window = error.details.setdefault("context_tokens", deployment.context_tokens)
            error.details["deployment"] = deployment.name
            self._overflowed_tokens = max(self._overflowed_tokens, window)
        elif error.status is None and isinstance(error, Overloaded | EngineLoading):
            if not stop.last:
                self._put_off.append(deployment)
        elif may_be_cured(error):
            self._curable.append((deployment, error.retry_after_s or 0.0))

    def _preferred(self) -> tuple[Deployment, float]:
        """Return the first untried candidate that may be asked now, else the one whose time comes first."""
        soonest, soonest_s = self._untried[0], float("inf")
        for deployment in self._untried:
            busy_s = self._conditions.of(deployment.name).busy_s
            if not busy_s:
                return deployment, 0.0
            if busy_s < soonest_s:
                soonest, soonest_s = deployment, busy_s
        return soonest, soonest_s

    def _second_try(self, left_s: float) -> Stop | None:
        if self._repeated or not self._curable:
            return None
        self._repeated = True
        deployment, asked_s = min(self._curable, key=lambda each: each[1])
        # The endpoint may have told another request something since.
        wait_s = max(asked_s, self._conditions.of(deployment.name).busy_s)
        if not self._may_pause(wait_s, left_s) or not self._paid(deployment):
            return None
        pause_s = self._after(wait_s) if wait_s else self._dice.uniform(0.0, JITTER_S)
        return Stop(deployment, min(pause_s, max(0.0, left_s - LEAST_ATTEMPT_S)), last=True)

    def _after(self, wait_s: float) -> float:
        # Never before the time that was named, and not all at that time.
        return wait_s + self._dice.uniform(0.0, min(1.0, JITTER_S + 0.1 * wait_s))

    def _may_pause(self, wait_s: float, left_s: float) -> bool:
        return wait_s <= min(self._longest_pause_s, left_s - LEAST_ATTEMPT_S)

    def _paid(self, deployment: Deployment) -> bool:
        if self._budgets.of(deployment.tier.name).take():
            return True
        self.refused.append(deployment)
        return False

    def _leave_alone(self, deployment: Deployment, busy_s: float) -> None:
        if self._left_alone is None or busy_s < (self._left_alone.retry_after_s or 0.0):
            self._left_alone = EngineBusy(
                f"{deployment.name} asked to be left alone for another {busy_s:.0f} s.", retry_after_s=busy_s
            )


def may_be_cured(error: EngineError) -> bool:
    """Tell whether the same engine may answer the same request a moment later.

    An engine that fell silent is not asked again: it may be at work on the request still.
    """
    if error.status is not None:
        return error.status in CURABLE_STATUSES
    return isinstance(error, EngineUnavailable) and not isinstance(error, EngineLoading)
