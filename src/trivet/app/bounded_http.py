"""uvicorn's httptools protocol with bounds on a request: its head's size, fields and time, and what ends it.

uvicorn has no deadline for receiving a request and httptools no limit on its head, so one dripping or
endless client would hold a connection, and memory, for as long as it likes. What two servers in a row may
read differently is refused, such as an encoded body, two hosts or two keys; and fields that come behind a
body are never taken for the head's (RFC 9112, 3.2 and 6; RFC 9110, 6.5.1).
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from trivet.api.short_way import SHORT_WAY

HEAD_LIMIT_BYTES = 32 * 1024
HEAD_FIELDS_MAX = 64
FRAMING_PER_BYTE = 8
"""What chunks may cost besides their content: one of a single byte costs five."""
_SINGLE = frozenset({b"host", b"authorization", b"x-api-key", b"x-trivet-scope", b"content-type"})


class Straight:
    """The short way to a client of uvicorn's: no messages, no look at each field; see `api.short_way`.

    It keeps the books of uvicorn's own cycle, so that the ordinary way may go on where this one stops.
    """

    __slots__ = ("_cycle", "_protocol", "when_gone")

    def __init__(self, protocol: "BoundedHttp", cycle: RequestResponseCycle) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self.when_gone: Callable[[], None] | None = None

    @property
    def begun(self) -> bool:
        """Tell whether an answer has begun."""
        return self._cycle.response_started

    @property
    def ended(self) -> bool:
        """Tell whether an answer has been sent to its end."""
        return self._cycle.response_complete

    def whole(self, head: bytes, body: bytes) -> bool:
        """Send it in one write, unless the connection is busy, gone, or has begun to answer."""
        if not self._takes_head():
            return False
        cycle = self._cycle
        cycle.response_started = True
        cycle.transport.write(b"".join((*self._first_lines(head), b"\r\n", body)))
        self._end()
        return True

    def begin(self, head: bytes) -> bool:
        """Send the head of an answer in chunks, which HTTP/1.0 does not know."""
        cycle = self._cycle
        if not self._takes_head() or cycle.scope["http_version"] != "1.1":
            return False
        cycle.response_started = cycle.chunked_encoding = True
        cycle.transport.write(b"".join((*self._first_lines(head), b"transfer-encoding: chunked\r\n\r\n")))
        return True

    def part(self, data: bytes, *, more: bool = True) -> bool:
        """Send a chunk, unless the connection is busy or gone, or the answer does not come in chunks."""
        cycle = self._cycle
        if self._is_busy() or not cycle.chunked_encoding or cycle.response_complete:
            return False
        if data:
            cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        if not more:
            cycle.transport.write(b"0\r\n\r\n")
            self._end()
        return True

    def tell_when_gone(self, told: Callable[[], None] | None) -> None:
        """Have the connection tell it. Only one request of a connection is served at a time."""
        self.when_gone = told
        if told is None:
            return
        self._protocol.served = self
        self._cycle.flow.resume_reading()
        if self._cycle.disconnected:
            told()

    def _is_busy(self) -> bool:
        return self._cycle.flow.write_paused or self._cycle.disconnected

    def _takes_head(self) -> bool:
        return not (self._is_busy() or self._cycle.response_started or self._cycle.scope["method"] == "HEAD")

    def _first_lines(self, head: bytes) -> tuple[bytes, ...]:
        cycle = self._cycle
        cycle.waiting_for_100_continue = False
        dated = b"".join([b"%b: %b\r\n" % field for field in cycle.default_headers])
        return STATUS_LINE[200], dated, head, b"" if cycle.keep_alive else b"connection: close\r\n"

    def _end(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request is too large or too slow, or can be read in more than one way."""

    head_timeout_s = 10.0
    linger_s = 2.0
    """How long a client may go on sending a body after its answer, which it may not have read yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_open = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_open = False
        self._chunked = False
        self._framing_bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self.served: Straight | None = None
        """The way of the request that is served, if it wants to know when the client goes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the times, and what is done for the client."""
        self._stop_timer()
        self._stop_lingering()
        super().connection_lost(exc)
        if self.served is not None and self.served.when_gone is not None and not self.served.ended:
            self.served.when_gone()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet, and what frames a body in chunks."""
        if self._head_open:
            self._head_bytes += len(data)
        elif self._chunked:
            self._framing_bytes += len(data)
        super().data_received(data)
        if self._framing_bytes > HEAD_LIMIT_BYTES:
            self._refuse("The request's chunks or trailers are too large.")
        elif self._head_open and (
            self._head_bytes > HEAD_LIMIT_BYTES or len(self.headers or ()) > HEAD_FIELDS_MAX
        ):
            self._refuse()
        elif not self.transport.is_closing() and self._head_timer is None and self._awaits_head:
            # On a kept connection; most heads arrive in one piece and need no time.
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._head_open = True
        self._chunked = False
        self._framing_bytes = 0

    def on_headers_complete(self) -> None:
        """End the head; its time and size are no longer counted."""
        self._stop_timer()
        self._head_open = False
        self._head_bytes = 0
        complaint = self._complaint()
        if complaint is not None:
            self._refuse(complaint)
            return
        self._body_open = True
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.cycle.scope)
        scope[SHORT_WAY] = Straight(self, self.cycle)
        # Fields behind a body would join those that the application reads.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; each byte of it pays for some of its frame."""
        super().on_body(body)
        if self._chunked:
            self._framing_bytes = max(0, self._framing_bytes - (1 + FRAMING_PER_BYTE) * len(body))

    def on_message_complete(self) -> None:
        """End the request."""
        self._body_open = False
        self._chunked = False
        self._framing_bytes = 0
        self._stop_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """After an answer to a body that still comes, such as its refusal, wait a little for its end only.

        A connection that is closed at once may take the answer with it.
        """
        super().on_response_complete()
        if self._body_open and not self.transport.is_closing():
            self._linger = self.loop.call_later(self.linger_s, self.transport.close)

    @property
    def _awaits_head(self) -> bool:
        """Tell whether what came begins a head, or is less: blank lines, a body's end after its answer."""
        return self._head_open or (not self._body_open and self.cycle.response_complete)

    def _complaint(self) -> str | None:
        """Return what is wrong with a complete head."""
        # Counted again: a head that arrives in one piece is never seen incomplete.
        size = len(self.url)
        single: set[bytes] = set()
        for name, value in self.headers:
            size += len(name) + len(value)
            if name in _SINGLE:
                if name in single:
                    return "The request's head names something twice."
                single.add(name)
            elif name == b"transfer-encoding":
                self._chunked = True
                if value.strip().lower() != b"chunked":
                    return "Bodies are taken plain or in chunks, not encoded otherwise."
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                return "Bodies are taken as they are, not compressed."
        if size > HEAD_LIMIT_BYTES or len(self.headers) > HEAD_FIELDS_MAX:
            return "The request's head is too large or too slow."
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0") or (version == "1.1" and b"host" not in single):
            return "The request is none of HTTP/1.1, which names its host, or HTTP/1.0."
        return None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _refuse(self, complaint: str = "The request's head is too large or too slow.") -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self._answering:
            self.transport.close()  # nothing else may be said now
            return
        self.send_400_response(complaint)

    @property
    def _answering(self) -> bool:
        """Tell whether the application has a request of this connection, and may have begun to answer."""
        cycle: object = self.cycle
        return isinstance(cycle, RequestResponseCycle) and not cycle.response_complete


def bounded_http(*, head_timeout_s: float, body_timeout_s: float) -> type[BoundedHttp]:
    """Return the protocol with these times; the application keeps a body's itself, until it has answered."""
    times = {"head_timeout_s": head_timeout_s, "linger_s": min(BoundedHttp.linger_s, body_timeout_s)}
    return type("BoundedHttp", (BoundedHttp,), times)
