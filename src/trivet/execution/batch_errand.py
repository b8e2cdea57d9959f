"""One line of a batch, run like any other request: decided, held for, served, settled; what its end means."""

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from trivet.batches import BatchWork, Claim, Ending, WaitingLine
from trivet.domain.decisions import Decision
from trivet.domain.errors import (
    BudgetError,
    EngineBusy,
    EngineError,
    EngineLoading,
    RateLimitExceeded,
    Stopping,
    StoreUnavailable,
    TrivetError,
)
from trivet.domain.outcomes import Outcome
from trivet.domain.requests import ChatRequest, Principal
from trivet.domain.surfaces import Surface
from trivet.engines.protocol import Reply
from trivet.execution.batch_agenda import Errand
from trivet.execution.pipeline import Pipeline
from trivet.execution.settler import AlsoWrite
from trivet.routing import parse_request

log = structlog.get_logger(__name__)

T = TypeVar("T")

SURFACES = {
    "/v1/chat/completions": Surface.CHAT,
    "/v1/completions": Surface.COMPLETIONS,
    "/v1/embeddings": Surface.EMBEDDINGS,
    "/v1/responses": Surface.RESPONSES,
    "/v1/messages": Surface.MESSAGES,
}
"""What the lines of a batch may be for."""
BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0

PrincipalOf = Callable[[Claim], Principal]
"""Return as whom a batch's lines run; raises AccessError where its key works no more."""
ErrorAnswer = Callable[[TrivetError, str], tuple[int, str]]
"""Return the HTTP status and the body with which the doors answer an error, given the request's id."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The line was decided for another deployment by now, and waits for that one's turn."""

    deployment: str
    group: str | None


@dataclass(frozen=True, slots=True)
class Later:
    """The line waits; with it its whole batch, or all lines for its deployment."""

    wait_s: float
    whole_batch: bool


class Runner:
    """Runs lines, one at a time each."""

    def __init__(
        self,
        work: BatchWork,
        pipeline: Pipeline,
        principal_of: PrincipalOf,
        error_answer: ErrorAnswer,
        *,
        refresh: Callable[[], Awaitable[None]],
        max_tries: int,
    ) -> None:
        self._work = work
        self._pipeline = pipeline
        self._principal_of = principal_of
        self._error_answer = error_answer
        self.refresh = refresh
        """Learn of keys that another replica made a moment ago, before their batches are decided."""
        self._max_tries = max_tries

    def decide(self, claim: Claim, line: WaitingLine) -> Decision:
        """Choose a line's candidates, as if every model that shares memory were in it: a batch can wait.

        Raises:
            TrivetError: as `Pipeline.decide`; AccessError where the batch's key works no more.
        """
        return self._pipeline.decide(_request(line), self._principal_of(claim), patient=True)

    async def fail(
        self, batch_id: str, number: int, error: TrivetError, request_id: str | None = None
    ) -> None:
        """Enter that a line failed, as soon as the store can take it."""
        request_id = request_id or uuid.uuid4().hex
        status_code, body = self._error_answer(error, request_id)
        ending = Ending(
            batch_id=batch_id,
            number=number,
            completed=False,
            status_code=status_code,
            answer=body,
            deployment=None,
            request_id=request_id,
        )
        await persisted(lambda: self._work.end(ending))

    async def run(
        self, claim: Claim, errand: Errand, *, left_s: float, failures: int
    ) -> Moved | Later | bool:
        """Run a line to its end, or to the point where it waits again.

        Args:
            claim: its batch.
            errand: which line, and for which deployment it was given out.
            left_s: what is left of the batch's time.
            failures: how often in a row a line of its batch or deployment had to wait.

        Returns:
            True: it was completed; False: it failed, or is no line any more.
        """
        line = await persisted(lambda: self._work.line(errand.batch_id, errand.number))
        if line is None:
            return False
        request_id = uuid.uuid4().hex
        try:
            decision = self.decide(claim, line)
            chosen = decision.deployment
            if chosen.swap_group is not None and chosen.known_as != errand.deployment:
                return Moved(chosen.known_as, chosen.swap_group)
            if not await self._work.begin(line, request_id=request_id):
                return False
            return await self._execute(claim, line, _without_swaps(decision), request_id)
        except TrivetError as error:
            wait_s = self._wait_s(error, line.tries + 1, failures)
            if wait_s is None or wait_s >= left_s:
                await self.fail(line.batch_id, line.number, error, request_id)
                return False
            costs = not _waits(error)
            await persisted(lambda: self._work.put_back(line, counts=costs))
            return Later(wait_s, whole_batch=not isinstance(error, EngineError))

    async def _execute(self, claim: Claim, line: WaitingLine, decision: Decision, request_id: str) -> bool:
        def keep(outcome: Outcome, reply: Reply) -> AlsoWrite:
            served = outcome.served_by or decision.deployment
            return self._work.keep(_completed(line, reply.body or b"", served.known_as, request_id))

        request = _request(line)
        answer = await self._pipeline.execute(
            request, self._principal_of(claim), request_id=request_id, decision=decision, keep=keep
        )
        try:
            # As a rule it stands there already, with the charge; where that could not be written it does now.
            ending = _completed(line, answer.body, answer.deployment.known_as, request_id)
            await persisted(lambda: self._work.end(ending))
        finally:
            await answer.aclose()
        return True

    def _wait_s(self, error: TrivetError, tries: int, failures: int) -> float | None:
        """Return how long to wait before the line is tried again; None: it has failed."""
        pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1.0)  # noqa: S311
        if _waits(error):
            return max(pause_s, error.retry_after_s or 0.0)
        if isinstance(error, EngineError) and error.retryable and tries < self._max_tries:
            return max(pause_s, error.retry_after_s or 0.0)
        return None


async def persisted(operation: Callable[[], Awaitable[T]]) -> T:
    """Do an operation on the store as soon as it can be done, however long that takes."""
    pause_s = BACKOFF_S
    while True:
        try:
            return await operation()
        except StoreUnavailable as error:
            log.warning("batch.store_failed", error=str(error), pause_s=pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(BACKOFF_MAX_S, 2 * pause_s)


def _waits(error: TrivetError) -> bool:
    """Tell whether an error means that the line has to wait, whatever the number of its tries.

    What costs nothing and passes: a rate, a full budget that tells its reset, a full queue, a model that is
    on its way, a store that does not answer.
    """
    if isinstance(error, BudgetError):
        return error.retry_after_s is not None
    return isinstance(error, RateLimitExceeded | StoreUnavailable | EngineBusy | EngineLoading | Stopping)


def _request(line: WaitingLine) -> ChatRequest:
    surface = SURFACES[line.url]
    request = parse_request(surface, json.loads(line.body), body_bytes=len(line.body), headers={})
    return replace(request, hints=replace(request.hints, priority="batch"))


def _without_swaps(decision: Decision) -> Decision:
    """Leave out the fallbacks that would have to be brought into memory out of their turn."""
    first, *rest = decision.candidates
    others = tuple(candidate for candidate in rest if candidate.deployment.swap_group is None)
    return replace(decision, candidates=(first, *others), passed_over=None)


def _completed(line: WaitingLine, body: bytes, deployment: str, request_id: str) -> Ending:
    return Ending(
        batch_id=line.batch_id,
        number=line.number,
        completed=True,
        status_code=200,
        answer=body.decode("utf-8", "replace"),
        deployment=deployment,
        request_id=request_id,
    )
