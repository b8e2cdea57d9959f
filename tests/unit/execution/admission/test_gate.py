"""The gate, on a virtual clock: no place is lost or given twice, nobody starves, refusals are honest."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from trivet.config.admission_settings import AdmissionSettings
from trivet.domain.budgets import Priority
from trivet.domain.errors import Overloaded
from trivet.domain.scopes import Scope
from trivet.execution.admission import Claim, Gate
from trivet.lab.virtual_time import LoopClock, run
from trivet.metering import Metrics


def claim(priority: Priority = "interactive", scope: str = "acme", work: int = 100) -> Claim:
    """Return what a request asks."""
    return Claim(scope=Scope(scope), priority=priority, work=work)


def gate(slots: int = 2, **settings: Any) -> Gate:
    """Return a gate before an engine with so many slots."""
    return Gate(
        "engine",
        seed=slots,
        ceiling=slots,
        settings=AdmissionSettings(**settings),
        clock=LoopClock(),
        waits=Metrics().queue_wait,
    )


@dataclass
class World:
    """An engine that takes a second per request, whatever it is; and what became of the requests."""

    door: Gate
    runs_s: float = 1.0
    running: int = 0
    most: int = 0
    waits_s: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, list[Overloaded]] = field(default_factory=dict)

    async def ask(self, asked: Claim, *, left_s: float = 300.0) -> None:
        """Go through the gate and through the engine."""
        loop = asyncio.get_running_loop()
        name, came_s = f"{asked.priority}/{asked.scope}", loop.time()
        try:
            ticket = self.door.take(asked) or await self.door.queue(asked, left_s=left_s)
        except Overloaded as refusal:
            self.refused.setdefault(name, []).append(refusal)
            return
        try:
            self.waits_s.setdefault(name, []).append(loop.time() - came_s)
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(self.runs_s)
            ticket.answered(ticket.since_ns, ticket.since_ns + 1)
        finally:
            self.running -= 1
            ticket.release()
            ticket.release()

    def idle(self) -> bool:
        """Tell whether nothing is left: no place taken, nobody waiting."""
        return (self.door.in_flight, self.door.queued, self.running) == (0, 0, 0)


def simulate(work: Callable[[], Awaitable[None]]) -> None:
    """Run on the virtual clock."""

    async def all_of_it() -> None:
        await work()

    run(all_of_it())


def test_no_more_run_than_the_limit_and_all_get_through() -> None:
    """Twenty at two places: in order of arrival, two at a time."""

    async def work() -> None:
        world = World(gate(2))
        await asyncio.gather(*(world.ask(claim()) for _ in range(20)))
        assert (world.most, len(world.waits_s["interactive/acme"]), world.idle()) == (2, 20, True)
        assert world.waits_s["interactive/acme"] == [float(index // 2) for index in range(20)]
        assert world.door.queued_most == 18

    simulate(work)


def test_the_wait_is_foretold_by_what_was_measured() -> None:
    """Once the pace is known a request that would wait too long is refused at once, with the true wait."""

    async def work() -> None:
        world = World(gate(2, max_wait_s=5.0))
        await asyncio.gather(*(world.ask(claim()) for _ in range(4)))
        began_s = asyncio.get_running_loop().time()
        asking = [asyncio.create_task(world.ask(claim())) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = world.refused["interactive/acme"]
        at_once = len(refused), asyncio.get_running_loop().time() - began_s
        await asyncio.gather(*asking)
        served = len(world.waits_s["interactive/acme"]) - 4
        assert at_once == (40 - served, 0.0)
        assert 10 <= served <= 13
        assert max(world.waits_s["interactive/acme"]) <= 5.0
        waits = [refusal.retry_after_s for refusal in refused]
        assert all(wait_s is not None and 5.0 <= wait_s <= 6.5 for wait_s in waits)
        assert world.door.shed["interactive"] == len(refused)

    simulate(work)


def test_who_waited_in_vain_is_refused_when_its_time_is_over() -> None:
    """Before anything was measured nobody can foretell: the wait itself is bounded, by the deadline too."""

    async def work() -> None:
        world = World(gate(1, max_wait_s=10.0), runs_s=100.0)
        hog = asyncio.create_task(world.ask(claim()))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        for left_s, expected_s in ((300.0, 15.0), (3.0, 3.0)):
            began_s = loop.time()
            await world.ask(claim(), left_s=left_s)
            assert loop.time() - began_s == pytest.approx(expected_s)
        assert len(world.refused["interactive/acme"]) == 2
        await hog
        assert world.idle()

    simulate(work)


def test_critical_requests_come_first_and_have_places_of_their_own() -> None:
    """With critical traffic a fifth is kept free for it; a critical request never waits for the queue."""

    async def work() -> None:
        world = World(gate(10, max_wait_s=1000.0))
        await asyncio.gather(*(world.ask(claim("critical")) for _ in range(3)))
        asking = [asyncio.create_task(world.ask(claim())) for _ in range(100)]
        await asyncio.sleep(0)
        busy = world.door.in_flight
        await asyncio.sleep(0.5)
        await asyncio.gather(*(world.ask(claim("critical")) for _ in range(2)))
        # One more than the reserve: it gets the next place of anybody's.
        more = [asyncio.create_task(world.ask(claim("critical"))) for _ in range(3)]
        await asyncio.gather(*more, *asking)
        assert busy == 8
        assert max(world.waits_s["critical/acme"]) <= 0.5
        assert world.idle()

    simulate(work)


def test_without_critical_traffic_nothing_is_kept_free() -> None:
    """The reserve follows the demand: of an engine without critical requests every place is used."""

    async def work() -> None:
        world = World(gate(10))
        first = [asyncio.create_task(world.ask(claim())) for _ in range(20)]
        await asyncio.sleep(0)
        before = world.door.in_flight
        await world.ask(claim("critical"))
        await asyncio.gather(*first)
        kept = world.door.as_json()["reserved"]
        await asyncio.sleep(121.0)
        assert (before, kept, world.door.as_json()["reserved"]) == (10, 1, 0)

    simulate(work)


def test_batch_waits_for_the_others_but_does_not_starve() -> None:
    """Under steady interactive load batch gets a place in sixteen."""

    async def work() -> None:
        world = World(gate(1, max_wait_s=1000.0, batch_max_wait_s=1000.0))
        order: list[str] = []

        async def ask(priority: Priority) -> None:
            ticket = world.door.take(claim(priority)) or await world.door.queue(claim(priority), left_s=1e9)
            order.append(priority)
            await asyncio.sleep(1.0)
            ticket.release()

        batch = [asyncio.create_task(ask("batch")) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.gather(*(ask("interactive") for _ in range(60)), *batch)
        assert [index for index, name in enumerate(order) if name == "batch"] == [0, 16, 32, 48]

    simulate(work)


def test_the_wait_of_what_is_overtaken_is_foretold_too() -> None:
    """Batch under more interactive load than there is room for: those who are let in get through in time."""

    async def work() -> None:
        world = World(gate(4, max_wait_s=5.0, batch_max_wait_s=40.0))
        await asyncio.gather(*(world.ask(claim()) for _ in range(8)))
        asking = []
        for _ in range(200):
            asking += [asyncio.create_task(world.ask(claim())) for _ in range(6)]
            asking += [asyncio.create_task(world.ask(claim("batch", "bulk"))) for _ in range(3)]
            await asyncio.sleep(1.0)
        await asyncio.gather(*asking)
        waits = world.waits_s["batch/bulk"]
        refused = world.refused["batch/bulk"]
        assert len(waits) >= 0.9 * 200 * 4 / 16
        assert max(waits) <= 60.0
        # But for those who came before batch was first overtaken, it was known at once.
        assert len([each for each in refused if (each.retry_after_s or 0.0) < 35.0]) <= 10
        assert world.door.queued_most <= 4 * 5 + 4 * 40 // 16 + 10

    simulate(work)


def test_a_full_queue_sends_the_newest_batch_away_first() -> None:
    """Urgent requests find room; then who has most waiting gives way; else the newcomer is refused."""

    async def work() -> None:
        world = World(gate(1, max_queued=3))
        asking = [asyncio.create_task(world.ask(claim()))]
        await asyncio.sleep(0)
        asking += [asyncio.create_task(world.ask(claim("batch", scope))) for scope in ("a", "b", "c")]
        await asyncio.sleep(0)
        asking += [asyncio.create_task(world.ask(claim("interactive", "a"))) for _ in range(3)]
        await asyncio.sleep(0)
        assert world.door.queued_by_priority() == {"batch": 0, "interactive": 3, "critical": 0}
        asking += [asyncio.create_task(world.ask(claim("interactive", "b")))]
        await asyncio.sleep(0)
        await world.ask(claim("interactive", "a"))
        await world.ask(claim("batch", "d"))
        await asyncio.gather(*asking)
        refused = {name: len(those) for name, those in world.refused.items()}
        assert refused == {"batch/a": 1, "batch/b": 1, "batch/c": 1, "batch/d": 1, "interactive/a": 2}
        assert world.idle()

    simulate(work)


def test_a_flood_of_one_tenant_sheds_only_its_own() -> None:
    """The other tenant's requests are let through within about one turn, and none is refused."""

    async def work() -> None:
        world = World(gate(4, max_wait_s=5.0))
        await asyncio.gather(*(world.ask(claim()) for _ in range(8)))
        asking = []
        for second in range(30):
            asking += [asyncio.create_task(world.ask(claim(scope="flood.bot"))) for _ in range(20)]
            if second % 2:
                asking.append(asyncio.create_task(world.ask(claim(scope="calm"))))
            await asyncio.sleep(1.0)
        await asyncio.gather(*asking)
        assert len(world.refused["interactive/flood.bot"]) > 400
        assert "interactive/calm" not in world.refused
        assert len(world.waits_s["interactive/calm"]) == 15
        assert max(world.waits_s["interactive/calm"]) <= 1.0
        assert max(world.waits_s["interactive/flood.bot"]) <= 6.0

    simulate(work)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_leaves_at_whatever_moment_loses_no_place(seed: int) -> None:
    """Clients that leave while they wait, as their turn comes, while they run: in the end all is free."""

    async def work() -> None:
        dice = random.Random(seed)
        world = World(gate(3, max_wait_s=20.0, batch_max_wait_s=20.0, max_queued=30))
        loop = asyncio.get_running_loop()
        asking = []
        for _ in range(200):
            priority: Priority = dice.choice(("critical", "interactive", "batch"))
            asked = claim(priority, dice.choice("abc"), dice.randint(1, 500))
            task = asyncio.create_task(world.ask(asked, left_s=dice.choice((0.5, 3.0, 300.0))))
            if dice.random() < 0.5:
                # On the same ticks as the turns come, and in between.
                loop.call_later(dice.choice((0.0, 0.5, 1.0, 2.0, 3.0)), task.cancel)
            asking.append(task)
            if dice.random() < 0.5:
                await asyncio.sleep(dice.choice((0.0, 0.25, 0.5)))
        await asyncio.gather(*asking, return_exceptions=True)
        assert world.most <= 3
        assert world.idle()
        assert sum(world.door.queued_by_priority().values()) == 0
        # Every place can still be had.
        tickets = [world.door.take(claim("critical")) for _ in range(4)]
        assert [ticket is not None for ticket in tickets] == [True, True, True, False]

    simulate(work)


def test_a_turn_that_comes_as_its_request_leaves_goes_to_the_next() -> None:
    """Cancelled in the very step in which the place was given: it is given back, and on."""

    async def work() -> None:
        door = gate(1)
        first = door.take(claim())
        assert first is not None
        leaving = asyncio.create_task(door.queue(claim(), left_s=60.0))
        staying = asyncio.create_task(door.queue(claim(), left_s=60.0))
        await asyncio.sleep(0)
        first.release()
        leaving.cancel()
        ticket = await staying
        assert leaving.cancelled()
        assert door.in_flight == 1
        ticket.release()
        assert door.in_flight == 0

    simulate(work)


def test_fair_shares_under_steady_overload() -> None:
    """Three tenants that ask for as much as they like get equal shares, whatever their pushing."""

    async def work() -> None:
        world = World(gate(4, max_wait_s=4.0))
        await asyncio.gather(*(world.ask(claim()) for _ in range(8)))
        world.waits_s.clear()
        asking = []
        for _ in range(60):
            for scope, pushes in (("a", 12), ("b", 4), ("c", 30)):
                asking += [asyncio.create_task(world.ask(claim(scope=scope))) for _ in range(pushes)]
            await asyncio.sleep(1.0)
        await asyncio.gather(*asking)
        served = Counter({name: len(waits) for name, waits in world.waits_s.items()})
        assert sum(served.values()) >= 0.95 * 4 * 60
        assert max(served.values()) - min(served.values()) <= 0.15 * max(served.values())

    simulate(work)


def test_switched_off_it_counts_only() -> None:
    """Everything goes through at once."""

    async def work() -> None:
        door = gate(1, enabled=False)
        tickets = [door.take(claim("batch")) for _ in range(50)]
        assert None not in tickets
        assert door.in_flight == 50

    simulate(work)
