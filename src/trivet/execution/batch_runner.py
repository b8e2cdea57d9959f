"""Works off all batches that this process has claimed: behind other traffic, as long as Trivet runs.

One task claims, renews and gives lines out; each line runs in a task of its own. Nothing that fails ends the
one task: a store that does not answer is asked again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from trivet.batches import Batches, BatchWork, Claim, WaitingLine
from trivet.config.batch_settings import BatchSettings
from trivet.domain.clock import Clock
from trivet.domain.decisions import Offer
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import StoreError, TrivetError
from trivet.execution.batch_agenda import Agenda, Errand
from trivet.execution.batch_errand import Later, Moved, Runner, persisted
from trivet.fleet import Fleet
from trivet.storage.instants import ns_of

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 5.0
"""How often claims are renewed, and others' batches looked for."""
BUSY_POLL_S = 0.2
"""How soon to look again for a free place on an engine that others fill."""
PAGE_LINES = 32
STORE_PAUSE_S = 2.0
TIDY_EVERY_S = 60.0


class BatchRunner:
    """Works batches off while `run` runs; `close` it at the end, while engines and ledger are still there."""

    def __init__(
        self,
        doors: Batches,
        work: BatchWork,
        runner: Runner,
        fleet: Fleet,
        settings: BatchSettings,
        clock: Clock,
    ) -> None:
        self._work = work
        self._runner = runner
        self._fleet = fleet
        self._settings = settings
        self._clock = clock
        self._agenda = Agenda()
        self._claims: dict[str, Claim] = {}
        self._running: Counter[str] = Counter()
        """Lines that run, by deployment and by batch."""
        self._lines_running = 0
        self._widths: dict[str, float] = {}
        """By batch: how many of its lines its tenant's limits seem to allow at once."""
        self._pauses: dict[str, float] = {}
        """By batch or deployment: until when none of its lines is tried, in seconds of the loop's clock."""
        self._failures: dict[str, int] = {}
        self._planning: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._look_at_s = 0.0
        self._tidy_at_s = 0.0
        self._news = True
        doors.listen(self._hear)

    def stop(self) -> None:
        """Begin no further line; those that run may end."""
        self._stopping = True
        self._changed.set()

    @property
    def open_batches(self) -> int:
        """Return how many batches this process works off."""
        return len(self._claims)

    @property
    def waiting_lines(self) -> int:
        """Return how many of their lines wait."""
        return self._agenda.waiting()

    @property
    def running_lines(self) -> int:
        """Return how many run."""
        return self._lines_running

    async def run(self) -> None:
        """Work until cancelled; not even a fault of ours ends it."""
        while True:
            fault = (await asyncio.gather(self._work_on(), return_exceptions=True))[0]
            log.error("batch.fault", error=type(fault).__name__, exc_info=fault)
            self._news = True
            await asyncio.sleep(STORE_PAUSE_S)

    async def _work_on(self) -> None:
        while True:
            self._changed.clear()
            if self._news or self._now_s() >= self._look_at_s:
                try:
                    await self._look()
                except StoreError as error:
                    log.warning("batch.store_failed", error=str(error))
                    self._news = True
                    await asyncio.sleep(STORE_PAUSE_S)
                    continue
            self._give_out()
            wait_s = min(self._look_at_s, self._agenda.look_again_s or self._look_at_s) - self._now_s()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.01, wait_s))

    async def close(self) -> None:
        """End what runs, and let go of every batch, so that whoever is next goes on at once."""
        self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self._work.release()

    # Claims

    async def _look(self) -> None:
        heard, self._news = self._news, False
        self._look_at_s = self._now_s() + LOOK_EVERY_S
        if self._claims and (heard or self._work.shared):
            await self._renew()
        await self._end_late()
        if any(self._is_idle(batch_id) for batch_id in self._claims):
            await self._close_ended()
        # In a store that nobody shares, nothing waits that was not told of.
        if not self._stopping and (heard or self._work.shared) and await self._work.anything_waits():
            claims = [claim for claim in await self._work.claim() if claim.batch_id not in self._claims]
            if claims:
                await self._runner.refresh()
            for claim in claims:
                log.info("batch.claimed", batch_id=claim.batch_id, scope=claim.scope)
                self._claims[claim.batch_id] = claim
                self._planning.add(claim.batch_id)
                self._own(self._plan(claim))
        if self._now_s() >= self._tidy_at_s:
            self._tidy_at_s = self._now_s() + TIDY_EVERY_S
            while await self._work.anything_old():
                await self._work.remove_old()

    async def _renew(self) -> None:
        """Go on with what is still this process's; give out no lines of what was cancelled or lost."""
        statuses = await self._work.renew(list(self._claims))
        for batch_id in list(self._claims):
            if statuses.get(batch_id) != "in_progress":
                self._agenda.drop(batch_id)
            if batch_id not in statuses:
                self._forget(batch_id)

    async def _end_late(self) -> None:
        """Give up what has not begun of batches whose time is over."""
        late = [claim.batch_id for claim in self._claims.values() if self._left_s(claim) <= 0]
        if late:
            for batch_id in late:
                self._agenda.drop(batch_id)
            await self._work.expire(late)
            await self._close_ended()

    async def _close_ended(self) -> None:
        for batch_id in await self._work.close_ended():
            log.info("batch.ended", batch_id=batch_id)
            self._forget(batch_id)

    def _is_idle(self, batch_id: str) -> bool:
        """Tell whether no line of a batch runs or waits here: it has ended, unless the store knows better."""
        planned = batch_id not in self._planning
        return planned and not self._running[batch_id] and not self._agenda.waiting(batch_id)

    def _forget(self, batch_id: str) -> None:
        self._claims.pop(batch_id, None)
        self._pauses.pop(batch_id, None)
        self._failures.pop(batch_id, None)
        self._widths.pop(batch_id, None)

    # Decide all, then let the lines wait for what was chosen

    async def _plan(self, claim: Claim) -> None:
        """Decide every line of a batch before the first one is run; what cannot be served fails here."""
        try:
            await self._plan_all(claim)
        finally:
            self._planning.discard(claim.batch_id)

    async def _plan_all(self, claim: Claim) -> None:
        groups = {offer.deployment.known_as: offer.deployment.swap_group for offer in self._fleet.offers()}
        chosen: dict[int, str] = {}
        page = await self._page(claim, after=0)
        while page:
            decided: dict[int, str] = {}
            for line in page:
                try:
                    decided[line.number] = self._runner.decide(claim, line).deployment.known_as
                except TrivetError as error:
                    await self._runner.fail(line.batch_id, line.number, error)
                await asyncio.sleep(0)  # requests of others come between
            await self._choose(claim.batch_id, decided)
            chosen |= decided
            page = await self._page(claim, after=page[-1].number)
        for number, name in chosen.items():
            self._agenda.add(claim.batch_id, number, name, groups[name])
        if not chosen:
            await persisted(self._close_ended)
        self._changed.set()

    async def _page(self, claim: Claim, *, after: int) -> list[WaitingLine]:
        return await persisted(lambda: self._work.waiting(claim.batch_id, after=after, most=PAGE_LINES))

    async def _choose(self, batch_id: str, chosen: dict[int, str]) -> None:
        await persisted(lambda: self._work.choose(batch_id, chosen))

    # Lines

    def _give_out(self) -> None:
        while not self._stopping and self.running_lines < self._settings.concurrency:
            offers = self._fleet.offers()
            resident = {
                offer.deployment.swap_group: offer.deployment.known_as
                for offer in offers
                if offer.deployment.swap_group is not None and offer.state == EngineState.READY
            }
            places = _places(offers)
            errand = self._agenda.next(partial(self._due_s, places), resident, self._now_s())
            if errand is None:
                return
            self._lines_running += 1
            self._running.update((errand.deployment, errand.batch_id))
            self._own(self._work_off(errand))

    def _due_s(self, places: Mapping[str, tuple[int, int]], deployment: str, batch_id: str) -> float:
        """Return when a line may be tried: after its pauses, and while its engine has a free place."""
        paused_s = max(self._pauses.get(deployment, 0.0), self._pauses.get(batch_id, 0.0))
        if self._running[batch_id] >= self._widths.get(batch_id, self._settings.concurrency):
            return float("inf")
        in_flight, slots = places.get(deployment, (0, 1))
        # Its own lines are among those in flight, but for those that are on their way there.
        if max(in_flight, self._running[deployment]) >= slots:
            return max(paused_s, self._now_s() + BUSY_POLL_S)
        return paused_s

    async def _work_off(self, errand: Errand) -> None:
        claim = self._claims.get(errand.batch_id)
        try:
            if claim is not None:
                await self._run(claim, errand)
        finally:
            self._agenda.ended(errand)
            self._lines_running -= 1
            self._running.subtract((errand.deployment, errand.batch_id))
            self._running += Counter()  # forget what is zero
            self._changed.set()

    async def _run(self, claim: Claim, errand: Errand) -> None:
        failures = max(self._failures.get(errand.batch_id, 0), self._failures.get(errand.deployment, 0))
        running = self._runner.run(claim, errand, left_s=self._left_s(claim), failures=failures)
        outcome = (await asyncio.gather(running, return_exceptions=True))[0]
        if isinstance(outcome, Moved):
            await self._choose(errand.batch_id, {errand.number: outcome.deployment})
            self._agenda.add(errand.batch_id, errand.number, outcome.deployment, outcome.group)
        elif isinstance(outcome, Later):
            self._wait(errand, outcome)
            self._agenda.add(errand.batch_id, errand.number, errand.deployment, errand.group)
        elif isinstance(outcome, BaseException):
            # Not its text, which may hold a prompt.
            kind = type(outcome).__name__
            log.error("batch.fault", batch_id=errand.batch_id, line=errand.number, error=kind)
            error = TrivetError("Trivet failed; its log says more.")
            await self._runner.fail(errand.batch_id, errand.number, error)
        elif outcome:
            self._failures.pop(errand.batch_id, None)
            self._failures.pop(errand.deployment, None)
            if errand.batch_id in self._widths:
                self._widths[errand.batch_id] += 1.0 / self._widths[errand.batch_id]
        if not self._agenda.waiting(errand.batch_id):
            await persisted(self._close_ended)

    def _wait(self, errand: Errand, later: Later) -> None:
        """Have the batch, or all lines for the deployment, wait; or let fewer lines of the batch run at once.

        A limit that other lines of the same batch have filled is free again when one of them ends.
        """
        others = self._running[errand.batch_id] - 1
        if later.whole_batch and others > 0:
            self._widths[errand.batch_id] = float(others)
            return
        key = errand.batch_id if later.whole_batch else errand.deployment
        self._pauses[key] = self._now_s() + later.wait_s
        self._failures[key] = self._failures.get(key, 0) + 1
        log.info("batch.waits", batch_id=errand.batch_id, wait_s=round(later.wait_s, 1), what=key)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("batch.fault", error=type(fault).__name__, exc_info=fault)

    def _hear(self) -> None:
        self._news = True
        self._changed.set()

    def _left_s(self, claim: Claim) -> float:
        return (claim.deadline_ns - ns_of(self._clock.now())) / 1e9

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _places(offers: Sequence[Offer]) -> dict[str, tuple[int, int]]:
    """Return by deployment, all its endpoints together, how many requests it has and how many run at once."""
    found: dict[str, tuple[int, int]] = {}
    for offer in offers:
        in_flight, slots = found.get(offer.deployment.known_as, (0, 0))
        found[offer.deployment.known_as] = (in_flight + offer.in_flight, slots + offer.deployment.slots)
    return found
