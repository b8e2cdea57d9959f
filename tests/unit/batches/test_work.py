"""Who works off a batch, and what becomes of its lines, on either store."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.doubles.shared_store import SharedStore
from trivet.batches import Batches, BatchWork, Ending, LineOrder
from trivet.domain.budgets import Idempotency
from trivet.domain.clock import ManualClock
from trivet.domain.errors import IdempotencyMismatch
from trivet.domain.scopes import Scope
from trivet.storage import Database

ACME = Scope("acme.search")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give an empty store of either kind."""
    if request.param == "sqlite":
        opened: Database = Database.open(None)
    else:
        shared: SharedStore = request.getfixturevalue("shared_store")
        opened = shared.emptied()
    with opened:
        yield opened


class Desk:
    """Batches in a store, and processes that work them off."""

    def __init__(self, database: Database) -> None:
        self.clock = ManualClock()
        self.batches = Batches(database, self.clock, kept_for=timedelta(hours=1))

    def process(self, name: str) -> BatchWork:
        """Return a process."""
        return BatchWork(self.batches, self.clock, runner=name, max_tries=2)

    async def submit(self, lines: int = 3, key: Idempotency | None = None) -> str:
        """Submit a batch and return its id."""
        orders = [
            LineOrder(number=n, custom_id=f"id-{n}", url="/v1/chat/completions", body='{"a": 1}')
            for n in range(1, lines + 1)
        ]
        deadline_at = self.clock.now() + timedelta(hours=1)
        batch = await self.batches.submit(
            orders, scope=ACME, key_id="k", label="", deadline_at=deadline_at, idempotency=key
        )
        return batch.batch_id

    async def counts(self, batch_id: str) -> tuple[str, dict[str, int]]:
        """Return a batch's status and its lines by state."""
        found = await self.batches.find(batch_id)
        assert found is not None
        return found.status, dict(found.counts)


@pytest.fixture
def desk(database: Database) -> Desk:
    """Give a desk on the store."""
    return Desk(database)


def answered(batch_id: str, number: int, text: str = "{}", *, completed: bool = True) -> Ending:
    """Return the end of a line."""
    return Ending(
        batch_id=batch_id,
        number=number,
        completed=completed,
        status_code=200 if completed else 502,
        answer=text,
        deployment="light",
        request_id="r",
    )


async def test_a_batch_is_worked_off(desk: Desk) -> None:
    """It is claimed once, each line begins once, and it has ended when all of them have."""
    batch_id, work = await desk.submit(), desk.process("one")
    assert [claim.batch_id for claim in await work.claim()] == [batch_id]
    assert not await work.anything_waits()
    await work.choose(batch_id, {1: "light", 2: "light", 3: "heavy"})
    for number in (1, 2, 3):
        line = await work.line(batch_id, number)
        assert line is not None
        assert (await work.begin(line, request_id="r"), await work.begin(line, request_id="r")) == (
            True,
            False,
        )
        assert await work.close_ended() == []
        await work.end(answered(batch_id, number, completed=number != 2))
    assert await work.close_ended() == [batch_id]
    assert await desk.counts(batch_id) == ("completed", {"completed": 2, "failed": 1})
    found = await desk.batches.results(batch_id, after=0, most=10)
    assert [(result.number, result.status_code) for result in found] == [(1, 200), (2, 502), (3, 200)]


async def test_a_key_stands_for_one_batch(desk: Desk) -> None:
    """Sent again it is the same batch; with another content, or of another scope, it is not."""
    first = await desk.submit(key=Idempotency("k", "print"))
    assert await desk.submit(key=Idempotency("k", "print")) == first
    with pytest.raises(IdempotencyMismatch):
        await desk.submit(key=Idempotency("k", "other"))
    assert await desk.submit(key=Idempotency("k2", "print")) != first
    assert len(await desk.batches.of(None, most=9)) == 2
    assert (await desk.counts(first))[1] == {"waiting": 3}


async def test_the_first_end_counts(desk: Desk) -> None:
    """An answer that arrived, and was charged, is not replaced by what comes later."""
    batch_id, work = await desk.submit(1), desk.process("one")
    await work.claim()
    await work.end(answered(batch_id, 1, '{"first": true}'))
    await work.end(answered(batch_id, 1, '{"second": true}', completed=False))
    (found,) = await desk.batches.results(batch_id, after=0, most=10)
    assert (found.answer, found.status_code) == ('{"first": true}', 200)


async def test_what_a_dead_process_ran_is_run_again_but_not_for_ever(desk: Desk) -> None:
    """Its lease ends, another claims; a line that was begun as often as it may be has failed."""
    batch_id = await desk.submit(2)
    for name in ("one", "two", "three"):
        work = desk.process(name)
        if desk.batches.database.shared and name != "one":
            assert await work.claim() == []
            desk.clock.advance(31)
        assert len(await work.claim()) == 1
        line = await work.line(batch_id, 1)
        if line is not None:
            assert await work.begin(line, request_id=name)
    assert (await desk.counts(batch_id))[1] == {"failed": 1, "waiting": 1}
    (found,) = await desk.batches.results(batch_id, after=0, most=10)
    assert (found.status_code, "batch_interrupted" in found.answer) == (None, True)


async def test_a_process_that_lost_its_batch_begins_no_line(desk: Desk) -> None:
    """It learns of that when it renews; an answer that it still gets is kept."""
    if not desk.batches.database.shared:
        return
    batch_id, one, two = await desk.submit(2), desk.process("one"), desk.process("two")
    await one.claim()
    line = await one.line(batch_id, 1)
    assert line is not None
    assert await one.begin(line, request_id="r")
    desk.clock.advance(31)
    assert len(await two.claim()) == 1
    assert await one.renew([batch_id]) == {}
    assert await one.begin(line, request_id="r") is False
    await one.end(answered(batch_id, 1))
    assert await two.line(batch_id, 1) is None
    assert await two.renew([batch_id]) == {batch_id: "in_progress"}


async def test_two_processes_claim_at_once(desk: Desk) -> None:
    """Each batch has one of them."""
    if not desk.batches.database.shared:
        return
    batch_ids = {await desk.submit(1) for _ in range(6)}
    claims = await asyncio.gather(*(desk.process(str(n)).claim() for n in range(4)))
    got = [claim.batch_id for each in claims for claim in each]
    assert sorted(got) == sorted(batch_ids)


async def test_letting_go_lets_others_go_on_at_once(desk: Desk) -> None:
    """What ran waits again; the next process need not wait for a lease to end."""
    batch_id, one, two = await desk.submit(2), desk.process("one"), desk.process("two")
    await one.claim()
    line = await one.line(batch_id, 1)
    assert line is not None
    await one.begin(line, request_id="r")
    await one.release()
    assert len(await two.claim()) == 1
    assert (await desk.counts(batch_id))[1] == {"waiting": 2}


async def test_cancelling_while_a_line_runs(desk: Desk) -> None:
    """What waits is given up, what runs may end; put back it does not wait again."""
    batch_id, work = await desk.submit(3), desk.process("one")
    await work.claim()
    lines = [await work.line(batch_id, number) for number in (1, 2)]
    for line in lines:
        assert line is not None
        await work.begin(line, request_id="r")
    await desk.batches.cancel(batch_id)
    assert await desk.counts(batch_id) == ("cancelling", {"in_progress": 2, "abandoned": 1})
    assert await work.renew([batch_id]) == {batch_id: "cancelling"}
    await work.end(answered(batch_id, 1))
    assert lines[1] is not None
    await work.put_back(lines[1], counts=False)
    assert await work.close_ended() == [batch_id]
    assert await desk.counts(batch_id) == ("cancelled", {"completed": 1, "abandoned": 2})
    await desk.batches.cancel(batch_id)
    assert (await desk.counts(batch_id))[0] == "cancelled"


async def test_a_late_batch_expires_and_an_old_one_is_removed(desk: Desk) -> None:
    """What has not begun in time is given up; some time after its end nothing of a batch is left."""
    batch_id, work = await desk.submit(2), desk.process("one")
    await work.claim()
    await work.end(answered(batch_id, 1))
    await work.expire([batch_id])
    assert await work.close_ended() == [batch_id]
    assert await desk.counts(batch_id) == ("expired", {"completed": 1, "abandoned": 1})
    assert not await work.anything_old()
    desk.clock.advance(3601)
    assert await work.anything_old()
    assert await work.remove_old() == 1
    assert await desk.batches.find(batch_id) is None
    assert await desk.batches.results(batch_id, after=0, most=10) == []


async def test_scopes_see_their_own(desk: Desk) -> None:
    """A scope's batches are its own and those below it, not those of one whose name begins alike."""
    await desk.submit()
    seen = {
        name: len(await desk.batches.of(Scope(name), most=9)) for name in ("acme", "acme.search", "acme.sea")
    }
    assert seen == {"acme": 1, "acme.search": 1, "acme.sea": 0}
    assert len(await desk.batches.of(None, most=9)) == 1
