"""HTTP/1.1 to one engine, as much of it as a relay needs: post, read what comes, keep the connection.

An HTTP client for everybody costs more than all else that happens to a request, so this one does without
redirects, cookies, proxies and TLS. What aiohttp does for a relay it does as well: kept connections that turn
out to be closed, limits, back-pressure, answers that end too early.
"""

import asyncio
import socket
import time
import zlib
from collections import deque

import aiohttp
import httptools
from yarl import URL

from trivet.domain.errors import EngineBroken, EngineUnavailable
from trivet.domain.time_limits import Deadlines, TimeLimit
from trivet.engines.pool import CONNECTIONS_KEPT_S
from trivet.engines.received import WireAnswer

HEAD_LIMIT_BYTES = 64 * 1024


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, wire: "Wire") -> None:
        self.reused = False
        self.idle_since_s = 0.0
        self.loop = asyncio.get_running_loop()
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._answer: WireAnswer | None = None
        self._bodies: list[bytes] = []
        self.on_body = self._bodies.append
        """Called by the parser with each part of a body, of which a chunked stream has many."""
        self._fields: dict[bytes, bytes] = {}
        self.on_header = self._fields.__setitem__
        """Called by the parser with each field; of repeated ones the last counts."""
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._framed = False
        self._paused = False

    @property
    def is_open(self) -> bool:
        """Tell whether it can be used."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> WireAnswer:
        """Send a request."""
        assert self._transport is not None  # noqa: S101 - it is open
        self._answer = answer = WireAnswer(self)
        self._transport.write(request)
        return answer

    def pause(self) -> None:
        """Read no more."""
        if self.is_open and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and self.is_open and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close it now: that is what makes an engine stop."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Read on; the parser calls what follows."""
        answer = self._answer
        if answer is None:
            self.abort()  # what nobody asked for
            return
        answer.begun = True
        try:
            self._parser.feed_data(data)
            if self._bodies:
                self._hand_over()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, zlib.error) as error:
            self._break_off(aiohttp.ClientError(f"not HTTP: {error}"))
        if not answer.status:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._break_off(EngineBroken("The head of the engine's answer is too large."))
        answer.note_news()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was under way."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if answer.status and not self._framed and exc is None:
            answer.end()  # it lasted as long as its connection
        elif answer.begun:
            answer.end(aiohttp.ClientPayloadError("the connection ended amid the answer"))
        else:
            answer.end(aiohttp.ServerDisconnectedError())

    # Called by the parser

    def on_message_begin(self) -> None:
        """Close it before a second answer, or the beginning of one, is taken for the next request's."""
        if self._answer is None:
            self.abort()

    def on_headers_complete(self) -> None:
        """Hand over the head, unless it only says that the answer will come."""
        status = self._parser.get_status_code()
        fields = dict(zip(map(bytes.lower, self._fields), self._fields.values(), strict=True))
        self._fields.clear()
        if status < 200:
            return
        if self._answer is None:
            return
        self._framed = b"content-length" in fields or b"transfer-encoding" in fields or status in (204, 304)
        self._answer.set_head(status, fields)

    def on_message_complete(self) -> None:
        """End the answer, and keep the connection if the engine does."""
        answer = self._answer
        if answer is None or not answer.status:
            return
        if self._bodies:
            self._hand_over()
        self._answer = None
        self._fields.clear()  # those behind the body
        self._head_bytes = 0
        if self._paused:
            self.resume()
        answer.complete = True
        if self._framed and self._parser.should_keep_alive():
            self._wire.keep(self)
        else:
            self.abort()

    def _hand_over(self) -> None:
        """Give the answer what has come of its body."""
        bodies = self._bodies
        data = bodies[0] if len(bodies) == 1 else b"".join(bodies)
        bodies.clear()
        if self._answer is not None:
            self._answer.add(data)

    def _break_off(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.end(error)
        self.abort()


class Wire:
    """The connections to one engine, as many as are asked for at once; idle ones are kept a while."""

    def __init__(self, host: str, port: int) -> None:
        """Take the engine's address."""
        self._host = host
        self._port = port
        self.deadlines: Deadlines[WireAnswer] = Deadlines(WireAnswer.expire)
        """Of the answers that are waited for; whoever posts lifts them."""
        self._idle: deque[_Connection] = deque()
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    def to(cls, url: URL) -> "Wire | None":
        """Return the way to a URL's host; None where it takes more than this one can do."""
        if url.scheme != "http" or url.host is None or url.port is None or url.user is not None:
            return None
        return cls(url.host, url.port)

    async def post(self, request: bytes, *, connect_s: float, by_s: float) -> WireAnswer:
        """Send a request as it is, and return its answer once the head has arrived.

        Args:
            request: its head and its body.
            connect_s: how long to wait for a new connection, should one be needed.
            by_s: when the wait is over, by the loop's time, for the rest of the answer as well, unless its
                deadline is lifted.

        Raises:
            TimeoutError: that time has come.
            EngineUnavailable: no connection could be made.
            EngineBroken, aiohttp.ClientError: it ended without an answer, or what came is not HTTP.
        """
        while True:
            connection = self._kept() or await self._connect(connect_s, by_s)
            answer = connection.ask(request)
            self.deadlines.set(answer, by_s, connection.loop)
            try:
                while (change := answer.head_to_come()) is not None:
                    await change
            except BaseException as error:
                self.deadlines.lift(answer)
                connection.abort()
                # A kept connection that was closed as it was used: nobody has read the request.
                if isinstance(error, aiohttp.ClientError) and connection.reused and not answer.begun:
                    continue
                raise
            return answer

    def keep(self, connection: _Connection) -> None:
        """Keep a connection whose answer has ended."""
        if self._closed:
            connection.abort()
            return
        connection.reused = True
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(CONNECTIONS_KEPT_S, self._sweep)

    def close(self) -> None:
        """Close the connections that are idle, and the others as they end."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        while self._idle:
            self._idle.pop().abort()

    def _kept(self) -> _Connection | None:
        """Return the connection that was used last, if it is still good."""
        oldest_s = time.monotonic() - CONNECTIONS_KEPT_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since_s > oldest_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, connect_s: float, by_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        connect_by_s = loop.time() + connect_s
        try:
            with TimeLimit(min(connect_by_s, by_s)):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port
                )
        except TimeoutError:
            if by_s < connect_by_s:
                raise
            raise EngineUnavailable("The engine does not accept connections in time.") from None
        except socket.gaierror:
            raise EngineUnavailable("The engine's host name cannot be resolved.") from None
        except ConnectionRefusedError:
            raise EngineUnavailable("The engine refuses connections.") from None
        except OSError:
            raise EngineUnavailable("The engine cannot be reached.") from None
        return connection

    def _sweep(self) -> None:
        self._sweeping = None
        oldest_s = time.monotonic() - CONNECTIONS_KEPT_S
        while self._idle and self._idle[0].idle_since_s <= oldest_s:
            self._idle.popleft().abort()
        if self._idle:
            self._sweeping = asyncio.get_running_loop().call_later(CONNECTIONS_KEPT_S / 2, self._sweep)
