"""uvicorn's httptools protocol with bounds on a request's head: its size, its fields, its time.

uvicorn has no deadline for receiving a request and httptools no limit on its head, so one dripping or
endless client would hold a connection, and memory, for as long as it likes.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trivet.api.whole_answer import WHOLE_ANSWER

HEAD_LIMIT_BYTES = 64 * 1024
HEAD_FIELDS_MAX = 100
HEAD_TIMEOUT_S = 10.0


class OneWrite:
    """Sends an answer that is there as a whole in one write, where uvicorn needs two and looks at each field.

    See `api.whole_answer`.
    """

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def begun(self) -> bool:
        """Tell whether an answer has begun."""
        return self._cycle.response_started

    def __call__(self, head: bytes, body: bytes) -> bool:
        """Send it, unless the connection is busy, gone, or has begun to answer."""
        cycle = self._cycle
        busy = cycle.flow.write_paused or cycle.disconnected
        if busy or cycle.response_started or cycle.scope["method"] == "HEAD":
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        dated = b"".join([b"%b: %b\r\n" % field for field in cycle.default_headers])
        last = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.transport.write(b"".join((STATUS_LINE[200], dated, head, last, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request head is too large, has too many fields, or takes too long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_open = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet."""
        if self._head_open:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._head_open:
            return
        if self._head_bytes > HEAD_LIMIT_BYTES or len(self.headers or ()) > HEAD_FIELDS_MAX:
            self._refuse()
        elif self._head_timer is None and not self.transport.is_closing():
            # On a kept connection; most heads arrive in one piece and need no time.
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_open = True

    def on_headers_complete(self) -> None:
        """End the head; its time and size are no longer counted."""
        self._stop_timer()
        self._head_open = False
        self._head_bytes = 0
        # Counted again: a head that arrives in one piece is never seen incomplete.
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_LIMIT_BYTES or len(self.headers) > HEAD_FIELDS_MAX:
            self._refuse()
            return
        super().on_headers_complete()
        if self.cycle is not None:
            scope = cast("dict[str, Any]", self.cycle.scope)
            scope[WHOLE_ANSWER] = OneWrite(self.cycle)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            self.send_400_response("The request's head is too large or too slow.")
