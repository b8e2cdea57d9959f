"""A request and its answer on their way through uvicorn, with a short way for the latter: `api.short_way`."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from trivet.api.asgi import ClientGone
from trivet.api.short_way import SHORT_WAY

_LOG = logging.getLogger("uvicorn.error")
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Opening:
    """The first lines of every 200 answer: the status and what uvicorn adds, which changes once a second."""

    def __init__(self) -> None:
        self._fields: list[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def lines(self, fields: list[tuple[bytes, bytes]]) -> bytes:
        """Return them with these fields, each with its line end."""
        if fields is not self._fields:
            self._fields = fields
            self._lines = STATUS_LINE[200] + b"".join([b"%b: %b\r\n" % field for field in fields])
        return self._lines


_OPENING = Opening()


class Exchange(RequestResponseCycle):
    """uvicorn's cycle, made with less effort, which is its own short way: no messages, no look at each field.

    What a stream says within one turn of the loop goes out in one write. Through ASGI it may go on at any
    point: both ways keep the same books.
    """

    logger = _LOG
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    task: asyncio.Task[None]
    """What serves it."""
    news: asyncio.Event | None = None
    """Set when more of the body has come, or no more will; there only once somebody waits for that."""
    _taken = False
    """Whether the body has been taken whole."""
    _watched = False
    """Whether its task is to be cancelled when the client goes."""
    _left = False
    """Whether it was cancelled for that."""

    def __init__(
        self,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[tuple[bytes, bytes]],
        *,
        expect_100_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        """Take what uvicorn's takes."""
        self.scope: Any = scope
        scope[SHORT_WAY] = self
        self.transport = transport
        self.flow = flow
        self.default_headers = default_headers
        self.on_response = on_response
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expect_100_continue
        self.body = bytearray()
        self._unsent: list[bytes] = []

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Return what uvicorn's ways wait by for more of the body, or for the end of its client's waiting."""
        if self.news is None:
            self.news = asyncio.Event()
            ended = self.disconnected or self.response_complete
            if ended or self.body or not (self._taken or self.more_body):
                self.news.set()
        return self.news

    @property
    def begun(self) -> bool:
        """Tell whether an answer has begun."""
        return self.response_started

    @property
    def ended(self) -> bool:
        """Tell whether an answer has been sent to its end."""
        return self.response_complete

    async def send(self, message: Any) -> None:
        """Send through ASGI, behind what was said the short way."""
        self._flush()
        await super().send(message)

    def taken_body(self, limit_bytes: int) -> bytes | None:
        """Return the request's body if all of it has come, and is no larger; else it is to be received."""
        if self.more_body or self.waiting_for_100_continue or len(self.body) > limit_bytes:
            return None
        body, self.body = bytes(self.body), bytearray()
        self._taken = True
        if self.news is not None:
            self.news.clear()
        return body

    def whole(self, head: bytes, body: bytes) -> bool:
        """Send it in one write, unless the connection is busy, gone, or has begun to answer."""
        if not self._takes_head():
            return False
        self.response_started = True
        self.transport.write(b"".join((self._first_lines(), head, b"\r\n", body)))
        self._end()
        return True

    def begin(self, head: bytes) -> bool:
        """Send the head of an answer in chunks, which HTTP/1.0 does not know."""
        if not self._takes_head() or self.scope["http_version"] != "1.1":
            return False
        self.response_started = self.chunked_encoding = True
        self._say(self._first_lines(), head, _CHUNKED)
        return True

    def part(self, data: bytes, *, more: bool = True) -> bool:
        """Send a chunk, unless the connection is busy or gone, or the answer does not come in chunks."""
        if self.flow.write_paused or self.disconnected or self.response_complete or not self.chunked_encoding:
            return False
        if data:
            self._say(b"%x\r\n" % len(data), data, b"\r\n")
        if not more:
            self._unsent.append(_LAST_CHUNK)
            self._flush()
            self._end()
        return True

    def pass_on(self, data: bytes) -> bool:
        """Send a chunk now, unless it would have to wait for anything, or `part` would not send it."""
        if (
            self._unsent
            or self.flow.write_paused
            or self.disconnected
            or self.response_complete
            or not self.chunked_encoding
        ):
            return False
        if self.transport.is_closing():
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def __enter__(self) -> None:
        """Have the connection tell when the client goes: from now on it reads, whatever has come already."""
        self._watched = True
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.disconnected:
            self._leave()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Need the client no longer."""
        self._watched = False
        if self._left and isinstance(error, asyncio.CancelledError) and self.task.uncancel() == 0:
            raise ClientGone from None

    def lose_client(self) -> None:
        """Take note that the connection is lost, which does not matter to an answer that has ended."""
        if self.response_complete:
            return
        self.disconnected = True
        if self.news is not None:
            self.news.set()
        if self._watched:
            self._leave()

    def _leave(self) -> None:
        self._left = True
        self.task.cancel()

    def _say(self, *pieces: bytes) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += pieces

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            if not self.transport.is_closing():
                self.transport.write(data)

    def _takes_head(self) -> bool:
        return not (
            self.flow.write_paused
            or self.disconnected
            or self.response_started
            or self.scope["method"] == "HEAD"
        )

    def _first_lines(self) -> bytes:
        self.waiting_for_100_continue = False
        lines = _OPENING.lines(self.default_headers)
        return lines if self.keep_alive else lines + b"connection: close\r\n"

    def _end(self) -> None:
        self.response_complete = True
        if self.news is not None:
            self.news.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
