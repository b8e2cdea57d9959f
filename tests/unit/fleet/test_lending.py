"""A lent transport is closed once, and not under the feet of whoever holds it."""

import asyncio

import aiohttp

from trivet.engines.relay import Relay
from trivet.fleet.lending import LentTransport


class CountingRelay(Relay):
    """A relay that counts how often it is closed."""

    closed = 0

    async def aclose(self) -> None:
        """Count, and close."""
        self.closed += 1
        await super().aclose()


def counting(session: aiohttp.ClientSession) -> tuple[CountingRelay, LentTransport]:
    """Return a relay to nowhere, and it as it is lent."""
    relay = CountingRelay("http://127.0.0.1:9", session=session)
    return relay, LentTransport(relay)


async def test_a_retired_transport_is_closed_when_its_last_attempt_ends(
    session: aiohttp.ClientSession,
) -> None:
    """Two attempts hold it; it is closed after the second, once, and a later close is nothing."""
    relay, lent = counting(session)
    closed = []
    with lent.held():
        with lent.held():
            retiring = asyncio.create_task(lent.retire())
            await asyncio.sleep(0)
            closed.append(relay.closed)
        await asyncio.sleep(0)
        closed.append(relay.closed)
    await retiring
    await lent.aclose()
    assert [*closed, relay.closed] == [0, 0, 1]


async def test_an_unused_transport_retires_at_once(session: aiohttp.ClientSession) -> None:
    """Nobody holds it, so nobody is waited for."""
    relay, lent = counting(session)
    await lent.retire()
    assert relay.closed == 1


async def test_a_recalled_transport_waits_for_nobody(session: aiohttp.ClientSession) -> None:
    """At the end it is closed although an attempt still holds it."""
    relay, lent = counting(session)
    with lent.held():
        lent.recall()
        await lent.retire()
        assert relay.closed == 1
    assert relay.closed == 1
