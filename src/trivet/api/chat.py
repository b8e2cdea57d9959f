"""`POST /v1/chat/completions` as a plain ASGI endpoint."""

import asyncio
import json
import uuid
from collections.abc import Mapping

import structlog

from trivet.api.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    header_map,
    parse_json,
    read_body,
    send_part,
    send_whole,
    start_stream,
)
from trivet.api.auth import Doorkeeper
from trivet.api.errors import error_body, error_event, error_headers, http_status
from trivet.domain.errors import EngineError, TrivetError
from trivet.execution import Answer, Pipeline
from trivet.routing import parse_chat

log = structlog.get_logger(__name__)


class ChatCompletions:
    """Serves chat completions; a client that goes away cancels the work upstream, at any moment."""

    def __init__(
        self, pipeline: Pipeline, doorkeeper: Doorkeeper, *, body_limit_bytes: int, exhausted_status: int
    ) -> None:
        self._pipeline = pipeline
        self._doorkeeper = doorkeeper
        self._body_limit_bytes = body_limit_bytes
        self._exhausted_status = exhausted_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, from its headers to its settlement."""
        request_id = uuid.uuid4().hex
        try:
            headers = header_map(scope)
            principal = self._doorkeeper.principal(headers)
            body = await read_body(receive, limit_bytes=self._body_limit_bytes)
            request = parse_chat(parse_json(body), body_bytes=len(body), headers=headers)
            async with _Presence(receive):
                answer = await self._pipeline.execute(request, principal, request_id=request_id)
                try:
                    await _deliver(answer, send)
                finally:
                    await answer.aclose()
        except ClientGone:
            return
        except TrivetError as error:
            await self._refuse(send, error, request_id)
        except Exception:  # the last line of defence: a fault of ours becomes an honest 500
            log.exception("request.fault", request_id=request_id)
            await self._refuse(send, TrivetError("Trivet failed; the log names the request id."), request_id)

    async def _refuse(self, send: Send, error: TrivetError, request_id: str) -> None:
        status = http_status(error, exhausted_status=self._exhausted_status)
        body = json.dumps(error_body(error, status=status, request_id=request_id)).encode()
        await send_whole(
            send, status=status, body=body, headers={"x-request-id": request_id, **error_headers(error)}
        )


async def _deliver(answer: Answer, send: Send) -> None:
    headers = answer_headers(answer)
    if not answer.run.request.stream:
        await send_whole(send, status=200, body=answer.body, headers=headers)
        return
    await start_stream(send, headers=headers)
    try:
        async for data in answer.chunks():
            await send_part(send, data)
    except EngineError as error:
        # The 200 is out, so the event says it; without [DONE] no client takes this for a whole answer.
        await send_part(send, error_event(error, request_id=answer.run.request_id))
    await send_part(send, b"", more=False)


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
