"""`POST /v1/chat/completions` as a plain ASGI endpoint."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from trivet.api.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    new_request_id,
    send_part,
    send_whole,
    start_stream,
)
from trivet.api.auth import Doorkeeper
from trivet.api.errors import error_event
from trivet.api.reading import read_chat
from trivet.api.replies import send_error
from trivet.domain.errors import EngineError, EngineUnavailable, TrivetError
from trivet.execution import Answer, Pipeline

STOPPING = EngineUnavailable("Trivet is stopping.", retry_after_s=5.0)


class ChatCompletions:
    """Serves chat completions; a client that goes away cancels the work upstream, at any moment."""

    def __init__(
        self,
        pipeline: Pipeline,
        doorkeeper: Doorkeeper,
        *,
        body_limit_bytes: int,
        write_timeout_s: float,
        exhausted_status: int,
    ) -> None:
        self._pipeline = pipeline
        self._doorkeeper = doorkeeper
        self._body_limit_bytes = body_limit_bytes
        self._write_timeout_s = write_timeout_s
        self._exhausted_status = exhausted_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, from its headers to its settlement."""
        request_id = new_request_id()
        delivery = _Delivery(send, self._write_timeout_s)
        try:
            request, principal = await read_chat(
                scope, receive, self._doorkeeper, body_limit_bytes=self._body_limit_bytes
            )
            async with _Presence(receive):
                answer = await self._pipeline.execute(request, principal, request_id=request_id)
                try:
                    await delivery.of(answer)
                finally:
                    await answer.aclose()
        except ClientGone:
            return
        except asyncio.CancelledError:
            # The server stops and has waited long enough. This task is the request's last, and ends here.
            if not delivery.begun:
                await self._refuse(delivery, STOPPING, request_id)
        except TrivetError as error:
            await self._refuse(delivery, error, request_id)

    async def _refuse(self, delivery: "_Delivery", error: TrivetError, request_id: str) -> None:
        if delivery.begun:
            await delivery.break_off(error, request_id)
            return
        await send_error(
            delivery.send,
            error,
            request_id=request_id,
            exhausted_status=self._exhausted_status,
            headers=_decided_headers(error),
        )


class _Delivery:
    """The response on its way to the client, which may read slowly, or stop reading."""

    def __init__(self, send: Send, write_timeout_s: float) -> None:
        self.send = send
        self.begun = False
        self._write_timeout_s = write_timeout_s

    async def of(self, answer: Answer) -> None:
        """Deliver the answer.

        Raises:
            ClientGone: the client took nothing for the write timeout; the answer must be closed.
        """
        headers = answer_headers(answer)
        if not answer.run.request.stream:
            async with self._patience():
                self.begun = True
                await send_whole(self.send, status=200, body=answer.body, headers=headers)
            return
        self.begun = True
        await start_stream(self.send, headers=headers)
        try:
            async for data in answer.chunks():
                async with self._patience():
                    await send_part(self.send, data)
        except EngineError as error:
            await self.break_off(error, answer.run.request_id)
            return
        except asyncio.CancelledError:
            # Either the client has gone, or Trivet stops: then the client is told.
            await self.break_off(STOPPING, answer.run.request_id)
            raise
        await send_part(self.send, b"", more=False)

    async def break_off(self, error: TrivetError, request_id: str) -> None:
        """End a begun stream with an error event; without [DONE] no client takes it for a whole answer."""
        async with self._patience():
            await send_part(self.send, error_event(error, request_id=request_id))
            await send_part(self.send, b"", more=False)

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                yield
        except TimeoutError:
            raise ClientGone from None


def _decided_headers(error: TrivetError) -> dict[str, str]:
    """Return what is known of the decision when a request fails after it."""
    if "decision_id" not in error.details:
        return {}
    return {
        "x-trivet-decision-id": error.details["decision_id"],
        "x-trivet-tier": error.details["tier"],
        "x-trivet-attempts": str(len(error.details.get("attempts", ()))),
    }


def answer_headers(answer: Answer) -> Mapping[str, str]:
    """Return the response headers that explain the answer."""
    run = answer.run
    decision = run.decision
    remaining = run.budget_remaining
    return {
        "x-request-id": run.request_id,
        "x-trivet-decision-id": decision.decision_id,
        "x-trivet-tier": answer.deployment.tier.name,
        "x-trivet-model": answer.deployment.model,
        "x-trivet-complexity": f"{decision.complexity.score:.3f}",
        "x-trivet-reason": " ".join(reason.text for reason in decision.reasons),
        "x-trivet-attempts": str(len(run.attempts)),
        "x-trivet-budget-remaining": "unlimited" if remaining is None else str(remaining),
    }


class _Presence:
    """While open, cancels the request's task when the client disconnects, and raises ClientGone for it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task = task
        self._watch = asyncio.get_running_loop().create_task(self._wait_for_disconnect())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise ClientGone from None

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
