"""uvicorn's httptools protocol with bounds on a request: its head's size, fields and time, and what ends it.

uvicorn has no deadline for receiving a request and httptools no limit on its head, so one dripping or
endless client would hold a connection, and memory, for as long as it likes. What two servers in a row may
read differently is refused, such as an encoded body, two hosts or two keys; and fields that come behind a
body are never taken for the head's (RFC 9112, 3.2 and 6; RFC 9110, 6.5.1).

An offer to speak another protocol is passed over (RFC 9110, 7.8), as Java's HttpClient sends one with every
request; httptools would take what follows the head for that protocol, and the body would be lost.
"""

import asyncio
import re
from contextvars import copy_context
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trivet.api.short_way import SHORT_WAY
from trivet.app.exchange import Exchange

HEAD_LIMIT_BYTES = 32 * 1024
HEAD_FIELDS_MAX = 64
FRAMING_PER_BYTE = 8
"""What chunks may cost besides their content: one of a single byte costs five."""
_OFFER = re.compile(rb"^upgrade:.*\n", re.IGNORECASE | re.MULTILINE)
_SINGLE = frozenset({b"host", b"authorization", b"x-api-key", b"x-trivet-scope", b"content-type"})


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request is too large or too slow, or can be read in more than one way."""

    cycle: Exchange
    head_timeout_s = 10.0
    linger_s = 2.0
    """How long a client may go on sending a body after its answer, which it may not have read yet."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._piece_bytes = 0
        self._head_bytes = 0
        self._head_open = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._receiving: Exchange | None = None
        """The request whose body has not come to its end."""
        self._chunked = False
        self._framing_bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None
        """Since when a kept connection waits for its next request."""
        self._served: Exchange | None = None
        """The request that is served, or was the last one."""
        self._server: asyncio.Task[None] | None = None
        """What serves the requests of this connection, one after the other."""
        self._resting: asyncio.Future[Exchange | None] | None = None
        """Gives it the next one while it has none, or None: there will be no more."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the times, and what is done for the client."""
        self._stop_timer()
        self._stop_lingering()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        if self._served is not None:
            self._served.lose_client()
        self._server = None
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet, and what frames a body in chunks."""
        self._idle_since_s = None
        self._piece_bytes = len(data)
        if self._head_open:
            self._head_bytes += len(data)
        elif self._chunked:
            self._framing_bytes += len(data)
        if b"pgrade" in data and self._receiving is None:
            data = _without_offer(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            self._refuse("No other protocol is spoken here: leave Upgrade out.")
        if self._framing_bytes > HEAD_LIMIT_BYTES:
            self._refuse("The request's chunks or trailers are too large.")
        elif self._head_open and (
            self._head_bytes > HEAD_LIMIT_BYTES or len(self.headers or ()) > HEAD_FIELDS_MAX
        ):
            self._refuse()
        elif (
            # Whether what came begins a head, or is less: blank lines, a body's end after its answer. This is
            # on a kept connection; most heads arrive in one piece and need no time.
            self._head_timer is None
            and not self.transport.is_closing()
            and (self._head_open or (self._receiving is None and self.cycle.response_complete))
        ):
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_open = True
        self._chunked = False
        self._framing_bytes = 0

    def on_headers_complete(self) -> None:
        """End the head; its time and size are no longer counted. The request is served, or waits its turn."""
        if self._head_timer is not None:
            self._stop_timer()
        self._head_open = False
        version = self.parser.get_http_version()
        complaint = self._complaint(version)
        self._head_bytes = 0
        if complaint is not None:
            self._refuse(complaint)
            return
        waits_its_turn = self._answering
        self.cycle = self._receiving = exchange = self._exchange(version)
        # Fields behind a body would join those that the application reads.
        self.headers = []
        if waits_its_turn:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))
        else:
            self._serve(exchange)

    def _serve(self, exchange: Exchange) -> None:
        """Have a request served, by the task that served the one before, if that has come to its end.

        A task for each request would cost as much as reading its head.
        """
        self._served = exchange
        resting = self._resting
        if resting is not None and not resting.done():
            self._resting = None
            resting.set_result(exchange)
        else:
            self._server = self.loop.create_task(self._serve_from(exchange))
            self._server.add_done_callback(self.tasks.discard)
        assert self._server is not None  # noqa: S101 - it rests, or has begun
        self.tasks.add(self._server)

    async def _serve_from(self, first: Exchange) -> None:
        """Serve a request and those after it, until the connection ends, or this task is to end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        following: Exchange | None = first
        del first
        context = copy_context()
        while following is not None:
            following.task = task
            try:
                await following.run_asgi(self.app)
            finally:
                self.tasks.discard(task)
                # So that nothing refers to itself, and no collector of garbage has to find it.
                del following.scope[SHORT_WAY]
            following = None
            # Another one has begun where the next request came before the end of this one's endpoint.
            if self._server is not task or task.cancelling() or self.transport.is_closing():
                return
            # What a library has left in the context is no other request's. To compare two takes no time while
            # nothing was left.
            if copy_context() != context:
                return
            self._resting = self.loop.create_future()
            following = await self._resting

    def _exchange(self, version: str) -> Exchange:
        path, raw_path, query = _parted(self.url)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": self.parser.get_method().decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": {},
        }
        return Exchange(
            scope,
            self.transport,
            self.flow,
            self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; each byte of it pays for some of its frame."""
        if self._chunked:
            self._framing_bytes = max(0, self._framing_bytes - (1 + FRAMING_PER_BYTE) * len(body))
        exchange = self._receiving
        if exchange is not None and not exchange.response_complete:
            exchange.body += body
            if len(exchange.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            if exchange.news is not None:
                exchange.news.set()

    def on_message_complete(self) -> None:
        """End the request."""
        exchange, self._receiving = self._receiving, None
        self._chunked = False
        self._framing_bytes = 0
        if self._linger is not None:
            self._stop_lingering()
        if exchange is not None and not exchange.response_complete:
            exchange.more_body = False
            if exchange.news is not None:
                exchange.news.set()

    def on_response_complete(self) -> None:
        """Serve the next request, or wait for one.

        After an answer to a body that still comes, such as its refusal, wait a little for its end only: a
        connection that is closed at once may take the answer with it.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            exchange, _ = self.pipeline.pop()
            assert isinstance(exchange, Exchange)  # noqa: S101 - nothing else was put there
            self._serve(exchange)
        else:
            self._await_request()
        if self._receiving is not None:
            self._linger = self.loop.call_later(self.linger_s, self.transport.close)

    def _await_request(self) -> None:
        """Close the connection if none comes for long; one timer does for many requests."""
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since_s is None:
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.timeout_keep_alive_handler()
        else:
            self._idle_timer = self.loop.call_later(left_s, self._look_whether_idle)

    def _complaint(self, version: str) -> str | None:
        """Return what is wrong with a complete head."""
        fields = dict(self.headers)
        if len(fields) < len(self.headers):
            names = [name for name, _ in self.headers]
            if any(names.count(name) > 1 for name in _SINGLE):
                return "The request's head names something twice."
        if b"transfer-encoding" in fields:
            self._chunked = True
            if self._told_of(b"transfer-encoding") != {b"chunked"}:
                return "Bodies are taken plain or in chunks, not encoded otherwise."
        if b"content-encoding" in fields and self._told_of(b"content-encoding") != {b"identity"}:
            return "Bodies are taken as they are, not compressed."
        # It is measured only where it may be too large. Its last piece may hold others' bytes as well, and is
        # counted in vain where it began there.
        may_be_large = self._head_bytes + self._piece_bytes > HEAD_LIMIT_BYTES
        if len(self.headers) > HEAD_FIELDS_MAX or (may_be_large and self._head_size() > HEAD_LIMIT_BYTES):
            return "The request's head is too large or too slow."
        if version not in ("1.1", "1.0") or (version == "1.1" and b"host" not in fields):
            return "The request is none of HTTP/1.1, which names its host, or HTTP/1.0."
        if self.parser.should_upgrade():
            return "No other protocol is spoken here: leave Upgrade out."
        return None

    def _told_of(self, field: bytes) -> set[bytes]:
        return {value.strip().lower() for name, value in self.headers if name == field}

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

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
        return isinstance(cycle, Exchange) and not cycle.response_complete


@lru_cache(maxsize=64)
def _parted(url: bytes) -> tuple[str, bytes, bytes]:
    """Return a target's path, as it is and as it was sent, and its query."""
    target = httptools.parse_url(url)
    path = target.path.decode("ascii")
    return unquote(path) if "%" in path else path, target.path, target.query or b""


def _without_offer(data: bytes) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    return _OFFER.sub(b"", head + end) + rest


def bounded_http(*, head_timeout_s: float, body_timeout_s: float) -> type[BoundedHttp]:
    """Return the protocol with these times; the application keeps a body's itself, until it has answered."""
    times = {"head_timeout_s": head_timeout_s, "linger_s": min(BoundedHttp.linger_s, body_timeout_s)}
    return type("BoundedHttp", (BoundedHttp,), times)
