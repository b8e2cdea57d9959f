"""An answer of an engine whose head has arrived, and whose body is read as it comes."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

BUFFER_LIMIT_BYTES = 256 * 1024
"""What has arrived and was not read; more is left with the engine."""


class Readable(Protocol):
    """A body that arrives."""

    def at_eof(self) -> bool:
        """Tell whether all of it has arrived and been read."""
        ...

    async def readany(self) -> bytes:
        """Return what is there, waiting for some; empty at the end."""
        ...


class Received(Protocol):
    """An answer whose head has arrived; also aiohttp's."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the head's fields."""
        ...

    @property
    def content_type(self) -> str:
        """Return the media type without parameters."""
        ...

    @property
    def content(self) -> Readable:
        """Return the body."""
        ...

    def close(self) -> None:
        """Let go of it; before its end this closes the connection. Idempotent."""
        ...


class Source(Protocol):
    """What an answer comes over."""

    loop: asyncio.AbstractEventLoop

    def pause(self) -> None:
        """Read no more."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def abort(self) -> None:
        """Close it now."""
        ...


@lru_cache(64)
def _media_type(told: bytes) -> str:
    return told.decode("latin-1").partition(";")[0].strip().lower()


class WireAnswer:
    """One answer as it arrives; see `Received`."""

    __slots__ = (
        "_connection",
        "_error",
        "_fields",
        "_inflate",
        "_parts",
        "_size",
        "_take",
        "_waiter",
        "begun",
        "complete",
        "status",
    )

    def __init__(self, connection: Source) -> None:
        self.status = 0
        self.begun = False
        """Whether anything of it has arrived."""
        self.complete = False
        self._connection = connection
        self._fields: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._inflate: zlib._Decompress | None = None

    @property
    def content(self) -> "WireAnswer":
        """Return itself: it is its own body."""
        return self

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the head's fields, their names in lower case."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._fields.items()}

    @property
    def content_type(self) -> str:
        """Return the media type without parameters."""
        return _media_type(self._fields.get(b"content-type", b""))

    def head_to_come(self) -> "asyncio.Future[None] | None":
        """Return what to wait for before asking again; None: the head is there.

        Raises:
            aiohttp.ClientError: the connection ended first, or what came is not HTTP.
            TimeoutError: it did not come in time.
        """
        if self.status:
            return None
        if self._error is not None:
            raise self._error
        return self._change()

    def at_eof(self) -> bool:
        """Tell whether all of it has been read."""
        return self.complete and not self._parts

    async def readany(self) -> bytes:
        """Return what is there, waiting for some; empty at the end.

        Raises:
            aiohttp.ClientError: the connection ended before the answer.
        """
        while not self._parts:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._change()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._size > BUFFER_LIMIT_BYTES and not self.complete:
            self._connection.resume()
        self._size = 0
        return data

    def whole(self, limit_bytes: int) -> bytes | None:
        """Return the body, if all of it has arrived in one piece within the limit; None: it is to be read."""
        if not self.complete or len(self._parts) != 1 or self._size > limit_bytes:
            return None
        self._size = 0
        return self._parts.pop()

    def offer(self, take: Callable[[bytes], bool] | None) -> None:
        """Offer what arrives while `readany` waits to this first, which returns whether it takes it.

        What it takes is not read, and wakes nobody. None: offer nothing any more.
        """
        self._take = take

    def close(self) -> None:
        """Let go of it; before its end this closes the connection."""
        if not self.complete:
            self._connection.abort()

    def set_head(self, status: int, fields: dict[bytes, bytes]) -> None:
        """Take the head."""
        self._fields, self.status = fields, status
        if fields.get(b"content-encoding") in (b"gzip", b"deflate"):
            # Nobody asked for it. 32: whichever of both it is.
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self.wake()

    def add(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._inflate is not None:
            data = self._inflate.decompress(data)
            if not data:
                return
        take, waiter = self._take, self._waiter
        if take is not None and waiter is not None and not (self._parts or waiter.done()) and take(data):
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > BUFFER_LIMIT_BYTES:
            self._connection.pause()

    def end(self, error: Exception | None = None) -> None:
        """End it, or break it off."""
        if error is None:
            self.complete = True
        else:
            self._error = self._error or error
        self.wake()

    def note_news(self) -> None:
        """Wake whoever waits to read, if there is something to be read or no more will come."""
        if self._parts or self.complete:
            self.wake()

    def expire(self) -> None:
        """End it for whoever waits: its time is up."""
        self.end(TimeoutError())

    def wake(self) -> None:
        """Tell whoever waits that something has changed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _change(self) -> "asyncio.Future[None]":
        self._waiter = waiter = self._connection.loop.create_future()
        return waiter
