"""An answer on its way to its client."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from trivet.api.answer_fields import answer_fields, decision_fields, mapping_of
from trivet.api.asgi import ClientGone, Send, send_part, send_whole, start_stream
from trivet.api.protocols import broken_stream_event
from trivet.api.short_way import ShortWay, head_of
from trivet.domain.decisions import Decision
from trivet.domain.errors import EngineError, TrivetError
from trivet.domain.surfaces import Surface
from trivet.domain.time_limits import at_once_or_within
from trivet.execution import Answer
from trivet.execution.drain import stopping

SIGN_OF_LIFE = b": keep-alive\n\n"
"""A comment of SSE, which clients skip; it keeps them, and proxies between, from giving up."""


class Delivery:
    """The response on its way to the client, which may read slowly, or stop reading."""

    def __init__(
        self,
        send: Send,
        request_id: str,
        *,
        surface: Surface,
        write_timeout_s: float,
        keep_alive_s: float,
        way: ShortWay | None = None,
    ) -> None:
        self.send = send
        self._way = way
        self.begun = False
        self.ended = False
        self._request_id = request_id
        self._surface = surface
        self._write_timeout_s = write_timeout_s
        self._keep_alive_s = keep_alive_s
        self._sign_of_life: asyncio.Task[None] | None = None

    def waits(self, decision: Decision) -> None:
        """Send signs of life from now on, since the model of a stream has to be waited for.

        The first one begins the response: with it the status is 200, and an error becomes the last event.
        """
        if self._sign_of_life is None:
            self._sign_of_life = asyncio.create_task(self._send_signs_of_life(decision))

    @property
    def waiting(self) -> bool:
        """Tell whether signs of life are sent."""
        return self._sign_of_life is not None

    async def end_wait(self) -> None:
        """Send no more signs of life."""
        if self._sign_of_life is not None:
            self._sign_of_life.cancel()
            # Whatever it met in sending, the answer will meet, too.
            await asyncio.gather(self._sign_of_life, return_exceptions=True)

    async def of(self, answer: Answer) -> None:
        """Deliver the answer.

        Raises:
            ClientGone: the client took nothing for the write timeout; the answer must be closed.
        """
        fields = answer_fields(answer)
        way = self._way
        if not answer.run.request.stream:
            self.begun = self.ended = True
            body = answer.body
            if way is None or not way.whole(head_of(fields, length_bytes=len(body)), body):
                await self._patiently(
                    send_whole(self.send, status=200, body=body, headers=mapping_of(fields))
                )
            return
        if not self.begun:
            self.begun = True
            if way is None or not way.begin(head_of(fields, length_bytes=None)):
                await self._patiently(start_stream(self.send, headers=mapping_of(fields)))
        try:
            await answer.deliver(self._pass_on, None if way is None else way.pass_on)
        except EngineError as error:
            await self.break_off(error, answer.run.request_id)
            return
        except asyncio.CancelledError:
            # Either the client has gone, or Trivet stops: then the client is told.
            await self.break_off(stopping(), answer.run.request_id)
            raise
        self.ended = True
        if way is None or not way.part(b"", more=False):
            await send_part(self.send, b"", more=False)

    async def break_off(self, error: TrivetError, request_id: str) -> None:
        """End a begun stream with an error event; without its usual end it passes for no whole answer."""
        self.ended = True
        event = broken_stream_event(error, request_id=request_id, surface=self._surface)
        await self._patiently(send_part(self.send, event))
        await self._patiently(send_part(self.send, b"", more=False))

    async def _pass_on(self, data: bytes) -> None:
        if self._way is None or not self._way.part(data):
            await self._patiently(send_part(self.send, data))

    async def _patiently(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await at_once_or_within(self._write_timeout_s, sending)
        except TimeoutError:
            raise ClientGone from None

    async def _send_signs_of_life(self, decision: Decision) -> None:
        headers = mapping_of(decision_fields(self._request_id, decision))
        # Who takes none of them is found out when the answer, or its error, is to be sent.
        with contextlib.suppress(ClientGone):
            while True:
                await asyncio.sleep(self._keep_alive_s)
                if not self.begun:
                    self.begun = True
                    await self._patiently(start_stream(self.send, headers=headers))
                await self._patiently(send_part(self.send, SIGN_OF_LIFE))
