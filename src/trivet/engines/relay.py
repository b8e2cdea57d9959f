"""The relay: passes an OpenAI-speaking engine's bytes through and reads only what it must."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import aiohttp
from yarl import URL

from trivet.domain.clock import Clock, SystemClock
from trivet.domain.errors import ConfigError, EngineBroken
from trivet.domain.surfaces import Surface
from trivet.domain.time_limits import TimeLimit
from trivet.engines.answers import PlainReply, parse_document, read_body
from trivet.engines.dialects import DIALECTS, Dialect
from trivet.engines.faults import fault_from_body, fault_from_event, fault_from_exception
from trivet.engines.joined import join_stream
from trivet.engines.json_text import encoded
from trivet.engines.pool import was_reused
from trivet.engines.protocol import EngineCall, Reply
from trivet.engines.received import Received, WireAnswer
from trivet.engines.speaking import Speaker
from trivet.engines.streams import StreamReply
from trivet.engines.wire import Wire

BODY_LIMIT_BYTES = 32 * 1024 * 1024
ERROR_BODY_LIMIT_BYTES = 256 * 1024

_CHAT = DIALECTS[Surface.CHAT]
_PLAIN, _EVENTS = "application/json", "text/event-stream"


class Relay:
    """The way to one OpenAI-speaking server: vLLM, llama.cpp and their like."""

    def __init__(
        self,
        url: str,
        *,
        session: aiohttp.ClientSession,
        api_key: str | None = None,
        join_plain: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """Take the server's base URL, with or without `/v1`, and the caller's shared session.

        Args:
            url: the server.
            session: carries all requests; the caller closes it.
            api_key: sent to the server.
            join_plain: the server is llama.cpp's: ask for a stream also where a whole answer is wanted, and
                join it; see `joined`.
            clock: tells the wall time that a `Retry-After` date is compared with.

        Raises:
            ConfigError: the URL is not an HTTP URL.
        """
        try:
            chat = URL(_CHAT.url(url))
        except ValueError:
            chat = URL()
        if chat.scheme not in ("http", "https") or not chat.host:
            raise ConfigError(f"{url!r} is not an HTTP URL.", param="url")
        self._base = url
        self._urls = {_CHAT.path: chat}
        self._speaker = Speaker(self._ask, llamacpp=join_plain)
        self._session = session
        self._join_plain = join_plain
        self._clock = clock or SystemClock()
        # The caller's own credentials never go upstream; the deployment's do.
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "trivet",
        }
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        fields = {"Host": chat.authority, **self._headers}
        self._wire = Wire.to(chat) if all(map(_is_plain, fields.values())) else None
        self._head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._heads: dict[tuple[str, str], bytes] = {}

    def chat(self, call: EngineCall) -> Coroutine[Any, Any, Reply]:
        """Dispatch; a streamed reply is returned once its first content, or its finish, has been read.

        A plain answer arrives as a whole, so only `total_s` limits it; one that is joined from a stream is
        held to the limits of a stream, and every fault of that stream is raised here.

        Raises:
            EngineError: nothing was generated that the caller could have seen; see `domain.errors`.
        """
        if call.surface is Surface.CHAT:
            return self._ask(call, _CHAT)
        return self._speaker.say(call)

    async def aclose(self) -> None:
        """Close the connections of its own; the session is shared and its owner closes it."""
        if self._wire is not None:
            self._wire.close()

    async def _ask(self, call: EngineCall, dialect: Dialect) -> Reply:
        limits = call.limits
        streamed = call.stream or (self._join_plain and dialect.joinable(call.body))
        started_s = asyncio.get_running_loop().time()
        by_s = deadline_s = started_s + limits.total_s
        if streamed:
            by_s = min(deadline_s, started_s + limits.first_content_s)
        data = encoded(self._body(call, dialect, streamed=streamed))
        accept = _EVENTS if streamed else _PLAIN
        response: Received | None = None
        wire = self._wire
        try:
            if wire is not None:
                head = self._heads.get((dialect.path, accept)) or self._head_of(dialect, accept)
                told = (head, call.request_id.encode("latin-1"), len(data), data)
                request = b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % told
                response = answer = await wire.post(request, connect_s=limits.connect_s, by_s=by_s)
                try:
                    reply = await self._reply(answer, call, dialect, deadline_s, streamed=streamed)
                finally:
                    wire.deadlines.lift(answer)
            else:
                with TimeLimit(by_s):
                    response = await self._post(call, dialect, data, accept)
                    reply = await self._reply(response, call, dialect, deadline_s, streamed=streamed)
        except (aiohttp.ClientError, OSError) as error:
            if response is not None:
                response.close()
            raise fault_from_exception(error, answered=response is not None) from error
        except BaseException:
            # Also when cancelled: closing is what makes the engine stop.
            if response is not None:
                response.close()
            raise
        if streamed and not call.stream and isinstance(reply, StreamReply):
            return await join_stream(reply, dialect.joiner() if dialect.joiner is not None else None)
        return reply

    def _body(self, call: EngineCall, dialect: Dialect, *, streamed: bool) -> dict[str, Any]:
        body = call.body
        if body.get("stream", False) is not streamed:
            body = {**body, "stream": streamed}
        if streamed and not call.stream and dialect.asks_usage:
            body = {**body, "stream_options": {"include_usage": True}}
        return body

    def _url_of(self, dialect: Dialect) -> URL:
        url = self._urls.get(dialect.path)
        if url is None:
            url = self._urls[dialect.path] = URL(dialect.url(self._base))
        return url

    def _head_of(self, dialect: Dialect, accept: str) -> bytes:
        """Return a request's head up to its id, the same for all requests of a kind."""
        head = (
            f"POST {self._url_of(dialect).raw_path_qs} HTTP/1.1\r\n{self._head}"
            f"Accept: {accept}\r\nX-Request-Id: "
        ).encode("latin-1")
        self._heads[dialect.path, accept] = head
        return head

    async def _post(self, call: EngineCall, dialect: Dialect, data: bytes, accept: str) -> Received:
        headers = {**self._headers, "Accept": accept, "X-Request-Id": call.request_id}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=call.limits.connect_s)
        url = self._url_of(dialect)
        while True:
            try:
                return await self._session.post(
                    url, data=data, headers=headers, allow_redirects=False, timeout=timeout
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # Each stale connection leaves the pool as it fails, so this ends with a fresh one.
                if not was_reused():
                    raise

    async def _reply(
        self,
        response: Received,
        call: EngineCall,
        dialect: Dialect,
        deadline_s: float,
        *,
        streamed: bool,
    ) -> StreamReply | PlainReply:
        if response.status != 200:
            body = await read_body(response, ERROR_BODY_LIMIT_BYTES) or b""
            raise fault_from_body(response.status, body, response.headers, now=self._clock.now())
        if streamed and dialect.events is not None and response.content_type == _EVENTS:
            answers = dialect.answers(call.body)
            reply = StreamReply(
                response,
                deadline_s=deadline_s,
                idle_s=call.limits.idle_s,
                choices=answers,
                reader=dialect.events(answers),
            )
            await reply.open()
            return reply
        whole = response.whole(BODY_LIMIT_BYTES) if isinstance(response, WireAnswer) else None
        if whole is None:
            whole = await read_body(response, BODY_LIMIT_BYTES)
        if whole is None:
            raise EngineBroken(f"The engine's answer is larger than {BODY_LIMIT_BYTES} bytes.", status=200)
        if call.stream:
            document = parse_document(whole)
            if document.get("error"):
                raise fault_from_event(document["error"])
            raise EngineBroken("The engine answered whole although a stream was asked for.", status=200)
        plain = dialect.plain(whole)
        if self._join_plain and dialect.answers(call.body) > 1:
            # llama.cpp's count is of one choice: better none than one that is too small.
            plain.usage = None
        return plain


def _is_plain(value: str) -> bool:
    """Tell whether a header's value goes over the wire as it is."""
    return value.isascii() and value.isprintable()
