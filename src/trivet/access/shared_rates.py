"""Rate limits that several replicas count together, in Redis; each for itself while Redis does not answer.

What runs at once is counted by leases that this replica renews: should it die, its requests' places come free
within LEASE_S. Limits themselves come from the store, as ever.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from trivet.access.gauges import UNLIMITED, Admitted, Bucket, Gauge, RateLimit, rate_headers, refusal
from trivet.access.rate_scripts import COME, GO, LARGEST_SIZE, STAY
from trivet.access.rates import RateLimits
from trivet.domain.errors import StoreUnavailable
from trivet.domain.scopes import Scope, organisation
from trivet.storage.redis_link import RedisLink

T = TypeVar("T")

LEASE_S = 15.0
RENEW_EVERY_S = 5.0

_PART = 60_000
"""A bucket's level counts sixty-thousandths; see `rate_scripts`."""
_RATES = ("concurrent", "requests_per_minute", "tokens_per_minute")


class SharedRates:
    """Admits by what all replicas let in. For the event loop's thread; use `shared_rates`."""

    def __init__(self, local: RateLimits, link: RedisLink, *, lease_s: float = LEASE_S) -> None:
        """Take the limits, which also count for this replica alone where Redis does not answer."""
        self.fallbacks = 0
        """Requests that this replica admitted or refused by its own count, since the start."""
        self._local = local
        self._link = link
        self._lease_ms = int(lease_s * 1000)
        self._replica = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._running: dict[str, list[str]] = {}
        """The requests that run, with the slots that they take."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def admit(self, scope: Scope, estimated_tokens: int) -> Admitted:
        """Let a request in, on its scope and all above, or on none of them; see `RateLimits.admit`.

        Raises:
            RateLimitExceeded: with the seconds after which it would be let in, if nothing else comes.
        """
        limits = self._local.binding(scope)
        if not limits:
            return UNLIMITED
        name = f"{self._replica}-{next(self._numbers)}"
        keys = _keys(limits)
        sizes = [size for limit in limits for size in _sizes(limit)]
        asking = self._own(self._link.run(COME, keys, [self._lease_ms, name, estimated_tokens, *sizes]))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # Nobody waits any more, but the place may still be taken: give it back when it is.
            self._own(self._give_back(asking, keys, name, estimated_tokens))
            raise
        except StoreUnavailable:
            self.fallbacks += 1
            return self._local.admit(scope, estimated_tokens)
        if answer[0] == 0:
            _, at, kind, wait_ms, *levels = answer
            gauge = _gauge(limits[at], levels)
            size = getattr(limits[at], _RATES[kind])
            raise refusal(gauge, _RATES[kind], size, None if wait_ms < 0 else wait_ms / 1000)
        self._running[name] = keys[1::2]
        gauges = [_gauge(limit, answer[1 + 3 * at : 4 + 3 * at]) for at, limit in enumerate(limits)]

        def end(tokens: int | None) -> None:
            self._running.pop(name, None)
            given_back = 0 if tokens is None else estimated_tokens - tokens
            self._own(self._leave(keys, name, given_back))

        return Admitted(rate_headers(gauges), end)

    async def run(self) -> None:
        """Renew what runs, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """Say of every request that runs that it still does."""
        by_slots: dict[str, list[str]] = {}
        for name, slots in self._running.items():
            for each in slots:
                by_slots.setdefault(each, []).append(name)
        for slots_key, names in by_slots.items():
            # Once it is back, those that run are counted again.
            with contextlib.suppress(StoreUnavailable):
                await self._link.run(STAY, [slots_key], [self._lease_ms, *names])

    async def drain(self) -> None:
        """Return when Redis has been told of every request that ended so far."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _give_back(
        self, asking: "asyncio.Task[Any]", keys: Sequence[str], name: str, estimated_tokens: int
    ) -> None:
        with contextlib.suppress(StoreUnavailable):
            if (await asking)[0] == 1:
                await self._leave(keys, name, estimated_tokens)

    async def _leave(self, keys: Sequence[str], name: str, given_back: int) -> None:
        # Where nobody hears it the place comes free by its lease, and the estimate stands.
        with contextlib.suppress(StoreUnavailable):
            await self._link.run(GO, keys, [name, given_back * _PART])

    def _own(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def shared_rates(local: RateLimits, link: RedisLink) -> AsyncIterator[SharedRates]:
    """Count with others until the block ends."""
    rates = SharedRates(local, link)
    task = asyncio.get_running_loop().create_task(rates.run())
    try:
        yield rates
    finally:
        task.cancel()
        await asyncio.wait({task})
        await rates.drain()


def _keys(limits: Sequence[RateLimit]) -> list[str]:
    """Return each scope's buckets and slots, all under the organisation's hash tag."""
    tag = f"trivet:{{{organisation(limits[0].scope)}}}:rate"
    return [f"{tag}:{limit.scope}:{part}" for limit in limits for part in ("buckets", "slots")]


def _sizes(limit: RateLimit) -> tuple[int, int, int]:
    requests, tokens = (
        -1 if size is None or size > LARGEST_SIZE else size
        for size in (limit.requests_per_minute, limit.tokens_per_minute)
    )
    return requests, tokens, -1 if limit.concurrent is None else limit.concurrent


def _gauge(limit: RateLimit, levels: Sequence[int]) -> Gauge:
    """Return what the server counts for one scope, as this process would count it."""
    requests, tokens, running = levels
    sizes = _sizes(limit)
    return Gauge(
        limit,
        Bucket(sizes[0], requests / _PART, 0) if sizes[0] >= 0 else None,
        Bucket(sizes[1], tokens / _PART, 0) if sizes[1] >= 0 else None,
        running,
    )
