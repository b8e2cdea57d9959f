"""A shelf in Redis, which all replicas share."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from trivet.cache.likeness import likeness
from trivet.cache.shelf import Entry, Filling, Found, Holdings, Place
from trivet.cache.shelf_scripts import DROP, FIND, PREFIX, PUT, SUM, USE
from trivet.domain.scopes import Scope, contains
from trivet.storage.redis_link import RedisLink

_NS_OF_MS = 1_000_000
_AT_ONCE = 500


class RedisShelf:
    """Keeps entries in a Redis server. The link is its owner's to close."""

    def __init__(self, link: RedisLink, *, max_bytes: int) -> None:
        """Take the link; nothing is asked yet."""
        self._link = link
        self._max_bytes = max_bytes

    async def find(self, place: Place, *, now_ns: int, threshold: float | None) -> Found | None:
        """Look up: one round trip, or two for another wording."""
        similar = "" if threshold is None or place.similar is None else place.similar.hex()
        answer = await self._link.run(FIND, [PREFIX], [place.exact.hex(), similar, now_ns // _NS_OF_MS])
        if answer[0] == 1:
            return Found(exact=place.exact, body=answer[1], device_ns=int(answer[2]))
        if threshold is None or len(answer) == 1:
            return None
        wordings = zip(answer[1::2], answer[2::2], strict=True)
        likest, exact = max(
            (likeness(place.words, place.ado, tuple(ado.decode().split())), exact) for exact, ado in wordings
        )
        if likest < threshold:
            return None
        answer = await self._link.run(FIND, [PREFIX], [exact, "", now_ns // _NS_OF_MS])
        if answer[0] != 1:  # it went between the two
            return None
        return Found(
            exact=bytes.fromhex(exact.decode()), body=answer[1], device_ns=int(answer[2]), likeness=likest
        )

    async def put(self, entries: Sequence[Entry], used: Sequence[bytes], *, now_ns: int) -> Filling:
        """Keep each entry in a script of its own, several under way at once; then count uses in one."""
        now_ms = now_ns // _NS_OF_MS
        evicted = await asyncio.gather(*(self._put(entry, now_ms) for entry in entries))
        count, size = await self._link.run(USE, [PREFIX], [now_ms, *(exact.hex() for exact in used)])
        return Filling(entries=count, bytes=size, evicted=sum(evicted))

    async def _put(self, entry: Entry, now_ms: int) -> int:
        place = entry.place
        evicted: int = await self._link.run(
            PUT,
            [PREFIX],
            [
                *(now_ms, self._max_bytes, place.exact.hex()),
                *("" if place.similar is None else place.similar.hex(), " ".join(place.ado)),
                *(entry.scope, entry.size, entry.device_ns, entry.worth_ns),
                *(entry.expires_ns // _NS_OF_MS, entry.body),
            ],
        )
        return evicted

    async def clear(self, scope: Scope | None) -> int:
        """Remove, some hundred at a time."""
        removed = 0
        async for batch in self._entries_of(scope):
            removed += await self._link.run(DROP, [PREFIX], batch)
        return removed

    async def holdings(self, scope: Scope | None) -> Holdings:
        """Add up, some hundred at a time."""
        sums = [0, 0, 0, 0]
        async for batch in self._entries_of(scope):
            answer = await self._link.run(SUM, [PREFIX], batch)
            sums = [before + int(more) for before, more in zip(sums, answer, strict=True)]
        return Holdings(entries=sums[0], bytes=sums[1], hits=sums[2], saved_device_ns=sums[3])

    async def aclose(self) -> None:
        """Do nothing: the link is not ours."""

    async def _entries_of(self, scope: Scope | None) -> AsyncIterator[list[bytes]]:
        """Yield the digests of the entries of a scope and of all below it."""
        cursor: bytes | int = 0
        seen: set[bytes] = set()
        while True:
            cursor, found = await self._link.execute("HSCAN", f"{PREFIX}Z", cursor, "COUNT", _AT_ONCE)
            pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
            batch = [exact for exact, known in pairs if exact not in seen and _is_of(known, scope)]
            seen.update(batch)
            if batch:
                yield batch
            if int(cursor) == 0:
                return


def _is_of(known: bytes, scope: Scope | None) -> bool:
    return scope is None or contains(scope, Scope(known.partition(b" ")[2].decode()))
