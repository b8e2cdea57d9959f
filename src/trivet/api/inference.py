"""The inference routes, `POST /v1/chat/completions` and those beside it, as plain ASGI endpoints."""

import asyncio

from trivet.api.asgi import BodyBounds, ClientGone, Receive, Scope, Send, new_request_id
from trivet.api.attempt_path import path_told
from trivet.api.auth import Doorkeeper
from trivet.api.delivery import Delivery
from trivet.api.reading import read_request
from trivet.api.replies import send_error
from trivet.api.short_way import SHORT_WAY, ShortWay
from trivet.domain.errors import TrivetError
from trivet.domain.surfaces import Surface
from trivet.execution import Answer, Pipeline
from trivet.execution.drain import stopping

LOOK_AFTER_S = 0.02


class Inference:
    """Serves one surface; a client that goes away cancels the work upstream, at any moment."""

    def __init__(
        self,
        surface: Surface,
        pipeline: Pipeline,
        doorkeeper: Doorkeeper,
        *,
        bounds: BodyBounds,
        write_timeout_s: float,
        keep_alive_s: float,
        exhausted_status: int,
    ) -> None:
        self._surface = surface
        self._pipeline = pipeline
        self._doorkeeper = doorkeeper
        self._bounds = bounds
        self._write_timeout_s = write_timeout_s
        self._keep_alive_s = keep_alive_s
        self._exhausted_status = exhausted_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, from its headers to its settlement."""
        request_id = new_request_id()
        way: ShortWay | None = scope.get(SHORT_WAY)
        delivery = Delivery(
            send,
            request_id,
            surface=self._surface,
            write_timeout_s=self._write_timeout_s,
            keep_alive_s=self._keep_alive_s,
            way=way,
        )
        try:
            request, principal = await read_request(
                scope, receive, self._doorkeeper, self._surface, bounds=self._bounds
            )
            with _Presence(receive) if way is None else way:
                answer: Answer | None = None
                try:
                    try:
                        answer = await self._pipeline.execute(
                            request,
                            principal,
                            request_id=request_id,
                            on_wait=delivery.waits if request.stream else None,
                        )
                    finally:
                        if delivery.waiting:
                            await delivery.end_wait()
                    await delivery.of(answer)
                finally:
                    # Also where the client leaves while the signs of life are being ended.
                    if answer is not None and not answer.run.closed:
                        await answer.aclose()
        except ClientGone:
            return
        except asyncio.CancelledError:
            # The server stops and has waited long enough. This task is the request's last, and ends here.
            if not delivery.ended:
                await self._refuse(delivery, stopping(), request_id)
        except TrivetError as error:
            await self._refuse(delivery, error, request_id)

    async def _refuse(self, delivery: Delivery, error: TrivetError, request_id: str) -> None:
        if delivery.begun:
            await delivery.break_off(error, request_id)
            return
        await send_error(
            delivery.send,
            error,
            request_id=request_id,
            exhausted_status=self._exhausted_status,
            headers=_decided_headers(error),
            surface=self._surface,
        )


def _decided_headers(error: TrivetError) -> dict[str, str]:
    """Return what is known of the decision when a request fails after it."""
    if "decision_id" not in error.details:
        return {}
    attempts = error.details.get("attempts", ())
    path = {"x-trivet-attempt-path": path_told(attempts)} if attempts else {}
    return {
        "x-trivet-decision-id": error.details["decision_id"],
        "x-trivet-tier": error.details["tier"],
        "x-trivet-attempts": str(len(attempts)),
        **path,
    }


class _Presence:
    """Does what an entered ShortWay does, where the server does not tell that a client has gone.

    It begins to look after LOOK_AFTER_S: a task costs more than many an engine's answer takes, and whoever
    leaves before is found gone then.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._task = task
        self._timer = task.get_loop().call_later(LOOK_AFTER_S, self._look)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise ClientGone from None

    def _look(self) -> None:
        self._watch = self._task.get_loop().create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
